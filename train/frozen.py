"""What the frozen networks make of frames: posteriors of the autoencoder and appearance tokens.

Computed once for a whole data set and kept beside it, or batch by batch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.checkpoint.parameters import flatten
from anchor_jax.compiling import jit
from anchor_jax.data.dataset import Dataset, decode
from anchor_jax.data.encodings import Encodings
from anchor_jax.face import mask
from anchor_jax.generation.networks import clip_pixels, encode_pixels
from anchor_jax.models import VAEConfig, apply
from anchor_jax.progress import bars
from anchor_jax.shapes import Params
from anchor_jax.training.sharding import any_process

BATCH = 4  # frames encoded together
NETWORKS = ("vae", "image_encoder")  # their names on disk


@dataclass(frozen=True)
class StagePictures:
    """Which pictures of a data set a stage trains on.

    Attributes:
        target: the picture to generate.
        pose: its pose image.
        matte: cuts the background away, from targets and references, where it is named.
        mask: of the face: 255 keeps, 0 is repainted.
        background: grey level behind the person.
    """

    target: str = "target"
    pose: str = "pose"
    matte: str | None = None
    mask: str | None = None
    background: int = 0

    @property
    def reference(self) -> str:
        return {"target": "reference", "face": "face_reference"}[self.target]

    def composed(self, picture: np.ndarray, matte: np.ndarray | None) -> np.ndarray:
        """The picture as it is trained on, uint8 (h, w, 3)."""
        if matte is None:
            return picture
        share = matte[..., None].astype(np.float32) / 255
        return np.round(share * picture + (1 - share) * self.background).astype(np.uint8)


class Encoder:
    """The frozen networks of an anchor."""

    def __init__(self, anchor: Anchor, pictures: StagePictures):
        self.vae, self.image_encoder = anchor.vae, anchor.image_encoder
        self.pictures = pictures

    def posterior(self, images: np.ndarray) -> jax.Array:
        """Mean and log-variance (b, h, w, 2c) of images uint8 (b, H, W, 3)."""
        return _posterior(self.vae.config, self.vae.params, images / np.float32(127.5) - 1)

    def masked_posterior(self, images: np.ndarray, masks: np.ndarray) -> jax.Array:
        """The same with everything to be repainted at mid-grey."""
        masked = mask.masked_images(images, keep_mask(masks))
        return _posterior(self.vae.config, self.vae.params, masked)

    def tokens(self, images: np.ndarray) -> jax.Array:
        """Appearance tokens (b, s, d) of images uint8 (b, H, W, 3)."""
        config = self.image_encoder.config
        pixels = np.concatenate([clip_pixels(x, config.image_size) for x in images])
        return encode_pixels(config, self.image_encoder.params, pixels)

    def encode(self, target, reference, mask=None) -> dict[str, jax.Array]:
        """All that a step needs of these pictures."""
        arrays = {"posterior": self.posterior(target), "tokens": self.tokens(reference)}
        if mask is not None:
            arrays["masked_posterior"] = self.masked_posterior(target, mask)
        return arrays

    def key(self, dataset: Dataset) -> str:
        """Of everything that decides what is cached of a data set."""
        digest = hashlib.sha256()
        digest.update(repr((dataset.inputs, asdict(self.pictures))).encode())
        for clip in dataset.clips:
            digest.update(clip.sha256.encode())
        configs = self.vae.config, self.image_encoder.config
        for network in (self.vae, self.image_encoder):
            digest.update(repr(configs).encode())
            for path, leaf in flatten(network.params).items():
                digest.update("/".join(path).encode())
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def keep_mask(masks: np.ndarray) -> np.ndarray:
    """Stored masks uint8 (b, H, W) as `face.mask` has them: float32 (b, H, W, 1), 1 keeps."""
    return (masks > 127).astype(np.float32)[..., None]


class Cached:
    """What is cached for an example: of its frame, and of its reference the tokens."""

    def __init__(self, encodings: Encodings):
        self.encodings = encodings

    def __call__(self, frame: int, reference: int) -> dict[str, np.ndarray]:
        return {
            name: self.encodings.read(name, reference if name == "tokens" else frame)
            for name in self.encodings.shapes
        }


def cache(
    encoder: Encoder, dataset: Dataset, folder: Path | None, *, progress: bool = True
) -> Encodings:
    """Encode every frame that is not encoded yet; a killed pass goes on where it was. Several
    processes share the clips.

    Raises:
        AnchorError: the folder cannot be written, or the disk is full.
    """
    width, height = dataset.pictures[encoder.pictures.target]
    vae, images = encoder.vae.config, encoder.image_encoder.config
    latent = height // vae.factor, width // vae.factor, 2 * vae.latent_channels
    shapes: dict[str, tuple[int, ...]] = {
        "posterior": latent,
        "tokens": (images.num_tokens, images.width),
    }
    if encoder.pictures.mask is not None:
        shapes["masked_posterior"] = latent
    encodings = Encodings(dataset, encoder.key(dataset), shapes, folder)
    missing, count = encodings.missing(), jax.process_count()
    if any_process(bool(missing)):
        encodings.make_folder()
        _encode(encoder, dataset, encodings, missing[jax.process_index() :: count], progress)
        any_process(False)  # they wait for each other
        _encode(
            encoder, dataset, encodings, encodings.missing(), progress
        )  # in folders of their own
    return encodings


def _encode(
    encoder: Encoder, dataset: Dataset, encodings: Encodings, missing: list[int], progress: bool
) -> None:
    total = sum(dataset.clips[clip].frames for clip in missing)
    with bars(progress and total > 0)("encoding", total, "frame") as advance:
        source = dataset.source()
        for clip in missing:
            parts = []
            for start in range(dataset.starts[clip], dataset.starts[clip + 1], BATCH):
                numbers = range(start, min(start + BATCH, dataset.starts[clip + 1]))
                parts.append(_encode_frames(encoder, [source[i] for i in numbers]))
                advance(len(numbers))
            names = encodings.shapes
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
            encodings.write(clip, arrays)


def _encode_frames(encoder: Encoder, frames: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Of a few frames, always computed as `BATCH` of them."""
    pictures, count = encoder.pictures, len(frames)
    frames = [*frames, *[frames[-1]] * (BATCH - count)]

    def read(name: str | None) -> list[Any]:
        return [None if name is None else decode(name, frame[name]) for frame in frames]

    pairs = zip(read(pictures.target), read(pictures.matte), strict=True)
    images = np.stack([pictures.composed(picture, matte) for picture, matte in pairs])
    masks = None if pictures.mask is None else np.stack(read(pictures.mask))
    arrays = encoder.encode(images, images, masks)
    return {name: np.asarray(array)[:count] for name, array in arrays.items()}


@partial(jit, static_argnums=0)
def _posterior(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    return jnp.concatenate(apply(config, params, images, method="encode"), -1)
