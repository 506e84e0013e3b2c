"""Structural similarity (Wang et al. 2004)."""

import numpy as np
from scipy.ndimage import gaussian_filter

from anchor_jax.evaluation.regions import check_shapes, region_mean

SIGMA, RADIUS = 1.5, 5  # the paper's window: 11x11
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean structural similarity of each image over the pixels that a whole window fits around and
    over the channels; 1 where they are equal.

    Args:
        images: uint8 (n, h, w, c), sides of at least 11 pixels.
        truth: the same shape.
        region: bool (n, h, w), the windows' middles that count; default: all.

    Returns:
        float64 (n,); NaN where none counts.
    """
    check_shapes(images, truth)

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, SIGMA, radius=RADIUS, axes=(1, 2))

    x, y = images.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    )
    inside = np.s_[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    return region_mean(similarity[inside], None if region is None else region[inside])
