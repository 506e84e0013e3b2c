"""From an anchor, pose images and a picture of the person to the frames of a video."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm import tqdm

from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import jit
from anchor_jax.diffusion import plan_windows, sample
from anchor_jax.errors import AnchorError
from anchor_jax.models import (
    PUBLISHED,
    CLIPVisionConfig,
    ControlConfig,
    Inflation,
    UNetConfig,
    VAEConfig,
    apply,
)
from anchor_jax.shapes import Array, Images, Params

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
DTYPES = ("float32", "bfloat16")
DECODE_BATCH = 4


@dataclass(frozen=True)
class NoisePredictor:
    """The structure-guided diffusion model over one window, as `diffusion.sample` calls it.

    The parameters are {"unet", "control", "context" (b, s, c), "control_scale"}; b is 2 for
    guidance (unconditional tokens first) and 1 without.
    """

    unet: UNetConfig
    control: ControlConfig
    dtype: str = "float32"
    inflation: Inflation = PUBLISHED

    @property
    def cpu_fusions(self) -> bool:
        """Attention outweighs the convolutions of narrow networks (`docs/benchmarks.md`)."""
        return self.unet.channels[0] < 256

    def __call__(
        self,
        params: Params,
        latents: Float[Array, "f h w c"],
        poses: UInt8[Array, "f H W 3"],
        timestep: ArrayLike,
        frame_mask: Bool[Array, " f"],
    ) -> Float[Array, "b f h w c"]:
        """Predict the noise of every row of tokens, float32."""
        dtype, context = jnp.dtype(self.dtype), params["context"]
        latents, frame_mask = latents[None].astype(dtype), frame_mask[None]
        inputs = latents, timestep, context
        images = poses[None].astype(dtype) / 255
        conditioning = images, params["control_scale"], frame_mask, self.inflation
        residuals = apply(self.control, params["control"], *inputs, *conditioning, dtype=dtype)
        rest = residuals, frame_mask, self.inflation
        return apply(self.unet, params["unet"], *inputs, *rest, dtype=dtype).astype(jnp.float32)


def generate(
    anchor: Anchor,
    poses: Images,
    appearance: Images,
    *,
    steps: int = 20,
    guidance: float = 7.5,
    control_scale: float = 2.0,
    window: int = 16,
    overlap: int = 4,
    noise: np.ndarray | None = None,
    seed: int = 42,
    dtype: str = "float32",
    progress: bool = False,
) -> Images:
    """Generate a video of the anchor's person.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images, uint8 (n, h, w, 3) RGB; sides are multiples of the autoencoder's
            factor (8).
        appearance: a picture of the person, uint8 (h', w', 3) RGB, of any size.
        steps: DDIM steps.
        guidance: scale of classifier-free guidance; at 1 the unconditional half is not computed.
        control_scale: W_c of equation (2).
        window: frames denoised together.
        overlap: frames that neighbouring windows share.
        noise: initial latents, float32 (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        seed: for the initial noise where none is given; one noise frame serves all frames.
        dtype: of the computation, "float32" or "bfloat16".
        progress: show bars with the time left.

    Returns:
        uint8 (n, h, w, 3) RGB; as published, values are truncated.

    Raises:
        AnchorError: for arguments that do not fit each other or the anchor.
    """
    shape = check_arguments(
        anchor,
        poses.shape,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        window=window,
        overlap=overlap,
        seed=seed,
        dtype=dtype,
    )
    unet, control = anchor.networks["body/unet"], anchor.networks["body/control"]
    assert isinstance(unet, UNetConfig) and isinstance(control, ControlConfig)
    latents = initial_latents(shape, noise, seed)
    tokens = encode_appearance(anchor, appearance)[None]
    if guidance != 1:
        tokens = jnp.concatenate([jnp.asarray(anchor.empty_text)[None], tokens])
    params = {
        "unet": cast_kernels(anchor.params["body/unet"], dtype),
        "control": cast_kernels(anchor.params["body/control"], dtype),
        "context": tokens,
        "control_scale": jnp.float32(control_scale),
    }
    predictor = NoisePredictor(unet, control, dtype)
    num_windows = len(plan_windows(len(poses), window, overlap))
    with progress_bar(progress, "denoising", steps * num_windows, "window") as advance:
        latents = sample(
            predictor,
            params,
            latents,
            poses,
            anchor.schedule,
            num_steps=steps,
            guidance=guidance,
            window=window,
            overlap=overlap,
            on_windows=advance,
        )
    del params
    if not np.isfinite(latents).all():
        raise AnchorError(
            "sampling gave values that are not finite: the weights do not fit together, or guidance"
            " or control_scale is far out of range"
        )
    with progress_bar(progress, "decoding", len(poses), "frame") as advance:
        return decode(anchor, latents, dtype, advance)


def check_arguments(
    anchor: Anchor,
    poses_shape: tuple[int, ...],
    *,
    steps: int,
    guidance: float,
    control_scale: float,
    window: int,
    overlap: int,
    seed: int,
    dtype: str,
) -> tuple[int, int, int, int]:
    """Raise AnchorError for the first thing that cannot work; else the latents' shape
    (n, h, w, c). Cheap: call it before loading anything."""
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    n, height, width, _ = poses_shape
    if n == 0:
        raise AnchorError("there are no pose images: expected at least one frame")
    if height % vae.factor or width % vae.factor:
        raise AnchorError(
            f"pose images are {width}x{height}: expected sides that are multiples of {vae.factor};"
            " resize them (--size)"
        )
    most = anchor.schedule.num_train_timesteps
    if not 1 <= steps <= most:
        raise AnchorError(f"steps is {steps}: expected 1 to {most}")
    for name, scale in (("guidance", guidance), ("control_scale", control_scale)):
        if not math.isfinite(scale):
            raise AnchorError(f"{name} is {scale}: expected a finite number")
    if window < 1:
        raise AnchorError(f"window is {window}: expected at least 1 frame")
    if not 0 <= overlap < window:
        raise AnchorError(f"overlap is {overlap}: expected 0 to {window - 1}, less than the window")
    if not 0 <= seed < 1 << 32:
        raise AnchorError(f"seed is {seed}: expected 0 to {(1 << 32) - 1}")
    if dtype not in DTYPES:
        raise AnchorError(f"dtype is {dtype!r}: expected {' or '.join(DTYPES)}")
    return n, height // vae.factor, width // vae.factor, vae.latent_channels


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


def encode_appearance(anchor: Anchor, image: Images) -> Array:
    """Appearance tokens (tokens, width) of a picture: the image encoder's last hidden state, class
    token included, before its last layer norm (paper, section 3.1)."""
    config = anchor.networks["image_encoder"]
    assert isinstance(config, CLIPVisionConfig)
    pixels = clip_pixels(image, config.image_size)
    return _encode_image(config, anchor.params["image_encoder"], pixels)[0]


@partial(jax.jit, static_argnums=0)
def _encode_image(config: CLIPVisionConfig, params: Params, pixels: Array) -> Array:
    return apply(config, params, pixels)[0]


def decode(anchor: Anchor, latents: Array, dtype: str = "float32", advance=None) -> Images:
    """Frames uint8 (n, h, w, 3) of scaled latents (n, h/8, w/8, 4), a few at a time."""
    config, batch = anchor.networks["vae"], min(DECODE_BATCH, len(latents))
    assert isinstance(config, VAEConfig)
    params = cast_kernels(anchor.params["vae"], dtype)
    frames = []
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        padding = ((0, batch - len(part)), (0, 0), (0, 0), (0, 0))
        images = decode_images(config, params, jnp.pad(part, padding), dtype)
        frames.append((np.asarray(images)[: len(part)] * 255).astype(np.uint8))
        if advance is not None:
            advance(len(part))
    return np.concatenate(frames)


@partial(jit, static_argnames=("config", "dtype"))
def decode_images(config: VAEConfig, params: Params, latents: Array, dtype: str) -> Array:
    """Images in [0, 1], clipped, of scaled latents."""
    latents = (latents / config.scaling_factor).astype(dtype)
    images = apply(config, params, latents, dtype=dtype, method="decode")
    return jnp.clip(images / 2 + 0.5, 0, 1)


def cast_kernels(params: Params, dtype: str) -> Params:
    """Matrices and convolutions in the compute type; scales and biases stay as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, params)


@contextmanager
def progress_bar(show: bool, what: str, total: int, unit: str) -> Iterator:
    """A function that advances a bar with rate and time left on standard error."""
    with tqdm(total=total, desc=what, unit=unit, disable=not show, smoothing=0.1) as bar:
        yield bar.update
