"""Mean absolute error."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean


def l1(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean absolute error of each image, mean |x - y| over pixels and channels.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: bool (n, h, w), the pixels to average over; default: all.

    Returns:
        Grey levels, float64 (n,): 0 for equal images, at most 255; NaN for an empty region.

    >>> black, grey = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 51, np.uint8)
    >>> l1(black, grey)
    array([51.])
    """
    check_shapes(images, truth)
    return region_mean(np.abs(images.astype(np.float64) - truth), region)
