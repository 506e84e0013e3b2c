"""The pixels that a metric counts: all, or the moving ones below the head, arms and hands."""

import numpy as np

MOVES = 30  # grey levels from the clip's median: more than noise and compression


def check_shapes(images: np.ndarray, truth: np.ndarray) -> None:
    """Raise ValueError unless each image has its truth."""
    if images.shape != truth.shape:
        raise ValueError(f"images are {images.shape}, the truth is {truth.shape}")


def region_mean(values: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean of each image's values over the pixels of a region and all channels.

    Args:
        values: float64 (n, h, w, c).
        region: bool (n, h, w); default: all pixels.

    Returns:
        float64 (n,); NaN where no pixel is in the region.
    """
    if region is None:
        return values.reshape(len(values), -1).mean(1)
    if region.shape != values.shape[:3]:
        raise ValueError(f"the region is {region.shape}, expected {values.shape[:3]}")
    total = np.where(region, values.mean(-1), 0).sum((1, 2))
    with np.errstate(invalid="ignore"):
        return total / region.sum((1, 2))


def moving_below(truth: np.ndarray, top: int = 0) -> np.ndarray:
    """Where max_c |y_t - median_t y| > 30 grey levels, from row `top` down: whatever moves against
    what is usually seen there. With `top` at the chin of a talking person these are arms and
    hands, and what they uncover. The measure is ours.

    Args:
        truth: uint8 (n, h, w, c), a whole clip before a still camera.
        top: the first row that counts, such as the lowest one of the head.

    Returns:
        bool (n, h, w).
    """
    moved = np.abs(truth - np.median(truth, 0)).max(-1) > MOVES
    moved[:, :top] = False
    return moved
