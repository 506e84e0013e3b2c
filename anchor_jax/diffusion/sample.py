"""Sample a video of any length: the loop over steps, the loop over windows, and guidance.

The networks are passed in as one callable:

    denoise(params, latents (f, h, w, c), condition (f, ...), timestep, frame_mask (f,))
        -> float32 (b, f, h, w, c)

with b = 2 (unconditional, conditional) or, at guidance scale 1, b = 1 (conditional only). Compiled
programs are cached by this callable, so it must be hashable, and equal in calls that may share one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from anchor_jax.compiling import jit, return_freed_memory
from anchor_jax.diffusion.ddim import ddim_step
from anchor_jax.diffusion.guidance import guide, num_halves
from anchor_jax.diffusion.schedule import ScheduleConfig, sampling_steps
from anchor_jax.diffusion.settings import Sampling
from anchor_jax.diffusion.windows import (
    count_windows,
    crossfade_weights,
    plan_windows,
    sum_windows,
)
from anchor_jax.shapes import Array

Denoise = Callable[..., Array]

WINDOWS_PER_CALL = 4


def sample(
    denoise: Denoise,
    params,
    latents: ArrayLike,
    condition: Any,
    schedule: ScheduleConfig,
    sampling: Sampling,
    *,
    on_windows: Callable[[int], object] | None = None,
    on_step: Callable[[int, Array], None] | None = None,
) -> Array:
    """Denoise a whole video: algorithm 1 of the paper, with DDIM (https://arxiv.org/abs/2010.02502).

    In each step, all windows are predicted, the predictions are averaged for each frame, guidance
    combines the averages, and all frames take one DDIM step together. The network is compiled for
    a group of `WINDOWS_PER_CALL` windows; a longer video needs more calls.

    Args:
        denoise: see the module's docstring.
        params: first argument of `denoise`, any pytree.
        latents: initial noise (n, h, w, c).
        condition: conditions of each frame, a NumPy array (n, ...) or a tree of them. They stay on
            the host; the device gets those of one group of windows at a time.
        schedule: noise schedule.
        sampling: steps, guidance and windows. A video shorter than a window is one window of its
            own length.
        on_windows: called when windows are complete, with their number since the last call.
        on_step: called after each step with its index and the latents. The next step overwrites
            these latents, so copy them to keep them.

    Returns:
        Clean latents (n, h, w, c), float32.

    Raises:
        ValueError: more steps than the schedule has timesteps.
    """
    # Each step donates the latents, so this is a copy. It is committed to a device as loaded
    # parameters are: otherwise the second step would have other shardings and compile again.
    x = jax.device_put(jnp.array(latents, jnp.float32), jax.local_devices()[0])
    n, halves = len(x), num_halves(sampling.guidance)
    plan = n, sampling.window, sampling.overlap
    starts = [window.start for window in plan_windows(*plan)]
    stride, size = sampling.window - sampling.overlap, min(sampling.window, n)
    weights = crossfade_weights(size, sampling.overlap) if sampling.crossfade else None
    counts = jnp.asarray(count_windows(*plan, weights))
    span = (WINDOWS_PER_CALL - 1) * stride + size  # frames of a group of windows
    groups = starts[::WINDOWS_PER_CALL]
    padding = groups[-1] + span - n
    predict = partial(predict_group, denoise, params, halves=halves, size=size, stride=stride)
    # With no real frames nothing is computed, so this call only compiles.
    start = lax.dynamic_slice_in_dim(_pad_frames(x, padding), 0, span)
    predict(start, _host_slice(condition, 0, span), 0, 0, weights).block_until_ready()
    return_freed_memory()
    for i, step in enumerate(sampling_steps(schedule, sampling.steps)):
        padded = _pad_frames(x, padding)
        total = jnp.zeros((halves, *padded.shape), jnp.float32)
        for g, start in enumerate(groups):
            part = predict(
                lax.dynamic_slice_in_dim(padded, start, span),
                _host_slice(condition, start, span),
                step.timestep,
                n - start,
                weights,
            )
            total = _add_at(total, part, start)
            if on_windows is not None:
                total.block_until_ready()
                on_windows(len(starts[g * WINDOWS_PER_CALL : (g + 1) * WINDOWS_PER_CALL]))
        alphas = step.alpha, step.alpha_prev
        kind = schedule.prediction_type
        x = _guided_step(x, total, counts, sampling.guidance, *alphas, prediction_type=kind)
        if on_step is not None:
            on_step(i, x)
    return x


@partial(jit, static_argnames=("denoise", "halves", "size", "stride"))
def predict_group(
    denoise: Denoise,
    params,
    latents: Array,
    condition: Any,
    timestep: ArrayLike,
    num_frames: ArrayLike,
    weights: Array | np.ndarray | None = None,
    *,
    halves: int,
    size: int,
    stride: int,
) -> Array:
    """Sum the predictions of a group of `WINDOWS_PER_CALL` windows for each frame.

    Args:
        denoise: see the module's docstring.
        params: its first argument.
        latents: noisy latents (frames, h, w, c) of the frames of the group.
        condition: conditions (frames, ...) of these frames.
        timestep: timestep of the schedule.
        num_frames: number of leading frames that are real; the rest is padding.
        weights: (size,), multiplied with the predictions of each window, or None.
        halves: number of predictions that guidance needs.
        size: frames of a window.
        stride: frames from the start of a window to that of the next.

    Returns:
        float32 (halves, frames, h, w, c).
    """

    def predict(start: Array, mask: Array) -> Array:
        cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        predicted = denoise(params, cut(latents), jax.tree.map(cut, condition), timestep, mask)
        return predicted if weights is None else predicted * weights[:, None, None, None]

    shape = (halves, *latents.shape)
    return sum_windows(predict, WINDOWS_PER_CALL, size, stride, num_frames, shape)


@partial(jax.jit, static_argnames="prediction_type", donate_argnames="latents")
def _guided_step(
    latents: Array,
    total: Array,
    counts: Array,
    guidance: ArrayLike,
    alpha: ArrayLike,
    alpha_prev: ArrayLike,
    *,
    prediction_type: str,
) -> Array:
    """Average the windows, apply guidance and take one DDIM step."""
    mean = total[:, : len(latents)] / counts[:, None, None, None]
    return ddim_step(latents, guide(mean, guidance), alpha, alpha_prev, prediction_type)


@partial(jax.jit, donate_argnums=0)
def _add_at(total: Array, part: Array, start: ArrayLike) -> Array:
    """Add the sums of a group, (halves, frames, h, w, c), to `total` from frame `start` on."""
    before = lax.dynamic_slice_in_dim(total, start, part.shape[1], 1)
    return lax.dynamic_update_slice_in_dim(total, before + part, start, 1)


def _pad_frames(x: Array, count: int) -> Array:
    """Append `count` frames of zeros."""
    return jnp.pad(x, ((0, count), (0, 0), (0, 0), (0, 0)))


def _host_slice(tree: Any, start: int, size: int) -> Any:
    """Cut `size` frames from arrays on the host, with zeros behind the last frame."""

    def cut(x: np.ndarray) -> np.ndarray:
        part = np.asarray(x[start : start + size])
        return np.pad(part, ((0, size - len(part)), *[(0, 0)] * (part.ndim - 1)))

    return jax.tree.map(cut, tree)
