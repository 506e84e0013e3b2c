"""Sample a video of any length: the loop over steps, the loop over windows, and guidance.

The networks are passed in as one callable:

    denoise(params, latents (f, h, w, c), condition (f, ...), timestep, num_real ())
        -> float32 (b, f, h, w, c)

with b = 2 (unconditional, conditional) or, at guidance scale 1, b = 1 (conditional only). The two
halves of guidance come from the context in `params` (see `generation.networks.denoiser_params`),
not from `condition`, which both halves share.

JAX caches compiled programs with this callable as the key. It must be hashable. Two calls share a
program only if their callables compare equal.
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

# Windows in one call of the compiled program. The program loops over them, so their number does not
# change the time to compile. More windows mean fewer calls, but memory for more frames. No
# measurement of other numbers is recorded.
WINDOWS_PER_CALL = 4

# Conditions of a whole video up to this size are put on the device once: 1,300 pose images of
# 512x512. Of a longer video the device gets those of one group of windows at a time.
CONDITION_BYTES = 1 << 30


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
        condition: conditions of each frame, a NumPy array (n, ...) or a tree of them.
        schedule: noise schedule.
        sampling: steps, guidance and windows. A video shorter than a window is one window of the
            video's length.
        on_windows: called when windows are complete, with their number since the last call. The
            device computes the next group of windows meanwhile.
        on_step: called after each step with its index and the latents. The next step overwrites
            these latents, so copy them to keep them.

    Returns:
        Clean latents (n, h, w, c), float32.

    Raises:
        ValueError: more steps than the schedule has timesteps.
    """
    # A copy, because each step donates its latents. It is committed to a device, as loaded
    # parameters are: otherwise the second step has other shardings, and JAX compiles again.
    x = jax.device_put(jnp.array(latents, jnp.float32), jax.local_devices()[0])
    n, halves = len(x), num_halves(sampling.guidance)
    plan = n, sampling.window, sampling.overlap
    window_starts = [window.start for window in plan_windows(*plan)]
    stride, window_size = sampling.window - sampling.overlap, min(sampling.window, n)
    weights = crossfade_weights(window_size, sampling.overlap) if sampling.crossfade else None
    counts = jnp.asarray(count_windows(*plan, weights))
    group_starts = window_starts[::WINDOWS_PER_CALL]
    group_size = (WINDOWS_PER_CALL - 1) * stride + window_size  # frames
    padding = group_starts[-1] + group_size - n
    sum_group = partial(
        predict_group, denoise, params, halves=halves, window_size=window_size, stride=stride
    )
    cut_condition = _condition_slices(condition, n + padding, group_size)
    # Compile before the first step. With 0 real frames the program computes no window.
    first_group = lax.dynamic_slice_in_dim(_pad_frames(x, padding), 0, group_size)
    sum_group(first_group, cut_condition(0), 0, 0, weights).block_until_ready()
    return_freed_memory()
    wait = _wait_one_late(on_windows)
    for i, step in enumerate(sampling_steps(schedule, sampling.steps)):
        padded = _pad_frames(x, padding)
        total = jnp.zeros((halves, *padded.shape), jnp.float32)
        for g, start in enumerate(group_starts):
            group_sum = sum_group(
                lax.dynamic_slice_in_dim(padded, start, group_size),
                cut_condition(start),
                step.timestep,
                n - start,
                weights,
            )
            total = _add_at(total, group_sum, start)
            windows = slice(g * WINDOWS_PER_CALL, (g + 1) * WINDOWS_PER_CALL)
            wait(group_sum, len(window_starts[windows]))
        alphas = step.alpha, step.alpha_prev
        kind = schedule.prediction_type
        x = _guided_step(x, total, counts, sampling.guidance, *alphas, prediction_type=kind)
        if on_step is not None:
            on_step(i, x)
    wait(None, 0)
    return x


@partial(jit, static_argnames=("denoise", "halves", "window_size", "stride"))
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
    window_size: int,
    stride: int,
) -> Array:
    """Sum the predictions of a group of `WINDOWS_PER_CALL` windows for each frame.

    Args:
        denoise: see the module's docstring.
        params: first argument of `denoise`.
        latents: noisy latents (frames, h, w, c) of the frames of the group.
        condition: conditions (frames, ...) of these frames.
        timestep: timestep of the schedule.
        num_frames: number of leading frames that are real; the rest is padding.
        weights: (window_size,), multiplied with the predictions of each window, or None.
        halves: number of predictions that guidance needs.
        window_size: frames of a window.
        stride: frames from the start of a window to the start of the next.

    Returns:
        float32 (halves, frames, h, w, c).
    """

    def predict_window(start: Array, num_real: Array) -> Array:
        cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=window_size)
        predicted = denoise(params, cut(latents), jax.tree.map(cut, condition), timestep, num_real)
        return predicted if weights is None else predicted * weights[:, None, None, None]

    shape = (halves, *latents.shape)
    return sum_windows(predict_window, WINDOWS_PER_CALL, window_size, stride, num_frames, shape)


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
def _add_at(total: Array, group_sum: Array, start: ArrayLike) -> Array:
    """Add the sums of a group, (halves, frames, h, w, c), to `total` from frame `start` on."""
    before = lax.dynamic_slice_in_dim(total, start, group_sum.shape[1], 1)
    return lax.dynamic_update_slice_in_dim(total, before + group_sum, start, 1)


def _pad_frames(x: Array, count: int) -> Array:
    """Append `count` frames of zeros."""
    return jnp.pad(x, ((0, count), (0, 0), (0, 0), (0, 0)))


def _wait_one_late(
    on_windows: Callable[[int], object] | None,
) -> Callable[[Array | None, int], None]:
    """Return a function that takes the sum of a group, which the device may still be computing, and
    its number of windows. It waits for the group of the call before and calls `on_windows`. So
    the device always has a next group to compute, and the host is never further ahead."""
    running: list[tuple[Array, int]] = []

    def wait(group_sum: Array | None, windows: int) -> None:
        for before, count in running:
            before.block_until_ready()
            if on_windows is not None:
                on_windows(count)
        running[:] = [] if group_sum is None else [(group_sum, windows)]

    return wait


def _condition_slices(condition: Any, total: int, count: int) -> Callable[[int], Any]:
    """Return a function of a first frame that returns the conditions of `count` frames.

    Args:
        condition: a tree of arrays (n, ...).
        total: frames with padding. The conditions of padding are zeros.
        count: frames of a slice.
    """

    def cut_on_host(start: int, count: int = count) -> Any:
        def cut(x: np.ndarray) -> np.ndarray:
            frames = np.asarray(x[start : start + count])
            return np.pad(frames, ((0, count - len(frames)), *[(0, 0)] * (frames.ndim - 1)))

        return jax.tree.map(cut, condition)

    if sum(x.nbytes // len(x) for x in jax.tree.leaves(condition)) * total > CONDITION_BYTES:
        return cut_on_host
    whole = jax.device_put(cut_on_host(0, total), jax.local_devices()[0])
    cut = partial(lax.dynamic_slice_in_dim, slice_size=count)
    return lambda start: jax.tree.map(lambda x: cut(x, start), whole)
