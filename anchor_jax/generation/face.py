"""Repaint faces: crop them from the generated frames, inpaint them conditioned on the
pose image (paper, section 3.3 and equation 9), and paste them back."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

from anchor_jax.checkpoint import Anchor, Network, Part, Settings
from anchor_jax.compiling import matmul_precision
from anchor_jax.diffusion import Sampling, plan_windows, sample
from anchor_jax.face import align, blend, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.networks import (
    PICTURE_BATCH,
    WindowDenoiser,
    cast_kernels,
    check_finite,
    decode,
    decode_batches,
    denoiser_params,
    embed_once,
    encode_appearance,
    encode_images,
    fill,
    initial_latents,
    made_ahead,
)
from anchor_jax.models import PER_FRAME, Denoiser, Inflation, VAEConfig
from anchor_jax.processes import num_cores
from anchor_jax.progress import Advance, Progress
from anchor_jax.shapes import Array, Images

Rows = TypeVar("Rows", np.ndarray, Array)

# See `Inflation` in models/frames.py. Only joint attention is on: the weights were trained without
# the other two.
ALL_FRAMES = Inflation(joint_attention=True, pooled_norm=False, aliased_residual=False)

# Threads that cut and paste crops, which takes 0.15 s of a core's time for a frame of 512x512.
_THREADS = min(num_cores(), 8)

_LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Face:
    """The inputs of the face stage: where the face is in each frame, and how it looks.

    Attributes:
        track: the positions of the face, from `face.landmarks.follow`.
        masks: bool (n, h, w), True on the face; None takes an oval in each crop.
        appearance: a picture of the face, uint8 (h', w', 3), upright and cropped as in training;
            None takes the picture of the body.
    """

    track: Track
    masks: np.ndarray | None = None
    appearance: Images | None = None


def face_denoiser(part: Part, face: FaceSampling, dtype: str) -> WindowDenoiser:
    """Make the denoiser of the face, for single frames or with attention over a window."""
    inflation = ALL_FRAMES if face.windows else PER_FRAME
    return WindowDenoiser(Denoiser(part.unet.config, part.control.config, dtype, inflation))


def repaint(
    anchor: Anchor,
    part: Part,
    frames: Images,
    poses: Images,
    appearance: Images,
    face: Face,
    settings: Settings,
    progress: Progress,
) -> None:
    """Repaint the face in every usable frame, in place.

    All frames start from the same noise, and all posteriors are sampled with the same other noise.

    Args:
        anchor: the anchor, loaded.
        part: its face part.
        frames: generated frames, uint8 (n, h, w, 3); they are changed.
        poses: their pose images, uint8 (n, h, w, 3).
        appearance: the picture of the person, used if `face` has no picture.
        face: where the faces are.
        settings: settings of the body, whose steps, window, seed and type apply here too, and of
            the face.
        progress: makes the three progress bars.

    Raises:
        AnchorError: sampling gave values that are not finite.
    """
    chosen = np.flatnonzero(face.track.usable)
    if not len(chosen):
        return
    sampling = face_sampling(settings)
    with progress("cropping faces", len(chosen), "frame") as advance:
        condition = _condition(anchor.vae, frames, poses, face, settings, advance)
    latent_size = condition["inpainting"].shape[1:3]
    shape = (len(chosen), *latent_size, anchor.vae.config.latent_channels)
    noise = initial_latents(shape, seed=sampling.seed)
    picture = appearance if face.appearance is None else face.appearance
    if settings.face.fit == "squash":
        picture = squash(picture, settings.face.size)
    params = denoiser_params(
        part, encode_appearance(anchor.image_encoder, picture), anchor.empty_text, sampling
    )
    num_windows = len(plan_windows(len(chosen), sampling.window, sampling.overlap))
    denoise = face_denoiser(part, settings.face, sampling.dtype)
    with progress("repainting faces", sampling.steps * num_windows, "window") as advance:
        latents = sample(
            denoise,
            params,
            noise,
            condition,
            anchor.schedule,
            sampling,
            embed=embed_once(denoise, params, sampling),
            on_windows=advance,
        )
    check_finite(latents)
    with progress("pasting faces", len(chosen), "frame") as advance:
        _paste_faces(anchor.vae, frames, latents, face, settings, advance)


def face_sampling(settings: Settings) -> Sampling:
    """Make the sampling settings of the face: the body's settings with the two scales of the face.

    The overlap is 0 unless the face attends over the frames of a window.
    """
    body, face = settings.sampling, settings.face
    return replace(
        body,
        guidance=face.guidance,
        control_scale=face.control_scale,
        overlap=body.overlap if face.windows else 0,
    )


def _paste_faces(
    vae: Network[VAEConfig],
    frames: Images,
    latents: Array,
    face: Face,
    settings: Settings,
    advance: Advance,
) -> None:
    """Decode the latents (k, h, w, c) of the usable frames' faces, and paste them in place.
    Threads paste while the device decodes the next batch."""
    only_face = settings.face.blend == "face"
    chosen, transforms = np.flatnonzero(face.track.usable), face.track.transforms()
    decoded = decode_batches(vae, latents, settings.sampling.dtype, rounded=True)

    def paste(chunk: np.ndarray, images: Images) -> Images:
        crops = _resize_squares(images, align.SIZE)
        inside = _face_regions(face, chunk, transforms) if only_face else None
        return blend.paste(frames[chunk], crops, transforms[chunk], inside)

    with ThreadPoolExecutor(_THREADS) as pool:
        pasted = (
            (chunk, pool.submit(paste, chunk, images))
            for chunk, images in zip(_batches(chosen), decoded, strict=True)
        )
        for chunk, future in made_ahead(pasted, _THREADS):
            frames[chunk] = future.result()
            advance(len(chunk))


def through_autoencoder(
    anchor: Anchor, frames: Images, face: Face | None, settings: Settings
) -> Images:
    """Encode and decode frames with the autoencoder.

    Args:
        anchor: the anchor, loaded.
        frames: uint8 (n, h, w, 3).
        face: where the faces are, which then also pass the autoencoder at the size of repainting
            and are pasted; or None.
        settings: the type of the computation, the size of the face and how it is pasted.

    Returns:
        uint8 (n, h, w, 3).
    """
    settings = settings.resolved()
    with matmul_precision(settings.sampling.dtype, settings.sampling.tf32):
        return _through_autoencoder(anchor.vae, frames, face, settings)


def _through_autoencoder(
    vae: Network[VAEConfig], frames: Images, face: Face | None, settings: Settings
) -> Images:
    mean = jnp.zeros(())  # zero noise gives the posterior's mean
    dtype = settings.sampling.dtype
    params = cast_kernels(vae.params, dtype)

    def encode(images: Images) -> Array:
        pixels = [fill(x / np.float32(127.5) - 1, PICTURE_BATCH) for x in _batches(images)]
        latents = [encode_images(vae.config, params, x, mean, dtype) for x in pixels]
        return jnp.concatenate(latents)[: len(images)]

    out = decode(vae, encode(frames), dtype)
    if face is not None and face.track.usable.any():
        usable = face.track.usable
        crops = align.crop(frames[usable], face.track.transforms()[usable])
        latents = encode(_resize_squares(crops, settings.face.size))
        _paste_faces(vae, out, latents, face, settings, lambda count: None)
    return out


def _condition(
    vae: Network[VAEConfig],
    frames: Images,
    poses: Images,
    face: Face,
    settings: Settings,
    advance: Advance,
) -> dict[str, np.ndarray]:
    """Make the conditions of the usable frames. Threads cut the crops of the next batches while the
    device encodes one.

    Returns:
        "poses", uint8 (k, size, size, 3): the crops of the pose images. "inpainting", float32
        (k, size/8, size/8, 5): the masks and the latents of the masked crops.
    """
    size, sampling = settings.face.size, settings.sampling
    params = cast_kernels(vae.params, sampling.dtype)
    side = size // vae.config.factor
    key = jax.random.fold_in(jax.random.key(sampling.seed), 1)
    noise = jax.random.normal(key, (side, side, vae.config.latent_channels))
    transforms = face.track.transforms()

    def cut(chunk: np.ndarray) -> tuple[Images, np.ndarray, np.ndarray]:
        here = transforms[chunk]
        crops = _resize_squares(align.crop(frames[chunk], here), size)
        keep = _shrink(mask.repaint_mask(_face_regions(face, chunk, transforms)), size)
        pose_crops = _resize_squares(align.crop(poses[chunk], here), size)
        return pose_crops, keep, mask.masked_images(crops, keep)

    def encoded(pool: Executor) -> Iterator[tuple[Images, np.ndarray, Array]]:
        chunks = _batches(np.flatnonzero(face.track.usable))
        for future in made_ahead((pool.submit(cut, chunk) for chunk in chunks), _THREADS):
            crops, keep, masked = future.result()
            batch = fill(masked, PICTURE_BATCH)
            yield crops, keep, encode_images(vae.config, params, batch, noise, sampling.dtype)

    pose_crops, inpainting = [], []
    with ThreadPoolExecutor(_THREADS) as pool:
        for crops, keep, latents in made_ahead(encoded(pool)):
            masks = mask.to_latents(keep, vae.config.factor)
            inpainting.append(np.concatenate([masks, np.asarray(latents)[: len(keep)]], -1))
            pose_crops.append(crops)
            advance(len(crops))
    return {"poses": np.concatenate(pose_crops), "inpainting": np.concatenate(inpainting)}


def _face_regions(face: Face, chunk: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Return the face region in the crops of frames with indices `chunk`, bool (k, 512, 512)."""
    if face.masks is None:
        return np.broadcast_to(mask.oval(), (len(chunk), align.SIZE, align.SIZE))
    return mask.from_renders(face.masks[chunk], transforms[chunk])


def _resize_squares(images: Images, size: int) -> Images:
    """Resize square images (k, h, h, 3) to `size`: Lanczos to shrink, bilinear to enlarge."""
    side = images.shape[1]
    if side == size:
        return images
    if size < side:
        pictures = [Image.fromarray(i).resize((size, size), _LANCZOS) for i in images]
        return np.stack([np.asarray(picture) for picture in pictures])
    return np.stack([squash(image, size) for image in images])


def squash(image: Images, size: int) -> Images:
    """Resize a picture to a square without keeping its proportions.

    The result equals OpenCV's bilinear interpolation: two neighbours in each direction, without
    antialiasing, rounded once at the end. Pillow's result differs.

    Args:
        image: uint8 (h, w, 3).
        size: side of the square in pixels.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    factors = size / height, size / width, 1
    values = ndimage.zoom(
        image.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True
    )
    return np.floor(np.asarray(values) + 0.5).astype(np.uint8)


def _shrink(masks: np.ndarray, size: int) -> np.ndarray:
    """Resize square masks (k, h, h, 1) to `size` by the nearest pixel."""
    indices = np.arange(size) * masks.shape[1] // size
    return masks[:, indices[:, None], indices]


def _batches(rows: Rows) -> Iterator[Rows]:
    """Split an array into batches of `PICTURE_BATCH` rows."""
    for start in range(0, len(rows), PICTURE_BATCH):
        yield rows[start : start + PICTURE_BATCH]
