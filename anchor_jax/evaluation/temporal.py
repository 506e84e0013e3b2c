"""How steady a video is: flicker where nothing should change, and motion that is not true."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean

STILL = 3  # grey levels: what changes less from frame to frame stands still


def flicker(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """mean |x_{t+1} - x_t| of each two neighbouring frames, over the pixels that stand still in the
    truth, max_c |y_{t+1} - y_t| < 3: in grey levels, 0 for a picture that does not change there, at
    most 255. The measure is ours. A still picture has none, so read it beside the PSNR.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.

    Returns:
        float64 (n - 1,); NaN where every pixel moves.
    """
    changes, expected = _differences(images, truth)
    return region_mean(np.abs(changes), np.abs(expected).max(-1) < STILL)


def temporal_error(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """mean |(x_{t+1} - x_t) - (y_{t+1} - y_t)| of each two neighbouring frames, in grey levels: 0
    for a video that changes as the truth does, at most 510. The difference of temporal derivatives
    as in dtSSD (Erofeev et al. 2015, of mattes), but its mean magnitude and not its root mean
    square.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.

    Returns:
        float64 (n - 1,).
    """
    changes, expected = _differences(images, truth)
    return region_mean(np.abs(changes - expected))


def _differences(images: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of neighbouring frames of both, float64 (n - 1, h, w, c)."""
    check_shapes(images, truth)
    return np.diff(images.astype(np.float64), axis=0), np.diff(truth.astype(np.float64), axis=0)
