"""Landmark mean distance (LMD, section 4.2 of the paper) of body, face and hands, and jitter.

The paper finds landmarks with OpenPose and ignores outliers of the hands, but does not say which
these are. Here it is a hand that is farther away than the median of its video by more than three
standard deviations, estimated from the median absolute deviation (Hampel 1974,
https://doi.org/10.1080/01621459.1974.10482962).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from anchor_jax.evaluation.people import Person

PARTS = "body", "face", "hands"
_DEVIATIONS = 3
_SIGMA = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


def points_of(people: Sequence[Person]) -> dict[str, np.ndarray]:
    """Return the landmarks of some frames by part: "body" (n, 1, 17, 2), "face" (n, 1, 68, 2) and
    "hands" (n, 2, 21, 2)."""
    parts = {part: np.stack([getattr(person, part) for person in people]) for part in PARTS}
    return {part: x if part == "hands" else x[:, None] for part, x in parts.items()}


def mean_distances(
    points: Float[np.ndarray, "n p k 2"], expected: Float[np.ndarray, "n p k 2"]
) -> Float[np.ndarray, "n p"]:
    """Compute how far landmarks are from where they should be: the mean over those that are seen
    in both.

    Args:
        points: n frames, p parts such as hands, k landmarks of x, y; NaN if not seen.
        expected: the same of the truth.

    Returns:
        float64 (n, p), pixels; NaN if no landmark is seen in both.
    """
    return _mean_of_known(np.linalg.norm(points - expected, axis=-1))


def without_outliers(distances: Float[np.ndarray, "n p"]) -> tuple[np.ndarray, float]:
    """Leave outliers out of the distances of a video.

    Returns:
        float64 (n,), the mean over the parts that are left, NaN if there is none; and the share of
        the known distances that was ignored.

    >>> without_outliers(np.array([[1.0, 1.2], [1.1, np.nan], [0.9, 50.0]]))
    (array([1.1, 1.1, 0.9]), 0.2)
    """
    known = distances[~np.isnan(distances)]
    if not len(known):
        return np.full(len(distances), np.nan), 0.0
    middle = np.median(known)
    deviation = np.median(abs(known - middle))
    # Half of the hands may lie at the very same distance: that says nothing of the others.
    fence = middle + _DEVIATIONS * _SIGMA * deviation if deviation else np.inf
    with np.errstate(invalid="ignore"):
        kept = np.where(distances <= fence, distances, np.nan)
    return _mean_of_known(kept), float((known > fence).mean())


def jitter(
    points: Float[np.ndarray, "n p k 2"], expected: Float[np.ndarray, "n p k 2"]
) -> Float[np.ndarray, " m"]:
    """Compute how much more landmarks shake than they should: the mean length of their second
    difference, |p_{t+1} - 2 p_t + p_{t-1}|, minus that of the truth. This is our own definition.

    Args:
        points: as for `mean_distances`.
        expected: the same of the truth.

    Returns:
        Pixels, float64 (n - 2,): 0 if they move as the truth's, negative if they move more
        smoothly, NaN if no landmark is seen in both for three frames.
    """
    lengths = [np.linalg.norm(np.diff(x, 2, axis=0), axis=-1) for x in (points, expected)]
    return _mean_of_known((lengths[0] - lengths[1]).reshape(len(lengths[0]), -1))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Average over the last axis the values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / np.where(known.any(-1), known.sum(-1), np.nan)
