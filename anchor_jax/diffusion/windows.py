"""Overlapping windows over a video: which frames they contain, and what they share.

This is batch-overlapped temporal denoising (paper, section 3.2 and algorithm 1). A window starts
every `size - overlap` frames up to the end of the video. The last windows are shorter; they are not
shifted back. The frames from the start of a window to the start of the next are a *block*: a video
has as many blocks as windows, and later windows do not contain them.
"""

import numpy as np


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


def num_windows(num_frames: int, stride: int) -> int:
    """Count the windows of `plan_windows`; the stride is `size - overlap`.

    >>> num_windows(11, 3)
    4
    """
    return -(-num_frames // stride)


def crossfade_weights(size: int, overlap: int) -> np.ndarray:
    """Compute the weight of each frame of a window, float32 (size,), so that one window passes
    gradually into the next: weights rise over the first `overlap` frames and fall over the last.

    >>> crossfade_weights(5, 1)
    array([0.5, 1. , 1. , 1. , 0.5], dtype=float32)
    """
    place = np.arange(1, size + 1)
    ends = np.minimum(place, place[::-1])
    return np.minimum(ends / (overlap + 1), 1).astype(np.float32)


def reach(size: int, stride: int) -> int:
    """Count the windows that start inside a window, after it.

    >>> reach(16, 12), reach(4, 1), reach(4, 4)
    (1, 3, 0)
    """
    return -(-size // stride) - 1


def count_windows(weights: np.ndarray, stride: int) -> np.ndarray:
    """Sum the weights that the windows of a video give each frame of a block. With weights of 1
    this is the number of windows that contain the frame.

    >>> count_windows(np.ones(3, np.float32), 2)
    array([[1., 1.],
           [2., 1.]], dtype=float32)

    Args:
        weights: weights of the frames of a window, (size,).
        stride: frames from the start of a window to the start of the next, at most the size.

    Returns:
        float32 (b, stride): the first rows are the first blocks of the video, which fewer windows
        contain; all later blocks are like the last row.
    """
    blocks = reach(len(weights), stride) + 1
    padded = np.pad(weights, (0, blocks * stride - len(weights)))
    return np.cumsum(padded.reshape(blocks, stride), 0, dtype=np.float32)
