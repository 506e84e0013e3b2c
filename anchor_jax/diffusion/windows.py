"""Overlapping windows over a video: where they lie, and the average of what they predict.

Batch-overlapped temporal denoising (paper, section 3.2 and algorithm 1). Windows start every
`size - overlap` frames for as long as there are frames; the last ones are short, never shifted.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from anchor_jax.shapes import Array


def plan_windows(num_frames: int, size: int, overlap: int) -> list[range]:
    """The frames of each window, in order.

    >>> plan_windows(11, 4, 1)
    [range(0, 4), range(3, 7), range(6, 10), range(9, 11)]

    Raises:
        ValueError: if there are no frames, or not 0 <= overlap < size.
    """
    if num_frames < 1:
        raise ValueError("a video has at least one frame")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} is not within 0 and window size {size}")
    starts = range(0, num_frames, size - overlap)
    return [range(start, min(start + size, num_frames)) for start in starts]


def crossfade_weights(size: int, overlap: int) -> np.ndarray:
    """How much each frame of a window counts in the average, float32 (size,), where one window is
    to pass gradually into the next: rising over its first `overlap` frames, falling over its last.

    >>> crossfade_weights(5, 1)
    array([0.5, 1. , 1. , 1. , 0.5], dtype=float32)
    """
    place = np.arange(1, size + 1)
    ends = np.minimum(place, place[::-1])
    return np.minimum(ends / (overlap + 1), 1).astype(np.float32)


def count_windows(
    num_frames: int, size: int, overlap: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """How many windows hold each frame, float32 (n,), each counted by the weight (size,) that it
    gives the frame."""
    counts = np.zeros(num_frames, np.float32)
    for window in plan_windows(num_frames, size, overlap):
        counts[window.start : window.stop] += 1 if weights is None else weights[: len(window)]
    return counts


def sum_windows(
    predict: Callable[[Array, Array], Array],
    num_windows: int,
    size: int,
    stride: int,
    num_frames: ArrayLike,
    shape: tuple[int, ...],
) -> Array:
    """Sum over windows of each frame's prediction, one window after the other.

    The loop runs as often as there are windows, so that a shorter rest costs less but compiles
    nothing. (A `lax.scan` would need a `lax.cond` inside, whose branches a CPU runs on one thread.)

    Args:
        predict: (start, frame_mask (size,)) -> (b, size, ...), the window's prediction. A window
            is a static `size` long; where fewer frames are left the mask is False.
        num_windows: at most; those that would start after the last frame are left out.
        size: frames in a window.
        stride: frames between the starts of two windows.
        num_frames: traced, so that another length compiles nothing.
        shape: of the result, (b, (num_windows - 1) * stride + size, ...).

    Returns:
        float32 `shape`; past the last real frame the values mean nothing.
    """

    def add(i: Array, total: Array) -> Array:
        start = i * stride
        mask = start + jnp.arange(size) < num_frames
        before = lax.dynamic_slice_in_dim(total, start, size, 1)
        return lax.dynamic_update_slice_in_dim(total, before + predict(start, mask), start, 1)

    in_use = jnp.clip(-(-jnp.asarray(num_frames) // stride), 0, num_windows)
    return lax.fori_loop(0, in_use, add, jnp.zeros(shape, jnp.float32))
