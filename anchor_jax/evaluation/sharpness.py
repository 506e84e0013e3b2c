"""Sharpness, by the variance of the Laplacian (Pech-Pacheco et al. 2000,
https://doi.org/10.1109/ICPR.2000.903548)."""

import numpy as np
from scipy.ndimage import laplace

from anchor_jax.evaluation.regions import check_shapes
from anchor_jax.threads import map_rows


def sharpness(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute how sharp each image is compared with the truth: the ratio of their variances.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.

    Returns:
        float64 (n,): 1 if it is as sharp, less if it is blurred, more with noise; NaN if the truth
        has one grey level.
    """
    check_shapes(images, truth)
    expected = laplacian_variance(truth)
    return laplacian_variance(images) / np.where(expected > 0, expected, np.nan)


def laplacian_variance(images: np.ndarray) -> np.ndarray:
    """Compute the variance of the Laplacian of the grey levels of each image: float64 (n,)."""
    return np.array(map_rows(lambda image: laplace(image.mean(-1)).var(), images))
