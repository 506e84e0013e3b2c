"""The result of an evaluation: scores, intervals, clips and drift."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from anchor_jax.evaluation.fvd import fvd
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.shapes import Images

_DRIFT_SECONDS = 10
_FPS = 30  # of folders, whose rate is unknown
_RESAMPLES = 2000
_FVD_RESAMPLES = 100
_FVD_CLIPS = 5  # that an interval needs
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Frame:
    """A frame beside its truth.

    Attributes:
        video: number of the pair, from 0.
        number: number of the frame, from 0.
        generated: uint8 (h, w, 3).
        truth: uint8 (h, w, 3).
        error: its L1, grey levels.
    """

    video: int
    number: int
    generated: Images
    truth: Images
    error: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated videos.

    Attributes:
        values: for each pair and metric of frames, float64 (n,); of changes, (n - 1,); of jitter,
            (n - 2,). Empty if there are none.
        clip: frames of a clip of the table.
        scores: for each metric the mean over all frames; and "fvd".
        intervals: for each metric the 95 % interval of its score by bootstrap over clips; NaN where
            there are fewer than two.
        floors: noise floors: what the truth scores against disturbed copies of itself, by metric.
        worst: the frames of the highest L1, worst first.
        facts: the files, sizes, settings and weights, JSON values.
        notes: what was left out, and why, one sentence each.
    """

    values: list[dict[str, np.ndarray]]
    clip: int
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    floors: dict[str, float] = field(default_factory=dict)
    worst: list[Frame] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def clips(self) -> list[tuple[int, int, dict[str, float]]]:
        """Return the scores of each clip: number of the pair, first frame, and means by metric. The
        last clip of a video may be shorter."""
        return [
            (
                pair,
                start,
                {name: known_mean(x[start : start + self.clip]) for name, x in values.items()},
            )
            for pair, values in enumerate(self.values)
            for start in range(0, max(map(len, values.values())), self.clip)
        ]

    def pieces(self, name: str) -> list[np.ndarray]:
        """Return the values of a metric in each clip, without NaN."""
        found = [
            x[name][start : start + self.clip]
            for x in self.values
            for start in range(0, len(x[name]), self.clip)
        ]
        return [x[~np.isnan(x)] for x in found]

    def drift(self) -> list[dict[str, float]]:
        """Return for each pair how far each metric moves, from its mean over the first ten seconds
        to that over the last ten; NaN for videos that are too short for both. Folders count as 30
        frames a second."""
        found = []
        for values, facts in zip(self.values, self.facts["videos"], strict=False):
            rate = Fraction(facts["frames per second"] or _FPS)
            length = round(_DRIFT_SECONDS * rate)
            found.append(
                {
                    name: known_mean(x[-length:]) - known_mean(x[:length])
                    if len(x) >= 2 * length - 2  # changes and jitter have fewer values
                    else float("nan")
                    for name, x in values.items()
                }
            )
        return found


def interval(pieces: Sequence[np.ndarray]) -> tuple[float, float]:
    """Compute the 95 % percentile interval of the mean of all values, by bootstrap over the pieces
    in which they come (Efron 1979, https://doi.org/10.1214/aos/1176344552). NaN of fewer than two
    pieces, or values that are not finite."""
    known = [x for x in pieces if len(x)]
    sums, counts = np.array([x.sum() for x in known]), np.array([len(x) for x in known])
    if len(known) < 2 or not np.isfinite(sums).all():
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(0, len(known), (_RESAMPLES, len(known)))
    return _quantiles(sums[chosen].sum(1) / counts[chosen].sum(1))


def fvd_interval(generated: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Compute the interval of an FVD by bootstrap over pairs of a generated clip and its truth.
    Repeated clips look like a narrower set, so that the distances lie too high; they are shifted to
    have the distance of all clips as their median, but not below zero. NaN of fewer than five
    clips, of which too few sets can be drawn."""
    if len(truth) < _FVD_CLIPS:
        return float("nan"), float("nan")
    found = fvd(generated, truth)
    rows = np.random.default_rng(0).integers(0, len(truth), (_FVD_RESAMPLES, len(truth)))
    rows = [row for row in rows if len(set(row)) > 1]
    again = np.array([fvd(generated[row], truth[row]) for row in rows])
    return _quantiles(np.maximum(again + found - np.median(again), 0))


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)
