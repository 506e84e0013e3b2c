"""The face stage: crops of the generated frames, repainted under the head's render (paper, section
3.3 and equation 9), and pasted back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage

from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion import plan_windows, sample
from anchor_jax.errors import AnchorError
from anchor_jax.face import align, blend, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.generation.networks import (
    PICTURE_BATCH,
    NoisePredictor,
    cast_kernels,
    check_finite,
    decode,
    decode_images,
    encode_images,
    fill,
    initial_latents,
    stage_params,
)
from anchor_jax.models import PER_FRAME, ControlConfig, Inflation, UNetConfig, VAEConfig
from anchor_jax.progress import Advance, Progress
from anchor_jax.shapes import Array, Images, Params

Rows = TypeVar("Rows", np.ndarray, Array)

# The least that all-frame attention asks of weights that were trained on single frames.
ALL_FRAMES = Inflation(joint_attention=True, pooled_norm=False, aliased_residual=False)

LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Face:
    """What the face stage needs beside what the body has, and how it works.

    Attributes:
        track: where the face is, from `face.landmarks.follow`.
        masks: bool (n, h, w), True on the face in every frame, or None: an oval in the crop.
        appearance: a picture of the face, uint8 (h', w', 3), upright and cropped as in training;
            None: the body's.
        guidance: scale of classifier-free guidance.
        control_scale: W_c of equation (2).
        all_frames: attend over the frames of overlapping windows, as the body does; published: each
            frame alone.
        blend: "square" pastes the whole crop (published), "face" only the repainted region.
        size: side of the repainted crop, pixels; published models were trained at 256.
    """

    track: Track
    masks: np.ndarray | None = None
    appearance: Images | None = None
    guidance: float = 3.5
    control_scale: float = 1.0
    all_frames: bool = False
    blend: str = "square"
    size: int = 256


@dataclass(frozen=True)
class FacePredictor:
    """The face's noise predictor, as `diffusion.sample` calls it: the condition of each frame is
    {"poses", "known"}, its pose crop and the UNet's channels of mask and masked latents."""

    predictor: NoisePredictor

    def __call__(
        self,
        params: Params,
        latents: Float[Array, "f h w c"],
        condition: dict[str, Array],
        timestep: ArrayLike,
        frame_mask: Bool[Array, " f"],
    ) -> Float[Array, "b f h w c"]:
        poses, known = condition["poses"], condition["known"]
        return self.predictor(params, latents, poses, timestep, frame_mask, known)


def face_predictor(anchor: Anchor, all_frames: bool, dtype: str) -> FacePredictor:
    """The noise predictor of an anchor's face part."""
    unet, control = anchor.networks["face/unet"], anchor.networks["face/control"]
    assert isinstance(unet, UNetConfig) and isinstance(control, ControlConfig)
    inflation = ALL_FRAMES if all_frames else PER_FRAME
    return FacePredictor(NoisePredictor(unet, control, dtype, inflation))


def check_face(anchor: Anchor, shape: tuple[int, int, int], face: Face) -> None:
    """Raise AnchorError unless `face` fits the anchor and a video of `shape` (n, h, w)."""
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    if "face/unet" not in anchor.networks:
        raise AnchorError("the anchor has no face part: convert one with --face, or say --no-face")
    if len(face.track.usable) != shape[0]:
        raise AnchorError(
            f"there are face landmarks of {len(face.track.usable)} frames: expected {shape[0]}, as "
            "many as pose images"
        )
    if face.masks is not None and face.masks.shape != shape:
        raise AnchorError(f"face masks are {face.masks.shape}: expected {shape}, as the poses are")
    for name, scale in (("guidance", face.guidance), ("control_scale", face.control_scale)):
        if not math.isfinite(scale):
            raise AnchorError(f"the face's {name} is {scale}: expected a finite number")
    least = 2 * vae.factor
    if face.size < least or face.size % vae.factor:
        raise AnchorError(
            f"the face's size is {face.size}: expected a multiple of {vae.factor} from {least} on"
        )
    if face.blend not in ("square", "face"):
        raise AnchorError(f"the face's blend is {face.blend!r}: expected square or face")


def repaint(
    anchor: Anchor,
    frames: Images,
    poses: Images,
    appearance: Images,
    face: Face,
    *,
    steps: int,
    window: int,
    overlap: int,
    crossfade: bool,
    seed: int,
    dtype: str,
    stage: Progress,
) -> None:
    """Repaint the face in every usable frame, in place.

    Args:
        anchor: with a face part, loaded.
        frames: uint8 (n, h, w, 3), generated; they are changed.
        poses: uint8 (n, h, w, 3), what they were generated from.
        appearance: where `face` has none of its own.
        face: see there.
        steps: DDIM steps.
        window: frames that are computed together; with `all_frames`, that attend to each other.
        overlap: frames that neighbouring windows share with `all_frames`; else they share none.
        crossfade: let each window pass gradually into the next, instead of equal weights.
        seed: of the initial noise and of the posterior's; one noise frame each serves all frames.
        dtype: of the computation.
        stage: makes a progress bar; three are made.

    Raises:
        AnchorError: sampling gave values that are not finite.
    """
    chosen = np.flatnonzero(face.track.usable)
    if not len(chosen):
        return
    transforms = face.track.transforms()
    with stage("cropping faces", len(chosen), "frame") as advance:
        condition = prepare(anchor, frames, poses, transforms, face, seed, dtype, advance)
    latent_size = condition["known"].shape[1:3]
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    noise = initial_latents((len(chosen), *latent_size, vae.latent_channels), seed=seed)
    picture = appearance if face.appearance is None else face.appearance
    overlap = overlap if face.all_frames else 0
    num_windows = len(plan_windows(len(chosen), window, overlap))
    with stage("repainting faces", steps * num_windows, "window") as advance:
        latents = sample(
            face_predictor(anchor, face.all_frames, dtype),
            stage_params(anchor, "face", picture, face.guidance, face.control_scale, dtype),
            noise,
            condition,
            anchor.schedule,
            num_steps=steps,
            guidance=face.guidance,
            window=window,
            overlap=overlap,
            crossfade=crossfade,
            on_windows=advance,
        )
    check_finite(latents)
    with stage("pasting faces", len(chosen), "frame") as advance:
        paste_faces(anchor, frames, latents, face, dtype, advance)


def paste_faces(
    anchor: Anchor,
    frames: Images,
    latents: Array,
    face: Face,
    dtype: str,
    advance: Advance,
) -> None:
    """Decode latents (k, h, w, c) of the faces of usable frames and paste them, in place."""
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    params = cast_kernels(anchor.params["vae"], dtype)
    chosen, transforms = np.flatnonzero(face.track.usable), face.track.transforms()
    for part, some in zip(_batches(chosen), _batches(latents), strict=True):
        batch = fill(some, PICTURE_BATCH)
        images = np.asarray(decode_images(vae, params, batch, dtype))[: len(part)]
        crops = resize(np.round(images * 255).astype(np.uint8), align.SIZE)
        inside = face_regions(face, part, transforms) if face.blend == "face" else None
        frames[part] = blend.paste(frames[part], crops, transforms[part], inside)
        advance(len(part))


def through_autoencoder(anchor: Anchor, frames: Images, face: Face | None = None) -> Images:
    """Frames uint8 (n, h, w, 3) as the autoencoder alone gives them back and, with `face`, their
    faces as it gives them back at the size of the face stage."""
    vae, mean = anchor.networks["vae"], jnp.zeros(())  # no noise: the posterior's mean
    assert isinstance(vae, VAEConfig)

    def encode(images: Images) -> Array:
        pixels = [fill(x / np.float32(127.5) - 1, PICTURE_BATCH) for x in _batches(images)]
        latents = [encode_images(vae, anchor.params["vae"], x, mean, "float32") for x in pixels]
        return jnp.concatenate(latents)[: len(images)]

    out = decode(anchor, encode(frames))
    if face is not None and face.track.usable.any():
        usable = face.track.usable
        crops = resize(align.crop(frames[usable], face.track.transforms()[usable]), face.size)
        paste_faces(anchor, out, encode(crops), face, "float32", lambda count: None)
    return out


def prepare(
    anchor: Anchor,
    frames: Images,
    poses: Images,
    transforms: np.ndarray,
    face: Face,
    seed: int,
    dtype: str,
    advance: Advance,
) -> dict[str, np.ndarray]:
    """What usable frames are conditioned on: "poses" uint8 (k, size, size, 3), the pose crops, and
    "known" float32 (k, size/8, size/8, 5), the masks and the latents of the masked crops."""
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    params = cast_kernels(anchor.params["vae"], dtype)
    side = face.size // vae.factor
    key = jax.random.fold_in(jax.random.key(seed), 1)
    noise = jax.random.normal(key, (side, side, vae.latent_channels))
    pose_crops, known = [], []
    for part in _batches(np.flatnonzero(face.track.usable)):
        here = transforms[part]
        crops = resize(align.crop(frames[part], here), face.size)
        pose_crops.append(resize(align.crop(poses[part], here), face.size))
        keep = shrink(mask.repaint_mask(face_regions(face, part, transforms)), face.size)
        masked = fill(mask.masked_images(crops, keep), PICTURE_BATCH)
        latents = np.asarray(encode_images(vae, params, masked, noise, dtype))[: len(part)]
        known.append(np.concatenate([mask.to_latents(keep, vae.factor), latents], -1))
        advance(len(part))
    return {"poses": np.concatenate(pose_crops), "known": np.concatenate(known)}


def face_regions(face: Face, part: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """The face in the crops of some frames, bool (k, 512, 512)."""
    if face.masks is None:
        return np.broadcast_to(mask.oval(), (len(part), align.SIZE, align.SIZE))
    return mask.from_renders(face.masks[part], transforms[part])


def resize(images: Images, size: int) -> Images:
    """Square images at another size: Lanczos to a smaller one; to a larger one bilinear, rounded
    once at the end as OpenCV does (Pillow rounds between columns and rows)."""
    side = images.shape[1]
    if side == size:
        return images
    if size < side:
        pictures = [Image.fromarray(i).resize((size, size), LANCZOS) for i in images]
        return np.stack([np.asarray(picture) for picture in pictures])
    larger = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for image, out in zip(images.astype(np.float32), larger, strict=True):
        factors = size / side, size / side, 1
        values = ndimage.zoom(image, factors, order=1, mode="nearest", grid_mode=True)
        out[...] = np.floor(np.asarray(values) + 0.5)
    return larger


def shrink(masks: np.ndarray, size: int) -> np.ndarray:
    """Square masks (k, h, h, 1) at another size, by the nearest pixel."""
    places = np.arange(size) * masks.shape[1] // size
    return masks[:, places[:, None], places]


def _batches(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), PICTURE_BATCH):
        yield rows[start : start + PICTURE_BATCH]
