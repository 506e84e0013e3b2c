"""Write the demo's folder: a video, a contact sheet, scores, and a page that shows all of them."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.data.dataset import encode
from anchor_jax.data.video import write_video
from anchor_jax.files import placed
from anchor_jax.pages import data_url, page
from anchor_jax.shapes import Images
from anchor_jax.studies.results import SCORES, json_text
from anchor_jax.studies.sheet import sheet_of

# Frames from the start that measure the autoencoder alone, which takes as long as decoding them.
CEILING_FRAMES = 25

_HEIGHT = 256  # pixels; smaller frames are enlarged to at least this
_MAX_GRIDS = 6


@dataclass(frozen=True)
class Shown:
    """The contents of the demo's folder.

    Attributes:
        poses: pose images, uint8 (n, h, w, 3).
        frames: generated frames, uint8 (n, h, w, 3).
        truth: ground truth, uint8 (n, h, w, 3), or None.
        fps: frames per second.
        scores: the scores of "generated" and "autoencoder", and of "before" if it was measured.
        facts: how the video was made, JSON values.
        grids: folder with validation grids of a training run, named by step; or None.
    """

    poses: Images
    frames: Images
    truth: Images | None
    fps: Fraction
    scores: Mapping[str, Mapping[str, float]]
    facts: Mapping[str, Any]
    grids: Path | None = None

    def rows(self) -> dict[str, Images]:
        """Return the videos that are shown side by side, by their names."""
        rows = {"pose": self.poses, "generated": self.frames}
        return rows if self.truth is None else rows | {"truth": self.truth}


def write_demo(out: Path, shown: Shown) -> None:
    """Write the folder `out` with `video.mp4`, `sheet.png`, `metrics.json` and `report.html`.

    Args:
        out: the folder; an older one is replaced when the new one is complete.
        shown: its contents.

    Raises:
        AnchorError: it cannot be written; an older folder then stays.
    """
    with placed(out) as partial:
        partial.mkdir()
        factor = -(-_HEIGHT // shown.frames.shape[1])
        sides = zip(*shown.rows().values(), strict=True)
        wide = (np.concatenate(side, 1).repeat(factor, 0).repeat(factor, 1) for side in sides)
        write_video(partial / "video.mp4", wide, shown.fps)
        (partial / "sheet.png").write_bytes(encode(sheet_of(shown.rows()), 9))
        content = {"scores": _table(shown.scores), **shown.facts}
        (partial / "metrics.json").write_text(json_text(content) + "\n", "utf-8")
        (partial / "report.html").write_text(_report(shown, partial), "utf-8")


def _table(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Make a table of scores: for each metric the values of all columns, such as "generated"."""
    names = [name for name in SCORES if name in scores["generated"]]
    return {name: {column: scores[column][name] for column in scores} for name in names}


def _report(shown: Shown, folder: Path) -> str:
    """Make an HTML page that contains all files of `folder`."""
    read = lambda name: (folder / name).read_bytes()
    names = ", ".join(shown.rows())
    parts = [
        "<h1>A person who does not exist</h1>",
        f"<p>Each frame: {names}. Nothing of this motion was seen in training.</p>",
        f'<video controls loop autoplay muted src="{data_url("video/mp4", read("video.mp4"))}">'
        "</video>",
    ]
    if rows := _table(shown.scores):
        columns = list(shown.scores)
        cells = "".join(
            f"<tr><td>{html.escape(SCORES[name][0])}</td>"
            + "".join(f"<td>{_number(row[column], SCORES[name][1])}</td>" for column in columns)
            + "</tr>"
            for name, row in rows.items()
        )
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        parts += [
            "<h2>How close it is to the truth</h2>",
            f"<table><tr><th></th>{head}</tr>{cells}</table>",
            "<p>PSNR in dB; L1, flicker and temporal error in grey levels. A model that decodes"
            " with the autoencoder hardly gets better scores than the autoencoder alone, of which"
            f" the first {CEILING_FRAMES} frames are measured.</p>",
        ]
    parts += [
        "<h2>Frames of the whole video, and consecutive frames</h2>",
        f'<img src="{data_url("image/png", read("sheet.png"))}">',
    ]
    if shown.grids is not None:
        parts.append("<h2>During training: pose, generated, truth</h2>")
        for path in _choose(sorted(shown.grids.glob("*.png"))):
            source = data_url("image/png", path.read_bytes())
            label = f"<figcaption>step {int(path.stem):,}</figcaption>"
            parts.append(f'<figure>{label}<img src="{source}"></figure>')
    facts = html.escape(json_text(dict(shown.facts)))
    parts.append(f"<h2>How it was made</h2><pre>{facts}</pre>")
    return page("anchor-jax demo", parts)


def _choose(paths: list[Path]) -> list[Path]:
    """Choose a few of the paths: the first, the last and some between."""
    count = min(_MAX_GRIDS, len(paths))
    return [paths[round(i * (len(paths) - 1) / max(1, count - 1))] for i in range(count)]


def _number(value: float, decimals: int) -> str:
    """Format a number; NaN and infinity give an empty text."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else ""
