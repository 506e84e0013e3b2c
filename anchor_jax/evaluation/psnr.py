"""Peak signal-to-noise ratio."""

import numpy as np


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """10 log10(255^2 / MSE) of each image, in dB; infinite where they are equal.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.

    Returns:
        float64 (n,).
    """
    if images.shape != truth.shape:
        raise ValueError(f"images are {images.shape}, the truth is {truth.shape}")
    error = (images.astype(np.float64) - truth) ** 2
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error.reshape(len(images), -1).mean(1))
