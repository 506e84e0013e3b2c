"""Run the networks for generation: initial noise, appearance tokens, latents and pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from PIL import Image

from anchor_jax.checkpoint import Network, Part
from anchor_jax.checkpoint.parameters import is_kernel
from anchor_jax.compiling import jit, matmul_precision
from anchor_jax.diffusion import Sampling, num_halves
from anchor_jax.diffusion.sample import frames_in_work
from anchor_jax.diffusion.shortcuts import Mode
from anchor_jax.errors import AnchorError
from anchor_jax.models import CLIPVisionConfig, Denoiser, apply
from anchor_jax.models.reuse import Reuse
from anchor_jax.shapes import Array, Images, Params

_CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
Item = TypeVar("Item")

EMBEDDING_BYTES = 1 << 28  # of embedded pose images that are kept


@dataclass(frozen=True)
class WindowDenoiser:
    """A denoiser of one window with the signature that `diffusion.sample` calls.

    The parameters are {"unet", "control", "context" (b, s, c), "control_scale"}, with b = 2 for
    guidance (unconditional tokens first) and b = 1 without. The conditions of each frame are
    "poses", uint8 (f, H, W, 3), or "embedding" (f, h, w, e), see `embed_once`; and for the face
    "inpainting", (f, h, w, c + 1): the mask and the masked latents.

    Attributes:
        denoiser: control branch and UNet.
    """

    denoiser: Denoiser

    def __call__(
        self,
        params: Params,
        latents: Float[Array, "f h w c"],
        condition: dict[str, Array],
        timestep: ArrayLike,
        num_real: Int[Array, ""],
    ) -> Float[Array, "b f h w c"]:
        """Predict noise or velocity for a window.

        Args:
            params: see the class.
            latents: noisy latents.
            condition: see the class.
            timestep: timestep of the schedule.
            num_real: number of leading frames that are real; the others are padding.
        """
        whole = Mode(len(params["context"]))
        return self.shortcut(whole, {}, params, latents, condition, timestep, num_real)[0]

    def shortcut(
        self,
        mode: Mode,
        kept: Any,
        params: Params,
        latents: Float[Array, "f h w c"],
        condition: dict[str, Array],
        timestep: ArrayLike,
        num_real: Int[Array, ""],
    ) -> tuple[Float[Array, "b f h w c"], Any]:
        """Predict noise or velocity for a window with the shortcuts of a step.

        Args:
            mode: what is computed.
            kept: features that are taken.
            params, latents, condition, timestep, num_real: as for `__call__`.

        Returns:
            The prediction, for the rows of the context that `mode.halves` computes, which are the
            last ones; and the features for later steps.
        """
        inpainting, embedded = condition.get("inpainting"), "embedding" in condition
        return self.denoiser.reusing(
            Reuse(mode.reuse, mode.fresh),
            kept,
            params,
            latents[None],
            condition["embedding" if embedded else "poses"][None],
            timestep,
            params["context"][-mode.halves :],
            control_scale=params["control_scale"],
            num_real=num_real[None],
            inpainting=None if inpainting is None else inpainting[None],
            embedded=embedded,
        )


def body_denoiser(part: Part, dtype: str) -> WindowDenoiser:
    """Make the denoiser of the body, inflated as published."""
    return WindowDenoiser(Denoiser(part.unet.config, part.control.config, dtype))


def denoiser_params(
    part: Part, tokens: Array, empty_text: np.ndarray, sampling: Sampling
) -> Params:
    """Collect the parameters of a `WindowDenoiser`.

    Args:
        part: loaded part of the anchor.
        tokens: appearance tokens (s, c).
        empty_text: unconditional tokens (s, c), left out if guidance does not need them.
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


def embed_once(
    denoise: WindowDenoiser, params: Params, sampling: Sampling
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that embeds the pose images of a block of frames, so that each frame is
    embedded once instead of in each window at each step.

    Args:
        denoise: the denoiser.
        params: its parameters.
        sampling: steps and windows.
    """

    def embed(condition: dict[str, Any]) -> dict[str, Any]:
        poses = condition["poses"]
        if embedding_shape(denoise.denoiser, sampling, *poses.shape[1:3]) is None:
            return condition
        filled = fill(poses, sampling.stride)
        rest = {name: x for name, x in condition.items() if name != "poses"}
        return {**rest, "embedding": embed_poses(denoise.denoiser, params, filled)[: len(poses)]}

    return embed


def embedding_shape(
    denoiser: Denoiser, sampling: Sampling, height: int, width: int
) -> tuple[int, int, int] | None:
    """Return the shape of an embedded pose image, or None if pose images stay as they are.

    An embedding is three times as large as its pose image. If those of the frames in work took more
    than `EMBEDDING_BYTES`, they are not worth it: at the published size they would take 0.9 GB and
    save 1 % of the operations. For the small networks that come with the library they take 55 MB
    and save 12 %.

    Args:
        denoiser: the networks.
        sampling: steps and windows.
        height: of the pose images.
        width: of the pose images.
    """
    config = denoiser.control
    shrinks = 2 ** (len(config.pose_embedding_channels) - 1)
    shape = height // shrinks, width // shrinks, config.channels[0]
    size = frames_in_work(sampling) * math.prod(shape) * jnp.dtype(denoiser.dtype).itemsize
    return shape if size <= EMBEDDING_BYTES else None


@partial(jit, static_argnames="denoiser")
def embed_poses(denoiser: Denoiser, params: Params, poses: Array) -> Array:
    """Embed pose images, see `Denoiser.embed`."""
    return denoiser.embed(params, poses)


def initial_latents(
    shape: tuple[int, int, int, int], noise: np.ndarray | None = None, seed: int = 42
) -> np.ndarray:
    """Make the initial noise of a video.

    Args:
        shape: (n, h, w, c).
        noise: (n, h, w, c), or (h, w, c) for all frames. None: one frame of standard normal noise
            for all frames, as published.
        seed: seed of that noise.

    Returns:
        float32 (n, h, w, c); if all frames have the same noise, a view of it.

    Raises:
        AnchorError: `noise` has another shape or is not finite.
    """
    if noise is None:
        noise = np.asarray(jax.random.normal(jax.random.key(seed), shape[1:]))
    if noise.shape not in (shape, shape[1:]):
        raise AnchorError(
            f"noise has shape {noise.shape}: expected {shape[1:]} for all frames, or {shape}"
        )
    if not np.isfinite(noise).all():
        raise AnchorError("noise holds values that are not finite")
    return np.broadcast_to(np.asarray(noise, np.float32), shape)


def clip_pixels(image: Images, size: int = 224) -> np.ndarray:
    """Preprocess a picture for CLIP: bicubic resize of the shortest side, centre crop, normalise.

    Args:
        image: uint8 (h, w, 3).
        size: side in pixels that the image encoder reads.

    Returns:
        float32 (1, size, size, 3).
    """
    picture = Image.fromarray(image)
    short = min(picture.size)
    width, height = (size * edge // short for edge in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.crop((left, top, left + size, top + size))
    return ((np.asarray(picture, np.float32) / 255 - _CLIP_MEAN) / _CLIP_STD)[None]


def encode_appearance(encoder: Network[CLIPVisionConfig], image: Images) -> Array:
    """Compute the appearance tokens of a picture (paper, section 3.1).

    They are the last hidden state of CLIP (https://arxiv.org/abs/2103.00020), including the class
    token, before the last layer norm. They are computed once for a video, so always in float32.

    Args:
        encoder: the image encoder, loaded.
        image: uint8 (h, w, 3), of any size.

    Returns:
        float32 (tokens, width).
    """
    pixels = clip_pixels(image, encoder.config.image_size)
    with matmul_precision("float32"):
        return encode_pixels(encoder.config, encoder.params, pixels)[0]


def encode_pictures(
    encoder: Network[CLIPVisionConfig], images: Sequence[Images] | Images, batch: int
) -> np.ndarray:
    """Compute the appearance tokens of pictures of any size, `batch` in one call of the program:
    float32 (k, tokens, width). Otherwise as `encode_appearance`."""
    found = []
    for start in range(0, len(images), batch):
        pixels = [clip_pixels(x, encoder.config.image_size) for x in images[start : start + batch]]
        filled = fill(np.concatenate(pixels), batch)
        with matmul_precision("float32"):
            tokens = encode_pixels(encoder.config, encoder.params, filled)
        found.append(np.asarray(tokens)[: len(pixels)])
    return np.concatenate(found)


@partial(jax.jit, static_argnums=0)
def encode_pixels(config: CLIPVisionConfig, params: Params, pixels: Array) -> Array:
    """Compute appearance tokens (b, tokens, width) from results of `clip_pixels`."""
    return apply(config, params, pixels)[0]


def fill(rows: Array | np.ndarray, batch: int) -> Array:
    """Append zeros up to `batch` rows, so that the last batch reuses the compiled program."""
    return jnp.pad(rows, ((0, batch - len(rows)), *[(0, 0)] * (rows.ndim - 1)))


def cast_kernels(params: Params, dtype: str) -> Params:
    """Cast matrices and convolution kernels to `dtype`; scales and biases keep their types. Kernels
    that have this type, as from `load(..., kernels=dtype)`, are not copied."""
    return jax.tree.map(lambda x: x.astype(dtype) if is_kernel(x) else x, params)
