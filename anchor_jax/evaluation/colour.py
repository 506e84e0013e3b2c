"""Errors of the colour as a whole, which errors of pixels hide."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes


def colour(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute how far the mean colour of each image is from the truth's, the mean over channels of
    |mean x - mean y|. A colour cast that grows over a video shows here. This is our own definition.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.

    Returns:
        Grey levels, float64 (n,): 0 to 255.
    """
    check_shapes(images, truth)
    return np.abs(images.mean((1, 2)) - truth.mean((1, 2))).mean(-1)
