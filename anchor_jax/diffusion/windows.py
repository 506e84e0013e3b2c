"""Overlapping windows over a video: which frames they contain, and the sum of their predictions.

This is batch-overlapped temporal denoising (paper, section 3.2 and algorithm 1). A window starts
every `size - overlap` frames up to the end of the video. The last windows are shorter; they are not
shifted back.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from anchor_jax.shapes import Array


def plan_windows(num_frames: int, size: int, overlap: int) -> list[range]:
    """List the frames of each window, in order.

    >>> plan_windows(11, 4, 1)
    [range(0, 4), range(3, 7), range(6, 10), range(9, 11)]

    Raises:
        ValueError: if there are no frames, or unless 0 <= overlap < size.
    """
    if num_frames < 1:
        raise ValueError("a video has at least one frame")
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} is not within 0 and window size {size}")
    starts = range(0, num_frames, size - overlap)
    return [range(start, min(start + size, num_frames)) for start in starts]


def crossfade_weights(size: int, overlap: int) -> np.ndarray:
    """Compute the weight of each frame of a window, float32 (size,), so that one window passes
    gradually into the next: weights rise over the first `overlap` frames and fall over the last.

    >>> crossfade_weights(5, 1)
    array([0.5, 1. , 1. , 1. , 0.5], dtype=float32)
    """
    place = np.arange(1, size + 1)
    ends = np.minimum(place, place[::-1])
    return np.minimum(ends / (overlap + 1), 1).astype(np.float32)


def count_windows(
    num_frames: int, size: int, overlap: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Count the windows that contain each frame, float32 (n,). With `weights` (size,) sum the
    weights that the windows give the frame.

    >>> count_windows(5, 3, 1)
    array([1., 1., 2., 1., 2.], dtype=float32)
    """
    counts = np.zeros(num_frames, np.float32)
    for window in plan_windows(num_frames, size, overlap):
        counts[window.start : window.stop] += 1 if weights is None else weights[: len(window)]
    return counts


def sum_windows(
    predict_window: Callable[[Array, Array], Array],
    num_windows: int,
    size: int,
    stride: int,
    num_frames: ArrayLike,
    shape: tuple[int, ...],
) -> Array:
    """Sum the windows' predictions of each frame, one window after the other.

    The loop runs once for each window that contains a real frame, so that fewer frames take less
    time in the same program. (A `lax.scan` would need a `lax.cond` inside, whose branches run on
    one thread on CPUs.)

    Args:
        predict_window: (start, num_real) -> (b, size, ...), the prediction of the window from frame
            `start` on. `size` is static; only the first `num_real` frames are real.
        num_windows: the largest number of windows. Those after the last frame are left out.
        size: frames in a window.
        stride: frames between the starts of two windows.
        num_frames: real frames. A traced value, so that all lengths share one program.
        shape: shape of the result, (b, (num_windows - 1) * stride + size, ...).

    Returns:
        float32 `shape`. The values after the last real frame are meaningless.
    """

    def add(i: Array, total: Array) -> Array:
        start = i * stride
        num_real = jnp.minimum(num_frames - start, size)
        before = lax.dynamic_slice_in_dim(total, start, size, 1)
        after = before + predict_window(start, num_real)
        return lax.dynamic_update_slice_in_dim(total, after, start, 1)

    in_use = jnp.clip(-(-jnp.asarray(num_frames) // stride), 0, num_windows)
    return lax.fori_loop(0, in_use, add, jnp.zeros(shape, jnp.float32))
