"""Write the results of a study as a table, a plot and JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from anchor_jax import pages
from anchor_jax.shapes import Images

_CONFIDENCE = 0.95
# Columns of the table: score, heading and number of decimals. Every score needs an entry.
SCORES = {
    "body/psnr": ("PSNR", 2),
    "body/ssim": ("SSIM", 3),
    "body/l1": ("L1", 2),
    "face/psnr": ("face PSNR", 2),
    "face/ssim": ("face SSIM", 3),
    "face/l1": ("face L1", 2),
    "hands/psnr": ("hands PSNR", 2),
    "hands/ssim": ("hands SSIM", 3),
    "hands/l1": ("hands L1", 2),
    "flicker": ("flicker", 3),
    "temporal_error": ("temporal error", 3),
    "face/flicker": ("face flicker", 3),
    "face/temporal_error": ("face temporal error", 3),
    "fvd": ("FVD", 1),
    "lmd_body": ("LMD body", 2),
    "lmd_face": ("LMD face", 2),
    "lmd_hands": ("LMD hands", 2),
    "identity": ("identity", 3),
    "stlpips": ("ST-LPIPS", 4),
    "seconds_per_frame": ("s/frame", 3),
    "memory_mb": ("peak MB", 0),
    "gflops_per_frame": ("GFLOPs/frame/step", 2),
    "computed_again": ("frames computed again", 2),
}


@dataclass(frozen=True)
class Result:
    """The measurements of one row of a study.

    Attributes:
        scores: scores of each seed.
        once: scores that do not depend on the seed.
        autoencoder: scores of the autoencoder alone.
        frames: some frames of the first seed, chosen by `preview.moments`, uint8 (k, h, w, 3).
        dtype: type that the networks computed in.

    Raises:
        ValueError: a score has no entry in `SCORES`, so that no table would show it.
    """

    scores: list[dict[str, float]]
    once: dict[str, float]
    autoencoder: dict[str, float]
    frames: Images
    dtype: str = "float32"

    def __post_init__(self) -> None:
        names = {*self.once, *self.autoencoder, *(name for score in self.scores for name in score)}
        if missing := sorted(names - set(SCORES)):
            raise ValueError(f"scores without an entry in `SCORES`: {', '.join(missing)}")

    def estimate(self, name: str) -> tuple[float, float]:
        """Return mean and half confidence interval of a score over the seeds, see `_interval`."""
        if name in self.once:
            return self.once[name], 0.0
        return _interval([score.get(name, math.nan) for score in self.scores])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the 95 % confidence interval of the expected value, m - h to m + h.

    The half width is h = t s / sqrt(k) for k values with sample deviation s, where t is the 97.5 %
    quantile of Student's t distribution with k - 1 degrees of freedom (Student 1908,
    https://doi.org/10.1093/biomet/6.1.1).

    Returns:
        Mean m and half width h; h is NaN for a single value.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return mean, math.nan
    deviation = float(np.std(values, ddof=1))
    t = float(special.stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
    return mean, t * deviation / math.sqrt(count)


def markdown(results: Mapping[str, Result]) -> str:
    """Format results as a Markdown table.

    Args:
        results: the results by the titles of their rows. The last row is the autoencoder of the
            first result.
    """
    names = _present_scores(results)
    lines = [["", *(SCORES[name][0] for name in names)]]
    for title, result in results.items():
        lines.append([title, *(_cell(*result.estimate(name), SCORES[name][1]) for name in names)])
    limits = next(iter(results.values())).autoencoder
    cells = [_cell(limits.get(name, math.nan), 0.0, SCORES[name][1]) for name in names]
    lines.append(["autoencoder alone", *cells])
    return pages.markdown(lines)


def plot(results: Mapping[str, Result]) -> str:
    """Plot results as SVG text, with a panel for each score.

    Args:
        results: the results by the titles of their rows. A panel shows mean and confidence interval
            of each, and a line for the autoencoder of the first.
    """
    from matplotlib.figure import Figure

    names = _present_scores(results)
    titles = list(results)[::-1]  # from top to bottom
    limits = next(iter(results.values())).autoencoder
    columns = 3
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(12, rows * (0.8 + 0.25 * len(titles))), layout="constrained")
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, number)
        for place, title in enumerate(titles):
            mean, half = results[title].estimate(name)
            error = half if math.isfinite(half) and half else None
            axes.errorbar(mean, place, xerr=error, fmt="o", markersize=4, capsize=3, color="C0")
        if math.isfinite(limits.get(name, math.nan)):
            axes.axvline(limits[name], color="C1", linewidth=1)
        axes.set_yticks(range(len(titles)), titles if number % columns == 1 else [""] * len(titles))
        axes.set_ylim(-0.5, len(titles) - 0.5)
        axes.set_title(SCORES[name][0], fontsize=9)
        axes.tick_params(labelsize=8)
    key = "bars: 95 % intervals over the seeds; line: the autoencoder alone"
    figure.supxlabel(key, fontsize=9)
    return pages.svg(figure)


def json_safe(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON does not have them.

    >>> json_safe({"psnr": [math.inf, 20.5]})
    {'psnr': [None, 20.5]}
    """
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(value: Any) -> str:
    """Format a value as indented JSON, with None for NaN and infinity."""
    return json.dumps(json_safe(value), indent=1)


def _present_scores(results: Mapping[str, Result]) -> list[str]:
    """Return the names of the scores that at least one result has, in the order of `SCORES`."""
    return [
        name
        for name in SCORES
        if any(not math.isnan(result.estimate(name)[0]) for result in results.values())
    ]


def _cell(mean: float, half: float, decimals: int) -> str:
    """Format a cell of the table; it is empty for NaN."""
    if math.isnan(mean):
        return ""
    text = f"{mean:.{decimals}f}"
    return f"{text} ± {half:.{decimals}f}" if math.isfinite(half) and half else text
