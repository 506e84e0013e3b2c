"""Temporal consistency: flicker of static pixels, and error of the change between frames."""

import numpy as np

from anchor_jax.evaluation.regions import check_shapes, region_mean

_STILL = 3  # grey levels: pixels that change less from frame to frame are static


def flicker(images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Mean change between consecutive frames, |x_{t+1} - x_t|, over the pixels that are static.

    A pixel is static if max_c |y_{t+1} - y_t| < 3 grey levels in the truth. This metric is our own
    definition. A frozen video has no flicker, so report it together with PSNR.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: bool (n, h, w): only pixels that are in it in both frames; default: all pixels.

    Returns:
        Grey levels, float64 (n - 1,): 0 if static pixels never change, at most 255; NaN if all
        pixels move.
    """
    changes, expected = _differences(images, truth)
    still = np.abs(expected).max(-1) < _STILL
    return region_mean(np.abs(changes), still if region is None else still & _in_both(region))


def temporal_error(
    images: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None
) -> np.ndarray:
    """Mean error of the change between consecutive frames, |(x_{t+1} - x_t) - (y_{t+1} - y_t)|.

    The difference of temporal derivatives is that of dtSSD, a metric of video mattes (Erofeev et
    al., BMVC 2015, https://videomatting.com). Deviation: mean magnitude, not root mean
    square.

    Args:
        images: uint8 (n, h, w, c).
        truth: the same shape.
        region: as for `flicker`.

    Returns:
        Grey levels, float64 (n - 1,): 0 if the video changes as the truth does, at most 510; NaN
        for an empty region.
    """
    changes, expected = _differences(images, truth)
    return region_mean(np.abs(changes - expected), None if region is None else _in_both(region))


def _in_both(region: np.ndarray) -> np.ndarray:
    """Return the pixels that are in a region in two consecutive frames, bool (n - 1, h, w)."""
    return region[1:] & region[:-1]


def _differences(images: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of consecutive frames of both videos, float64 (n - 1, h, w, c)."""
    check_shapes(images, truth)
    return np.diff(images.astype(np.float64), axis=0), np.diff(truth.astype(np.float64), axis=0)
