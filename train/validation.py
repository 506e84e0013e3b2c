"""Frames generated in the course of training, beside the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchor_jax.compiling import jit
from anchor_jax.data.loader import Load
from anchor_jax.diffusion.ddim import ddim_step
from anchor_jax.diffusion.schedule import sampling_steps
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.face import mask
from anchor_jax.generation.networks import decode_images
from anchor_jax.models import VAEConfig
from anchor_jax.shapes import Array, Params
from anchor_jax.training.loss import Model, apply_networks

from .frozen import Encoder, keep_mask


@dataclass(frozen=True)
class Frames:
    """The frames that are generated, always the same ones with the same noise."""

    truth: np.ndarray  # uint8 (n, h, w, 3)
    poses: np.ndarray  # uint8 (n, h, w, 3)
    tokens: Array
    inpainting: Array | None
    noise: Array
    ceiling: np.ndarray  # uint8 (n, h, w, 3): the truth through the autoencoder


def load_frames(
    load: Load,
    encoder: Encoder,
    numbers: Sequence[int],
    references: Sequence[int],
    seed: int,
) -> Frames:
    """Read the frames and encode what they are conditioned on.

    Args:
        load: reads all pictures of an example.
        encoder: the frozen networks.
        numbers: of the frames in the data set.
        references: of a frame of the same clip for each.
        seed: of the noise, which all frames share.
    """
    pictures, config = encoder.pictures, encoder.vae
    examples = [load((i, j, False)) for i, j in zip(numbers, references, strict=True)]
    truth, reference, masks = compose(encoder, examples)
    arrays = encoder.encode(truth, reference, masks)
    mean, _ = jnp.split(arrays["posterior"], 2, -1)
    inpainting = None
    if masks is not None:
        masked, _ = jnp.split(arrays["masked_posterior"], 2, -1)
        small = mask.to_latents(keep_mask(masks), config.factor)
        inpainting = jnp.concatenate([small, masked * config.scaling_factor], -1)
    noise = jax.random.normal(jax.random.key(seed), mean.shape[1:])
    return Frames(
        truth,
        np.stack([example[pictures.pose] for example in examples]),
        arrays["tokens"],
        inpainting,
        jnp.broadcast_to(noise, mean.shape),
        _pixels(config, encoder.params["vae"], mean * config.scaling_factor),
    )


def compose(
    encoder: Encoder, examples: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Targets, references and masks of examples as the frozen networks take them."""
    pictures = encoder.pictures

    def stack(name: str, matte: str | None) -> np.ndarray:
        return np.stack(
            [
                pictures.composed(example[name], None if matte is None else example[matte])
                for example in examples
            ]
        )

    target = stack(pictures.target, pictures.matte)
    reference = stack(pictures.reference, pictures.matte and "reference_matte")
    if pictures.mask is None:
        return target, reference, None
    return target, reference, np.stack([example[pictures.mask] for example in examples])


def generate(
    model: Model,
    params: Params,
    vae: tuple[VAEConfig, Params],
    frames: Frames,
    empty_text: np.ndarray,
    *,
    num_steps: int,
    guidance: float,
    control_scale: float,
) -> np.ndarray:
    """The frames, each for itself as in training: uint8 (n, h, w, 3)."""
    latents = _denoise(
        model,
        params,
        frames.noise,
        frames.tokens,
        frames.poses,
        frames.inpainting,
        jnp.broadcast_to(jnp.asarray(empty_text), frames.tokens.shape),
        num_steps=num_steps,
        guidance=guidance,
        control_scale=control_scale,
    )
    return _pixels(*vae, latents)


def grid(frames: Frames, generated: np.ndarray) -> np.ndarray:
    """A row a frame: pose, generated, truth. uint8 (n h, 3 w, 3)."""
    rows = zip(frames.poses, generated, frames.truth, strict=True)
    return np.concatenate([np.concatenate(row, 1) for row in rows], 0)


def scores(frames: Frames, generated: np.ndarray) -> dict[str, float]:
    """Means over the frames, and what the autoencoder alone reaches."""
    return {
        "validation/psnr": float(psnr(generated, frames.truth).mean()),
        "validation/ssim": float(ssim(generated, frames.truth).mean()),
        "validation/psnr_ceiling": float(psnr(frames.ceiling, frames.truth).mean()),
    }


@partial(jit, static_argnums=0, static_argnames=("num_steps", "guidance", "control_scale"))
def _denoise(
    model: Model,
    params: Params,
    noise: Array,
    tokens: Array,
    poses: Array,
    inpainting: Array | None,
    empty_text: Array,
    *,
    num_steps: int,
    guidance: float,
    control_scale: float,
) -> Array:
    halves = 1 if guidance == 1 else 2
    tokens = tokens if halves == 1 else jnp.concatenate([empty_text, tokens])

    def both(x: Array) -> Array:
        return jnp.tile(x, (halves, *[1] * (x.ndim - 1)))

    def step(x: Array, at: Array) -> tuple[Array, None]:
        timestep, alpha, alpha_prev = at
        timesteps = jnp.full(halves * len(x), timestep.astype(jnp.int32))
        known = None if inpainting is None else both(inpainting)
        prediction = apply_networks(
            model, params, both(x), timesteps, tokens, both(poses), known, control_scale
        )
        if halves == 2:
            without, given = jnp.split(prediction, 2)
            prediction = without + guidance * (given - without)
        kind = model.schedule.prediction_type
        return ddim_step(x, prediction, alpha, alpha_prev, kind), None

    steps = jnp.asarray(sampling_steps(model.schedule, num_steps), jnp.float32)
    return lax.scan(step, noise, steps)[0]


def _pixels(config: VAEConfig, params: Params, latents: Array) -> np.ndarray:
    images = decode_images(config, params, latents, "float32")
    return (np.asarray(images) * 255).round().astype(np.uint8)
