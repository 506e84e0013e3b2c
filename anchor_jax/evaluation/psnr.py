"""Peak signal-to-noise ratio."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean


def psnr(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """10 log10(255^2 / MSE) of each image, in dB; infinite where they are equal.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: bool (n, h, w), the pixels that count; default: all.

    Returns:
        float64 (n,); NaN where no pixel counts.
    """
    check_shapes(images, truth)
    error = (images.astype(np.float64) - truth) ** 2
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / region_mean(error, region))
