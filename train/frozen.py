"""Encode frames with the frozen networks: posteriors of the autoencoder and appearance tokens.

They are computed once for a whole data set and cached beside it, or for each batch.
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
from anchor_jax.compiling import jit, matmul_precision
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
    """The pictures of a data set that a stage is trained on, by their names.

    Attributes:
        target: the picture to generate.
        pose: its pose image.
        matte: the matte that removes the background of target and reference, or None.
        mask: the mask of the face (255 keeps, 0 is repainted), or None.
        background: grey level behind the person, 0 to 255.
    """

    target: str = "target"
    pose: str = "pose"
    matte: str | None = None
    mask: str | None = None
    background: int = 0

    @property
    def reference(self) -> str:
        """The picture that gives the appearance."""
        return {"target": "reference", "face": "face_reference"}[self.target]

    def composed(self, picture: np.ndarray, matte: np.ndarray | None) -> np.ndarray:
        """Replace the background of a picture.

        Args:
            picture: uint8 (h, w, 3).
            matte: uint8 (h, w), 255 on the person; None keeps the picture.
        """
        if matte is None:
            return picture
        share = matte[..., None].astype(np.float32) / 255
        return np.round(share * picture + (1 - share) * self.background).astype(np.uint8)


class Encoder:
    """Encodes pictures with the frozen networks of an anchor.

    Args:
        anchor: the anchor, with the parameters of autoencoder and image encoder.
        pictures: the pictures of the stage.
        tf32: let GPUs round the factors of products to TF32.
    """

    def __init__(self, anchor: Anchor, pictures: StagePictures, tf32: bool = False):
        self.vae, self.image_encoder = anchor.vae, anchor.image_encoder
        self.pictures, self.tf32 = pictures, tf32

    def posterior(self, images: np.ndarray) -> jax.Array:
        """Compute mean and log-variance (b, h, w, 2c) of images uint8 (b, H, W, 3)."""
        return _posterior(self.vae.config, self.vae.params, images / np.float32(127.5) - 1)

    def masked_posterior(self, images: np.ndarray, masks: np.ndarray) -> jax.Array:
        """Compute the posterior of images whose region to repaint is mid-grey; masks (b, H, W)."""
        masked = mask.masked_images(images, keep_mask(masks))
        return _posterior(self.vae.config, self.vae.params, masked)

    def tokens(self, images: np.ndarray) -> jax.Array:
        """Compute appearance tokens (b, s, d) of images uint8 (b, H, W, 3)."""
        config = self.image_encoder.config
        pixels = np.concatenate([clip_pixels(x, config.image_size) for x in images])
        return encode_pixels(config, self.image_encoder.params, pixels)

    def encode(self, target, reference, mask=None) -> dict[str, jax.Array]:
        """Encode targets, references and, for the face, masks: the inputs of a training step."""
        with matmul_precision("float32", self.tf32):
            arrays = {"posterior": self.posterior(target), "tokens": self.tokens(reference)}
            if mask is not None:
                arrays["masked_posterior"] = self.masked_posterior(target, mask)
        return arrays

    def key(self, dataset: Dataset) -> str:
        """Compute a SHA-256 hash of everything that determines the encodings of a data set."""
        digest = hashlib.sha256()
        digest.update(repr((dataset.inputs, asdict(self.pictures))).encode())
        digest.update(b"tf32" if self.tf32 else b"")
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
    """Convert stored masks uint8 (b, H, W) to float32 (b, H, W, 1), 1 keeps, as in `face.mask`."""
    return (masks > 127).astype(np.float32)[..., None]


class Cached:
    """Reads the cached encodings of an example: its frame, and the tokens of its reference."""

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
    """Encode all frames that have no cached encodings. Several processes share the clips.

    Args:
        encoder: the frozen networks.
        dataset: the data set.
        folder: folder of the cache; None takes one in the data set.
        progress: show a progress bar.

    Returns:
        The encodings of all frames.

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
        any_process(False)  # wait for the other processes
        # Processes without a common folder encode the rest themselves.
        _encode(encoder, dataset, encodings, encodings.missing(), progress)
    return encodings


def _encode(
    encoder: Encoder, dataset: Dataset, encodings: Encodings, missing: list[int], progress: bool
) -> None:
    """Encode the clips with indices `missing`."""
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
    """Encode up to `BATCH` frames, padded to `BATCH`, so that one compiled program serves all."""
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
    """Compute mean and log-variance (b, h, w, 2c) of images (b, H, W, 3), -1 to 1."""
    return jnp.concatenate(apply(config, params, images, method="encode"), -1)
