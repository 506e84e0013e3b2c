"""Write an evaluation: numbers as JSON, a table, and a page with curves and the worst frames."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from anchor_jax import pages
from anchor_jax.data.dataset import encode
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.files import placed
from anchor_jax.studies.evaluation import Evaluation
from anchor_jax.studies.results import json_text
from anchor_jax.versions import versions

# Heading with unit, and number of decimals.
METRICS = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "l1": ("L1, grey levels", 2),
    "lpips": ("LPIPS", 4),
    "stlpips": ("ST-LPIPS", 4),
    "sharpness": ("sharpness / truth", 3),
    "colour": ("colour error, grey levels", 2),
    "flicker": ("flicker, grey levels", 3),
    "temporal_error": ("temporal error, grey levels", 3),
    "flow_error": ("warping error", 6),
    "lmd_body": ("LMD body, px", 2),
    "lmd_face": ("LMD face, px", 2),
    "lmd_hands": ("LMD hands, px", 2),
    "jitter": ("jitter, px", 3),
    "identity": ("identity distance", 3),
    "fid": ("FID", 2),
    "kid": ("KID", 5),
    "clip_frechet": ("Fréchet distance, CLIP", 3),
    "clip_kernel": ("kernel distance, CLIP", 4),
    "fvd": ("FVD", 1),
}
FILES = {"evaluation.json", "evaluation.md", "report.html"}
_POINTS = 1000  # of a curve, at most


def write_evaluation(out: Path, result: Evaluation) -> None:
    """Write the folder `out` with `evaluation.json`, `evaluation.md` and `report.html`.

    Args:
        out: the folder; an older one is replaced when the new one is complete.
        result: the evaluation.

    Raises:
        AnchorError: it cannot be written; an older folder then stays.
    """
    content = {
        "scores": result.scores,
        "intervals": result.intervals,
        "clips": [
            {"pair": pair, "first frame": start, **row} for pair, start, row in result.clips()
        ],
        "noise floors": result.floors,
        "drift": result.drift(),
        "frames": [{name: x.tolist() for name, x in pair.items()} for pair in result.values],
        "worst": [{"pair": x.video, "frame": x.number, "l1": x.error} for x in result.worst],
        "notes": result.notes,
        **result.facts,
        "versions": versions(),
    }
    with placed(out) as partial:
        partial.mkdir()
        (partial / "evaluation.json").write_text(json_text(content) + "\n", "utf-8")
        (partial / "evaluation.md").write_text(table(result) + "\n", "utf-8")
        (partial / "report.html").write_text(_report(result), "utf-8", "backslashreplace")


def table(result: Evaluation) -> str:
    """Format the scores as a Markdown table: all frames with intervals, noise floors, where people
    are found, then each clip."""
    names = list(result.scores)
    lines = [["", *(METRICS[name][0] for name in names)], *_overall(result, names)]
    for pair, start, row in result.clips():
        title = f"video {pair + 1}, frames {start + 1} to {_last(result, pair, start)}"
        lines.append([title, *_cells(row, names)])
    for pair, row in enumerate(result.drift(), 1):
        if any(map(math.isfinite, row.values())):
            lines.append([f"video {pair}, last 10 s minus first 10 s", *_cells(row, names)])
    return pages.markdown(lines)


def _overall(result: Evaluation, names: Sequence[str]) -> list[list[str]]:
    """Make the rows of all frames: scores, noise floors, and where people are found."""
    rows = [["all", *(_cell(result, name) for name in names)]]
    if result.floors:
        rows.append(["noise floor", *_cells(result.floors, names)])
    for side, parts in result.facts.get("found", {}).items():
        shares = {f"lmd_{part}": f"{100 * share:.0f} %" for part, share in parts.items()}
        rows.append([f"found, {side}", *(shares.get(name, "") for name in names)])
    return rows


def _cells(row: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [_number(row.get(name, math.nan), METRICS[name][1]) for name in names]


def _last(result: Evaluation, pair: int, start: int) -> int:
    return min(start + result.clip, result.facts["videos"][pair]["frames"])


def _cell(result: Evaluation, name: str) -> str:
    low, high = result.intervals.get(name, (math.nan, math.nan))
    decimals = METRICS[name][1]
    text = _number(result.scores[name], decimals)
    return f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]" if math.isfinite(low) else text


def _number(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"


def _report(result: Evaluation) -> str:
    names = list(result.scores)
    rows = [["", *(html.escape(METRICS[name][0]) for name in names)], *_overall(result, names)]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
    parts = [
        "<h1>Generated videos and their truth</h1>",
        pages.table(rows),
        f"<p>Means over all frames. In brackets the 95 % interval by bootstrap over clips of"
        f" {result.clip} frames; FVD: over its clips. There is none for a single clip."
        " Noise floor: what the truth scores against itself, slightly compressed or resized;"
        " differences below it mean nothing. Found: in which share of the frames (of both hands in"
        " all frames, for hands) the part was seen.</p>",
        f"<ul>{notes}</ul>",
    ]
    if result.values:
        parts += [
            "<h2>Over time</h2>",
            f'<img src="{pages.data_url("image/svg+xml", _curves(result).encode())}">',
        ]
    if result.worst:
        parts.append("<h2>The worst frames: generated, truth, difference times four</h2>")
        for frame in result.worst:
            change = np.abs(frame.generated.astype(int) - frame.truth) * 4
            sides = [frame.generated, frame.truth, change.clip(0, 255).astype(np.uint8)]
            source = pages.data_url("image/png", encode(np.concatenate(sides, 1), 9))
            title = f"video {frame.video + 1}, frame {frame.number + 1}: L1 {frame.error:.2f}"
            parts.append(f'<figure><figcaption>{title}</figcaption><img src="{source}"></figure>')
    facts = json_text(result.facts | {"versions": versions()})
    parts.append(f"<h2>What was compared</h2><pre>{html.escape(facts)}</pre>")
    return pages.page("anchor-jax evaluate", parts)


def _curves(result: Evaluation) -> str:
    """Plot the scores of the frames over time as SVG text, with a panel for each metric."""
    from matplotlib.figure import Figure

    names = list(result.values[0])
    figure = Figure(figsize=(10, 1.8 * len(names)), layout="constrained")
    for panel, name in enumerate(names, 1):
        axes = figure.add_subplot(len(names), 1, panel)
        for pair, values in enumerate(result.values):
            means, places = _thinned(values[name])
            axes.plot(places, means, linewidth=1, label=f"video {pair + 1}")
        axes.set_title(METRICS[name][0], fontsize=9)
        axes.tick_params(labelsize=8)
    if len(result.values) > 1:
        figure.axes[0].legend(fontsize=8)
    figure.supxlabel("frame", fontsize=9)
    return pages.svg(figure)


def _thinned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbours until few enough points are left; also return their frames, from 1."""
    step = max(1, -(-len(values) // _POINTS))
    starts = np.arange(0, len(values), step)
    finite = np.where(np.isfinite(values), values, np.nan)
    means = np.array([known_mean(finite[i : i + step]) for i in starts])
    return means, starts + (step + 1) / 2
