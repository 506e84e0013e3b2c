"""Generate frames during training, and compare them with the ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchor_jax.checkpoint import Network
from anchor_jax.compiling import jit, matmul_precision
from anchor_jax.data.loader import Load
from anchor_jax.diffusion import Sampling, ddim_step, guide, num_halves, sampling_steps
from anchor_jax.evaluation.network_scores import NetworkScores
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.face import mask
from anchor_jax.generation.autoencoder import PICTURE_BATCH, decode_batches
from anchor_jax.models import VAEConfig
from anchor_jax.shapes import Array, Params
from anchor_jax.training.loss import Model, predict

from .frozen import Encoder, keep_mask


@dataclass(frozen=True)
class GridFrames:
    """The frames of a validation grid, the same ones with the same noise in the whole run.

    Attributes:
        truth: ground truth, uint8 (n, h, w, 3).
        poses: pose images, uint8 (n, h, w, 3).
        tokens: appearance tokens (n, s, d).
        inpainting: for the face, mask and masked latents (n, h/8, w/8, c + 1); else None.
        noise: initial latents (n, h/8, w/8, c).
        ceiling: the ground truth after the autoencoder alone, uint8 (n, h, w, 3).
    """

    truth: np.ndarray
    poses: np.ndarray
    tokens: Array
    inpainting: Array | None
    noise: Array
    ceiling: np.ndarray


def load_frames(
    load: Load,
    encoder: Encoder,
    numbers: Sequence[int],
    references: Sequence[int],
    seed: int,
) -> GridFrames:
    """Read frames and encode their conditions.

    Args:
        load: reads all pictures of an example.
        encoder: the frozen networks.
        numbers: indices of the frames in the data set.
        references: for each, the index of another frame of its clip.
        seed: seed of the noise, which is the same for all frames.
    """
    pictures, vae = encoder.pictures, encoder.vae
    examples = [load((i, j, False)) for i, j in zip(numbers, references, strict=True)]
    truth, reference, masks = compose(encoder, examples)
    arrays = encoder.encode(truth, reference, masks)
    mean, _ = jnp.split(arrays["posterior"], 2, -1)
    inpainting = None
    if masks is not None:
        masked, _ = jnp.split(arrays["masked_posterior"], 2, -1)
        small = mask.to_latents(keep_mask(masks), vae.config.factor)
        inpainting = jnp.concatenate([small, masked * vae.config.scaling_factor], -1)
    noise = jax.random.normal(jax.random.key(seed), mean.shape[1:])
    return GridFrames(
        truth,
        np.stack([example[pictures.pose] for example in examples]),
        arrays["tokens"],
        inpainting,
        jnp.broadcast_to(noise, mean.shape),
        _pixels(vae, mean * vae.config.scaling_factor),
    )


def compose(
    encoder: Encoder, examples: Sequence[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Stack targets, references and masks of examples as inputs of the frozen networks, uint8."""
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
    vae: Network[VAEConfig],
    frames: GridFrames,
    empty_text: np.ndarray,
    sampling: Sampling,
) -> np.ndarray:
    """Generate each frame alone, as in training.

    Args:
        model: the networks.
        params: their parameters.
        vae: the autoencoder, loaded.
        frames: the conditions and the initial noise.
        empty_text: unconditional tokens (s, d).
        sampling: steps, guidance and control scale.

    Returns:
        uint8 (n, h, w, 3).
    """
    latents = _denoise(
        model,
        params,
        frames.noise,
        frames.tokens,
        frames.poses,
        frames.inpainting,
        jnp.broadcast_to(jnp.asarray(empty_text), frames.tokens.shape),
        sampling=sampling,
    )
    return _pixels(vae, latents)


def grid(frames: GridFrames, generated: np.ndarray) -> np.ndarray:
    """Make a picture with a row for each frame: pose, generated, truth. uint8 (n h, 3 w, 3)."""
    rows = zip(frames.poses, generated, frames.truth, strict=True)
    return np.concatenate([np.concatenate(row, 1) for row in rows], 0)


def scores(frames: GridFrames, generated: np.ndarray, networks: NetworkScores) -> dict[str, float]:
    """Compute mean PSNR (dB) and SSIM over the frames, the PSNR of the autoencoder alone, and the
    scores of metrics' networks, as far as their weights are there and somebody is found."""
    found = networks.measure(generated, frames.truth)
    return {
        "validation/psnr": float(psnr(generated, frames.truth).mean()),
        "validation/ssim": float(ssim(generated, frames.truth).mean()),
        "validation/psnr_ceiling": float(psnr(frames.ceiling, frames.truth).mean()),
        **{f"validation/{name}": value for name, value in found.items() if np.isfinite(value)},
    }


@partial(jit, static_argnums=0, static_argnames="sampling")
def _denoise(
    model: Model,
    params: Params,
    noise: Array,
    tokens: Array,
    poses: Array,
    inpainting: Array | None,
    empty_text: Array,
    *,
    sampling: Sampling,
) -> Array:
    """Sample latents (n, h, w, c) with DDIM (https://arxiv.org/abs/2010.02502) and guidance."""
    halves = num_halves(sampling.guidance)
    tokens = tokens if halves == 1 else jnp.concatenate([empty_text, tokens])

    def each_half(x: Array) -> Array:
        return jnp.tile(x, (halves, *[1] * (x.ndim - 1)))

    def step(x: Array, at: Array) -> tuple[Array, None]:
        timestep, alpha, alpha_prev = at
        timesteps = jnp.full(halves * len(x), timestep.astype(jnp.int32))
        masked = None if inpainting is None else each_half(inpainting)
        inputs = each_half(x), timesteps, tokens, each_half(poses), masked
        predictions = predict(model.denoiser, params, *inputs, sampling.control_scale)
        prediction = guide(predictions.reshape(halves, *x.shape), sampling.guidance)
        return ddim_step(x, prediction, alpha, alpha_prev, model.schedule.prediction_type), None

    steps = jnp.asarray(sampling_steps(model.schedule, sampling.steps), jnp.float32)
    return lax.scan(step, noise, steps)[0]


def _pixels(vae: Network[VAEConfig], latents: Array) -> np.ndarray:
    """Decode scaled latents to uint8 (n, h, w, 3), rounded, a few frames at a time."""
    few = min(PICTURE_BATCH, len(latents))
    with matmul_precision("float32"):  # whatever the step computes in
        batches = decode_batches(vae, latents, "float32", rounded=True, batch=few)
        return np.concatenate(list(batches))
