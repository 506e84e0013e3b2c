"""Warping error along the optical flow, with an occlusion mask (Lai et al. 2018, section 4.1,
https://arxiv.org/abs/1808.00449).

The flow is that of the true video, so a video is consistent if its pixels move as the true ones.
It is computed by DIS (Kroeger et al. 2016, https://arxiv.org/abs/1603.03590) of OpenCV.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from anchor_jax.evaluation.regions import check_shapes, region_mean
from anchor_jax.evaluation.weights import Unavailable
from anchor_jax.threads import map_rows

SMALLEST = 16  # pixels of a side that DIS can read

# A pixel is occluded where flow there and back do not cancel (Sundaram et al. 2010,
# https://doi.org/10.1007/978-3-642-15549-9_32, equation 5).
_SHARE, _CONSTANT = 0.01, 0.5


def flow_error(images: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, " m"]:
    """Compute the mean squared difference of each frame and the next one, warped back along the
    flow of the truth, over the pixels that are not occluded.

    Args:
        images: uint8 (n, h, w, 3).
        truth: the same shape.

    Returns:
        float64 (n - 1,), with pixels of 0 to 1 as published: 0 for a still video, and about 1e-4
        for the truth itself, since a flow is not exact. NaN if all pixels are occluded.

    Raises:
        Unavailable: OpenCV is not installed.
    """
    return flow_errors(images, truth)[:, 0]


def flow_errors(images: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, "m 2"]:
    """Compute `flow_error` of the images and of the truth itself, with the same flow."""
    check_shapes(images, truth)
    check_opencv()
    number = range(len(images) - 1)
    errors = map_rows(lambda t: _errors(images[t : t + 2], truth[t : t + 2]), number)
    return np.array(errors, np.float64).reshape(-1, 2)


def check_opencv() -> None:
    """Raise Unavailable if OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise Unavailable("flow_error needs OpenCV: pip install 'anchor-jax[evaluate]'")


def _errors(images: np.ndarray, truth: np.ndarray) -> list[float]:
    import cv2

    grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in truth]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    none: Any = None  # of an earlier flow
    there, back = flow.calc(grey[0], grey[1], none), flow.calc(grey[1], grey[0], none)
    height, width = grey[0].shape
    places = there + np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    x, y = (np.ascontiguousarray(places[..., i], np.float32) for i in range(2))
    at_places = lambda image: cv2.remap(image, x, y, cv2.INTER_LINEAR)
    returned = at_places(back)
    squares = lambda x: (x * x).sum(-1)
    apart = squares(there + returned) > _SHARE * (squares(there) + squares(returned)) + _CONSTANT
    inside = ((places >= 0) & (places <= (width - 1, height - 1))).all(-1)
    region = (inside & ~apart)[None]

    def error(pair: np.ndarray) -> float:
        first, second = (frame.astype(np.float32) / 255 for frame in pair)
        return float(
            region_mean(((at_places(second) - first).astype(np.float64) ** 2)[None], region)[0]
        )

    return [error(images), error(truth)]
