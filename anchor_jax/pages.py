"""HTML pages that contain all that they show, plots, and Markdown tables."""

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:70em}video,img{max-width:100%}"
    "td,th{padding:0 1em 0 0;text-align:right}td:first-child{text-align:left}"
    "figure{display:inline-block;margin:0 1em 1em 0}pre{white-space:pre-wrap}"
)


def page(title: str, parts: list[str]) -> str:
    """Make a page of HTML parts."""
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Make an HTML table of HTML cells; the first row has the headings."""
    lines = []
    for number, row in enumerate(rows):
        kind = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; the first row has the headings.

    >>> print(markdown([["", "PSNR"], ["ours", "29.3"]]))
    |  | PSNR |
    | --- | --- |
    | ours | 29.3 |
    """
    first, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *others))


def data_url(kind: str, content: bytes) -> str:
    """Make a data URL of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg(figure: "Figure") -> str:
    """Return a figure of matplotlib as SVG text, the same at each run."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
