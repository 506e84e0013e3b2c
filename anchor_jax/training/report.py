"""Writes the HTML report of a run: curves, last values, validation grids and settings."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anchor_jax.files import write_text
from anchor_jax.pages import data_url, svg

_PANELS = {  # title: (prefixes of the metrics, logarithmic)
    "loss": (("loss",), True),
    "gradient norm before clipping": (("gradient_norm/",), True),
    "learning rate": (("learning_rate",), False),
    "PSNR of validation frames, dB": (("validation/psnr",), False),
    "SSIM of validation frames": (("validation/ssim",), False),
    "landmark distances of validation frames, pixels": (("validation/lmd_",), False),
    "identity distance and ST-LPIPS of validation frames": (
        ("validation/identity", "validation/stlpips"),
        False,
    ),
    "frames per second": (("frames_per_second",), False),
}
_MAX_GRIDS = 4


def write_report(
    path: Path, settings: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> None:
    """Write a self-contained HTML page from the metrics and grids that a run logged.

    Args:
        path: the page, in the run's folder beside `grids/`.
        settings: the run's settings.
        metrics: the logged lines, each a step and its metrics.

    Raises:
        AnchorError: the page cannot be written.
    """
    parts = [f"<h1>{html.escape(path.absolute().parent.name)}</h1>"]
    if metrics:
        last = {
            name: value
            for line in metrics
            for name, value in line.items()
            if isinstance(value, int | float)
        }
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.5g}</td></tr>"
            for name, value in last.items()
        )
        parts += ["<h2>Curves</h2>", _curves(metrics), f"<h2>Last values</h2><table>{rows}</table>"]
    grids = sorted((path.parent / "grids").glob("*.png"))
    if grids:
        parts.append("<h2>Validation: pose, generated, truth</h2>")
    for grid in _spread(grids):
        source = data_url("image/png", grid.read_bytes())
        parts.append(
            f'<figure><figcaption>step {int(grid.stem):,}</figcaption><img src="{source}"></figure>'
        )
    settings_json = html.escape(json.dumps(dict(settings), indent=1))
    parts.append(f"<h2>Settings</h2><pre>{settings_json}</pre>")
    style = (
        "body{font-family:sans-serif;margin:2em}figure{display:inline-block;vertical-align:top}"
        "td{padding:0 1em 0 0}img{max-width:48em}"
    )
    body = "".join(parts)
    write_text(path, f'<!doctype html><meta charset="utf-8"><style>{style}</style>{body}')


def _spread(grids: list[Path]) -> list[Path]:
    """Choose up to `_MAX_GRIDS` of them: the first, the last and some between."""
    count = min(_MAX_GRIDS, len(grids))
    return [grids[round(i * (len(grids) - 1) / max(1, count - 1))] for i in range(count)]


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Plot the metrics over the steps; return an SVG element."""
    from matplotlib.figure import Figure

    names = dict.fromkeys(name for line in metrics for name in line)
    panels = {}
    for title, (prefixes, logarithmic) in _PANELS.items():
        if shown := [name for name in names if name.startswith(prefixes)]:
            panels[title] = shown, logarithmic
    figure = Figure(figsize=(11, 2.6 * ((len(panels) + 1) // 2)), layout="constrained")
    for i, (title, (shown, logarithmic)) in enumerate(panels.items()):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, i + 1)
        for name in shown:
            points = [(line["step"], line[name]) for line in metrics if name in line]
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        if logarithmic:
            axes.set_yscale("log")
        if len(shown) > 1:
            axes.legend(fontsize=7)
    return "".join(svg(figure).partition("<svg")[1:])
