"""Structural similarity (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861)."""

import numpy as np
from scipy.ndimage import gaussian_filter

from anchor_jax.evaluation.regions import check_shapes, region_mean
from anchor_jax.threads import map_rows

_SIGMA, _RADIUS = 1.5, 5  # the paper's Gaussian window of 11x11 pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean structural similarity of each image, equation 13 of the paper per window.

    The mean is over channels and over all windows that lie inside the image.

    Args:
        images: uint8 (n, h, w, c), sides of at least 11 pixels.
        truth: the same shape.
        region: bool (n, h, w), the centres of the windows to average over; default: all.

    Returns:
        float64 (n,): 1 for equal images; NaN for an empty region.
    """
    return ssim_in_region(ssim_map(images, truth), region)


def ssim_in_region(similarity: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Average a result of `ssim_map` over a region; arguments and result as for `ssim`."""
    inside = np.s_[:, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return region_mean(similarity, None if region is None else region[inside])


def ssim_map(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute the structural similarity of each window inside the images, equation 13 of the paper.

    Args:
        images: as for `ssim`.
        truth: the same shape.

    Returns:
        float64 (n, h - 10, w - 10, c).
    """
    check_shapes(images, truth)
    return np.stack(map_rows(_similarity, zip(images, truth, strict=True)))


def _similarity(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Compute the row of `ssim_map` for an image and its truth."""

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, _SIGMA, radius=_RADIUS, axes=(0, 1))

    x, y = (image.astype(np.float64) for image in pair)
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    )
    return similarity[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
