"""Mean absolute error."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean


def l1(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """mean |x - y| of each image over pixels and channels, in grey levels: 0 where they are equal,
    at most 255.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: bool (n, h, w), the pixels that count; default: all.

    Returns:
        float64 (n,); NaN where no pixel counts.
    """
    check_shapes(images, truth)
    return region_mean(np.abs(images.astype(np.float64) - truth), region)
