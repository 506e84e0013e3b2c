"""The pixels that a metric averages over: all, or those that move below the head (arms, hands)."""

import numpy as np

_MOVES = 30  # grey levels from the clip's median: above noise and compression


def check_shapes(images: np.ndarray, truth: np.ndarray) -> None:
    """Raise ValueError unless images and true images have the same shape."""
    if images.shape != truth.shape:
        raise ValueError(f"images are {images.shape}, the truth is {truth.shape}")


def region_mean(values: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean over all channels and the pixels of a region, for each image.

    Args:
        values: float64 (n, h, w, c).
        region: bool (n, h, w); default: all pixels.

    Returns:
        float64 (n,); NaN for an empty region.

    Raises:
        ValueError: the region has another shape.
    """
    if region is None:
        return values.reshape(len(values), -1).mean(1)
    if region.shape != values.shape[:3]:
        raise ValueError(f"the region is {region.shape}, expected {values.shape[:3]}")
    total = np.where(region, values.mean(-1), 0).sum((1, 2))
    with np.errstate(invalid="ignore"):
        return total / region.sum((1, 2))


def known_mean(values: np.ndarray) -> float:
    """Average the values that are not NaN; NaN if there are none.

    >>> known_mean(np.array([1.0, np.nan, 2.0]))
    1.5
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def moving_below(truth: np.ndarray, top: int = 0) -> np.ndarray:
    """Find the moving pixels: max_c |y_t - median_t y| > 30 grey levels, from row `top` down.

    With `top` at the chin of a talking person, these are the arms and hands, and the background
    where they are usually seen. This region is our own definition.

    Args:
        truth: uint8 (n, h, w, c), a whole clip from a static camera.
        top: the first row of the region, such as the lowest row of the head.

    Returns:
        bool (n, h, w).
    """
    moved = np.abs(truth - np.median(truth, 0)).max(-1) > _MOVES
    moved[:, :top] = False
    return moved
