"""Peak signal-to-noise ratio."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean


def psnr(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, 10 log10(255^2 / MSE).

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: bool (n, h, w), the pixels to average over; default: all.

    Returns:
        dB, float64 (n,): infinite for equal images; NaN for an empty region.

    >>> black, grey = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 51, np.uint8)
    >>> psnr(black, grey).round(2)
    array([13.98])
    """
    check_shapes(images, truth)
    error = (images.astype(np.float64) - truth) ** 2
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / region_mean(error, region))
