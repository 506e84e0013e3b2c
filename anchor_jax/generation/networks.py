"""What the stages of generation ask of the networks: noise, tokens, latents, pictures."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float
from PIL import Image

from anchor_jax.checkpoint import Network, Part
from anchor_jax.compiling import jit
from anchor_jax.diffusion import Sampling, num_halves
from anchor_jax.errors import AnchorError
from anchor_jax.models import CLIPVisionConfig, Denoiser, VAEConfig, apply
from anchor_jax.progress import Advance
from anchor_jax.shapes import Array, Images, Params

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
PICTURE_BATCH = 4  # pictures that the autoencoder takes at a time


@dataclass(frozen=True)
class WindowDenoiser:
    """A denoiser over one window, as `diffusion.sample` calls it.

    The parameters are {"unet", "control", "context" (b, s, c), "control_scale"}; b is 2 for
    guidance (unconditional tokens first) and 1 without. The condition of each frame is {"poses"}
    and, for the face, {"inpainting"}: the channels of mask and masked latents.
    """

    denoiser: Denoiser

    def __call__(
        self,
        params: Params,
        latents: Float[Array, "f h w c"],
        condition: dict[str, Array],
        timestep: ArrayLike,
        frame_mask: Bool[Array, " f"],
    ) -> Float[Array, "b f h w c"]:
        inpainting = condition.get("inpainting")
        return self.denoiser(
            params,
            latents[None],
            condition["poses"][None],
            timestep,
            params["context"],
            control_scale=params["control_scale"],
            frame_mask=frame_mask[None],
            inpainting=None if inpainting is None else inpainting[None],
        )


def denoiser_params(
    part: Part, tokens: Array, empty_text: np.ndarray, sampling: Sampling
) -> Params:
    """The parameters of a `WindowDenoiser`; without the unconditional tokens where guidance needs
    none.

    Args:
        part: of the anchor, loaded.
        tokens: of the appearance (tokens, width).
        empty_text: the unconditional ones, of the same shape.
        sampling: guidance, control scale, and the type that kernels are cast to.
    """
    context = tokens[None]
    if num_halves(sampling.guidance) == 2:
        context = jnp.concatenate([jnp.asarray(empty_text)[None], context])
    return {
        "unet": cast_kernels(part.unet.params, sampling.dtype),
        "control": cast_kernels(part.control.params, sampling.dtype),
        "context": context,
        "control_scale": jnp.float32(sampling.control_scale),
    }


def initial_latents(
    shape: tuple[int, int, int, int], noise: np.ndarray | None = None, seed: int = 42
) -> Array:
    """Noise for a video of `shape` (n, h, w, c): given per frame or as one frame for all, or one
    frame drawn from the seed for all (as published).

    Raises:
        AnchorError: if the given noise has another shape or is not finite.
    """
    if noise is None:
        return jnp.broadcast_to(jax.random.normal(jax.random.key(seed), shape[1:]), shape)
    if noise.shape not in (shape, shape[1:]):
        raise AnchorError(
            f"noise has shape {noise.shape}: expected {shape[1:]} for all frames, or {shape}"
        )
    if not np.isfinite(noise).all():
        raise AnchorError("noise holds values that are not finite")
    return jnp.broadcast_to(jnp.asarray(noise, jnp.float32), shape)


def check_finite(latents: Array) -> None:
    """Raise AnchorError for latents that are not finite."""
    if not np.isfinite(latents).all():
        raise AnchorError(
            "sampling gave values that are not finite: the weights do not fit together, or guidance"
            " or control_scale is far out of range"
        )


def clip_pixels(image: Images, size: int = 224) -> np.ndarray:
    """Bicubic resize of the shortest edge to `size`, centre crop, CLIP's normalisation.

    Args:
        image: uint8 (h, w, 3).
        size: the image encoder's.

    Returns:
        float32 (1, size, size, 3).
    """
    picture = Image.fromarray(image)
    short = min(picture.size)
    width, height = (size * edge // short for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.crop((left, top, left + size, top + size))
    return ((np.asarray(picture, np.float32) / 255 - CLIP_MEAN) / CLIP_STD)[None]


def encode_appearance(encoder: Network[CLIPVisionConfig], image: Images) -> Array:
    """Appearance tokens (tokens, width) of a picture: the image encoder's last hidden state, class
    token included, before its last layer norm (paper, section 3.1)."""
    pixels = clip_pixels(image, encoder.config.image_size)
    return encode_pixels(encoder.config, encoder.params, pixels)[0]


@partial(jax.jit, static_argnums=0)
def encode_pixels(config: CLIPVisionConfig, params: Params, pixels: Array) -> Array:
    """Appearance tokens (b, tokens, width) of what `clip_pixels` gave."""
    return apply(config, params, pixels)[0]


@partial(jit, static_argnames=("config", "dtype"))
def encode_images(
    config: VAEConfig, params: Params, images: Array, noise: Array, dtype: str
) -> Array:
    """Scaled latents (b, h/8, w/8, 4) of images in [-1, 1]: a sample of the posterior, of standard
    normal `noise`, one for all or one each."""
    mean, log_variance = apply(config, params, images.astype(dtype), dtype=dtype, method="encode")
    return config.scaling_factor * (mean + jnp.exp(0.5 * log_variance) * noise)


def decode(
    vae: Network[VAEConfig],
    latents: Array,
    dtype: str = "float32",
    advance: Advance = lambda count: None,
) -> Images:
    """Frames uint8 (n, h, w, 3) of scaled latents (n, h/8, w/8, 4), a few at a time; as published,
    values are truncated."""
    batch = min(PICTURE_BATCH, len(latents))
    params = cast_kernels(vae.params, dtype)
    frames = []
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        images = decode_images(vae.config, params, fill(part, batch), dtype)
        frames.append((np.asarray(images)[: len(part)] * 255).astype(np.uint8))
        advance(len(part))
    return np.concatenate(frames)


@partial(jit, static_argnames=("config", "dtype"))
def decode_images(config: VAEConfig, params: Params, latents: Array, dtype: str) -> Array:
    """Images in [0, 1], clipped, of scaled latents."""
    latents = (latents / config.scaling_factor).astype(dtype)
    images = apply(config, params, latents, dtype=dtype, method="decode")
    return jnp.clip(images / 2 + 0.5, 0, 1)


def fill(part: Array | np.ndarray, batch: int) -> Array:
    """`part` with zeros behind it up to `batch` rows, so that the last batch compiles nothing."""
    return jnp.pad(part, ((0, batch - len(part)), *[(0, 0)] * (part.ndim - 1)))


def cast_kernels(params: Params, dtype: str) -> Params:
    """Matrices and convolutions in the compute type; scales and biases stay as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, params)
