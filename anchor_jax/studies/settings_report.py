"""Show what a study of settings found: numbers as JSON, a table, a picture, and a page to choose
settings from."""

import html
import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchor_jax import pages
from anchor_jax.data.dataset import encode
from anchor_jax.data.preview import FAINT, GAP, INK, PAPER, TEXT
from anchor_jax.files import placed
from anchor_jax.shapes import Images
from anchor_jax.studies.clip import Variant
from anchor_jax.studies.results import SCORES, json_text
from anchor_jax.versions import versions

_SCORES = "body/psnr", "body/ssim", "body/l1", "face/psnr", "hands/psnr", "temporal_error"
_LOWER_IS_BETTER = {"body/l1", "temporal_error"}
_DECIDES = "body/psnr"  # the score of the combination that is marked

_UNSCORED = "There are no scores, because the clip has no truth."

_SIDE = 256  # pixels of the longer side of a frame: smaller ones are enlarged
_EDGE = 4  # pixels of the coloured lines around marked frames
_LINE = 20  # pixels of a line of text
_LABELS = 116  # pixels of the column of labels
_MARKS = {"present": (86, 156, 255), "highest PSNR": (70, 200, 110)}  # with their colours, RGB


class Choice(NamedTuple):
    """A combination of settings of sampling.

    Attributes:
        guidance: scale of classifier-free guidance.
        control_scale: weight of the poses.
        steps: denoising steps.
    """

    guidance: float
    control_scale: float
    steps: int

    @classmethod
    def of(cls, variant: Variant) -> "Choice":
        """Return the combination that a variant has."""
        sampling = variant.settings.sampling
        return cls(sampling.guidance, sampling.control_scale, sampling.steps)

    def over(self, variant: Variant) -> Variant:
        """Return the variant with this combination."""
        return variant.with_sampling(**self._asdict())

    @property
    def title(self) -> str:
        """The three numbers.

        >>> Choice(2.5, 1.0, 20).title
        '2.5/1/20'
        """
        return f"{_digits(self.guidance)}/{_digits(self.control_scale)}/{self.steps}"

    @property
    def options(self) -> str:
        """The options of `generate` and `store`."""
        guidance, scale = _digits(self.guidance), _digits(self.control_scale)
        return f"--guidance {guidance} --control-scale {scale} --steps {self.steps}"


@dataclass(frozen=True)
class Tried:
    """What a combination gave.

    Attributes:
        choice: the combination.
        frame: the middle frame, uint8 (h, w, 3).
        scores: of all frames, see `measure`; empty without truth.
    """

    choice: Choice
    frame: Images
    scores: dict[str, float]


@dataclass
class Report:
    """What was tried so far, and on what.

    Attributes:
        anchor: what the user calls the ANCHOR.
        clip: what the user calls the clip.
        first: index of the first frame.
        present: the settings of the anchor.
        variant: all its settings, and whether faces are repainted.
        poses: pose images, uint8 (n, h, w, 3).
        truth: ground truth, uint8 (n, h, w, 3), or None.
        storable: whether settings can be stored in the ANCHOR.
        tried: what came out so far.
    """

    anchor: str
    clip: str
    first: int
    present: Choice
    variant: Variant
    poses: Images
    truth: Images | None = None
    storable: bool = True
    tried: list[Tried] = field(default_factory=list)

    @property
    def frames(self) -> str:
        """The frames, counted from 1."""
        return f"frames {self.first + 1} to {self.first + len(self.poses)}"

    @property
    def best(self) -> Choice | None:
        """The combination of the highest PSNR, of equal ones that of fewest steps; None without
        truth."""
        scored = [
            tried for tried in self.tried if math.isfinite(tried.scores.get(_DECIDES, math.nan))
        ]
        if not scored:
            return None
        return max(scored, key=lambda x: (x.scores[_DECIDES], -x.choice.steps)).choice

    def marks(self, choice: Choice) -> list[str]:
        """Return what is said of a combination, the keys of `_MARKS`."""
        marked = zip(_MARKS, (self.present, self.best), strict=True)
        return [mark for mark, it in marked if choice == it]

    def command(self, choice: Choice) -> str:
        """Return the command that stores a combination."""
        return f"anchor-jax store {shlex.quote(self.anchor)} {choice.options}"


def write_report(out: Path, report: Report) -> None:
    """Write `settings.json`, `settings.md`, `settings.png` and `settings.html` into `out`.

    Raises:
        AnchorError: a file cannot be written; an older one then stays.
    """
    picture = encode(draw(report), 6)
    contents = {
        "json": f"{json_text(_facts(report))}\n".encode(),
        "md": f"{table(report)}\n".encode(),
        "png": picture,
        "html": _page(report, picture).encode(),
    }
    for suffix, content in contents.items():
        with placed(out / f"settings.{suffix}") as path:
            path.write_bytes(content)


def table(report: Report) -> str:
    """Format the scores as a Markdown table, the best ones in bold."""
    text = pages.markdown(_rows(report, lambda cell: f"**{cell}**"))
    return text if report.truth is not None else f"{text}\n\n{_UNSCORED}"


def _facts(report: Report) -> dict[str, Any]:
    """Collect the numbers for JSON."""
    best = report.best
    return {
        "anchor": report.anchor,
        "clip": report.clip,
        "frames": [report.first, report.first + len(report.poses)],
        **asdict(report.variant.settings),
        "faces": report.variant.faces,
        "present": report.present._asdict(),
        "highest_psnr": None if best is None else best._asdict(),
        "rows": [tried.choice._asdict() | {"scores": tried.scores} for tried in report.tried],
        "versions": versions(),
    }


def _rows(report: Report, strong: Callable[[str], str]) -> list[list[str]]:
    """Make the rows of the table, the first one with the headings; `strong` marks the best cell of
    a column."""
    names = [
        name
        for name in _SCORES
        if any(math.isfinite(tried.scores.get(name, math.nan)) for tried in report.tried)
    ]
    rows = [["guidance", "control scale", "steps", *(SCORES[name][0] for name in names), ""]]
    columns = {name: _cells(report, name, strong) for name in names}
    for number, tried in sorted(enumerate(report.tried), key=lambda pair: pair[1].choice):
        guidance, scale, steps = tried.choice
        cells = [columns[name][number] for name in names]
        marks = ", ".join(report.marks(tried.choice))
        rows.append([_digits(guidance), _digits(scale), str(steps), *cells, marks])
    return rows


def _cells(report: Report, name: str, strong: Callable[[str], str]) -> list[str]:
    """Format a score of all combinations."""
    values = [tried.scores.get(name, math.nan) for tried in report.tried]
    texts = ["" if math.isnan(x) else f"{x:.{SCORES[name][1]}f}" for x in values]
    best = (np.nanmin if name in _LOWER_IS_BETTER else np.nanmax)(values)
    shown = f"{best:.{SCORES[name][1]}f}"
    return [strong(text) if text == shown else text for text in texts]


def _page(report: Report, picture: bytes) -> str:
    """Make the page: the picture, the table, and the commands of each combination."""
    middle = report.first + len(report.poses) // 2 + 1
    name = html.escape(report.anchor)
    source = pages.data_url("image/png", picture)
    below, note = "guidance/control scale/steps", _UNSCORED
    if report.truth is not None:
        below += ", and the PSNR of the whole frame in dB, the mean over all of them"
        note = "PSNR prefers a blurred picture to a sharp one that is a pixel off."
    parts = [
        f"<h1>Settings of {name}</h1>",
        f"<p>Frame {middle} of {html.escape(report.clip)}. Each picture was generated together with"
        f" its neighbours, {report.frames}. Below it: {below}.</p>",
        f"<p>{note} Look at face and hands. Where pictures look alike, take fewer steps, and"
        " guidance 1, which halves the time of a step.</p>",
        f'<img src="{source}" alt="the frame with each combination">',
    ]
    if report.truth is not None:
        rows = _rows(report, lambda cell: f"<b>{cell}</b>")
        parts += ["<h2>Scores</h2>", pages.table(rows), "<p>The best of each score is bold.</p>"]
    commands = "\n".join(
        report.command(choice) for choice in sorted(x.choice for x in report.tried)
    )
    parts += ["<h2>Store a choice</h2>", f"<p>{_advice(report)}</p>"]
    if report.storable:
        parts.append(f"<pre>{html.escape(commands)}</pre>")
    parts.append(f"<h2>All numbers</h2><pre>{html.escape(json_text(_facts(report)))}</pre>")
    return pages.page(f"Settings of {report.anchor}", parts)


def _advice(report: Report) -> str:
    """Say in HTML what to do with a choice."""
    options = f"<code>{html.escape((report.best or report.present).options)}</code>"
    if not report.storable:
        return (
            "The anchor that comes with anchor-jax keeps its settings: give the options to each"
            f" <code>anchor-jax generate</code>, such as {options}."
        )
    return (
        f"To try a choice in a whole video, give its options, such as {options}, to"
        " <code>anchor-jax generate</code>. One of these commands stores it in the anchor, for all"
        " later videos:"
    )


def draw(report: Report) -> np.ndarray:
    """Draw the frame with each combination: a row for each guidance, a column for each control
    scale and number of steps. On the left truth and pose.

    Returns:
        uint8 (h, w, 3).
    """
    from PIL import Image, ImageDraw, ImageFont

    guidances = sorted({tried.choice.guidance for tried in report.tried})
    columns = sorted({tried.choice[1:] for tried in report.tried})
    middle = len(report.poses) // 2
    references = [("pose", report.poses[middle])]
    if report.truth is not None:
        references.insert(0, ("truth", report.truth[middle]))
    width, height = _shown_size(report.poses[middle])
    across, down = width + 2 * _EDGE + GAP, height + 2 * _EDGE + 2 * _LINE + GAP
    left, top = across + _LABELS, 2 * _LINE + GAP
    rows = max(len(guidances), len(references))
    sheet = Image.new("RGB", (left + len(columns) * across, top + rows * down), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)

    def paste(frame: Images, x: int, y: int, colours: list[tuple[int, int, int]]) -> None:
        box = x, y, x + width + 2 * _EDGE - 1, y + height + 2 * _EDGE - 1
        for number, colour in enumerate(colours):
            inset = number * _EDGE // 2
            inner = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
            pen.rectangle(inner, outline=colour, width=_EDGE - inset)
        shown = Image.fromarray(frame).resize((width, height))
        sheet.paste(shown, (x + _EDGE, y + _EDGE))

    def write(x: float, y: float, text: str, colour: tuple[int, int, int] = INK) -> None:
        pen.text((x, y), text, colour, font, anchor="mm")

    for row, (name, frame) in enumerate(references):
        y = top + row * down
        paste(frame, 0, y, [])
        write(across / 2, y + height + 2 * _EDGE + _LINE / 2, name, FAINT)
    for row, guidance in enumerate(guidances):
        middle_y = top + row * down + _EDGE + height / 2
        write(across + _LABELS / 2, middle_y, f"guidance {_digits(guidance)}", FAINT)
    for column, (scale, steps) in enumerate(columns):
        x = left + column * across + width / 2 + _EDGE
        write(x, _LINE / 2 + GAP / 2, f"control scale {_digits(scale)}", FAINT)
        write(x, 1.5 * _LINE + GAP / 2, f"{steps} steps", FAINT)
    for tried in report.tried:
        choice, marks = tried.choice, report.marks(tried.choice)
        colours = [_MARKS[mark] for mark in marks]
        x = left + columns.index(choice[1:]) * across
        y = top + guidances.index(choice.guidance) * down
        paste(tried.frame, x, y, colours)
        psnr = tried.scores.get(_DECIDES, math.nan)
        text = choice.title + ("" if math.isnan(psnr) else f"   {psnr:.2f} dB")
        below = y + height + 2 * _EDGE
        write(x + across / 2, below + _LINE / 2, text)
        write(x + across / 2, below + 1.5 * _LINE, ", ".join(marks), (colours or [INK])[-1])
    return np.asarray(sheet)


def _shown_size(frame: Images) -> tuple[int, int]:
    """Return width and height of a frame in the picture: small frames are enlarged."""
    height, width = frame.shape[:2]
    factor = max(1, -(-_SIDE // max(height, width)))
    return width * factor, height * factor


def _digits(value: float) -> str:
    """Format a number without a needless point.

    >>> _digits(1.0), _digits(0.15)
    ('1', '0.15')
    """
    return f"{value:.15g}"
