"""Pictures of several videos of the same motion, one below the other."""

import textwrap
from collections.abc import Mapping

import numpy as np

from anchor_jax.data.preview import COLUMNS, INK, PAPER, moments
from anchor_jax.shapes import Images

LABEL = 84  # pixels
LETTERS = 13  # that fit beside each other there


def neighbours(count: int) -> np.ndarray:
    """Consecutive frames in its middle."""
    start = max(0, count // 2 - COLUMNS // 2)
    return np.arange(start, min(count, start + COLUMNS))


def sheet(lines: list[tuple[str, Images]]) -> np.ndarray:
    """A line for each name and its frames (k, h, w, 3), all of one size: uint8 (h', w', 3)."""
    from PIL import Image, ImageDraw

    count, height, width, _ = lines[0][1].shape
    picture = Image.new("RGB", (LABEL + count * width, len(lines) * height), PAPER)
    pen = ImageDraw.Draw(picture)
    for line, (name, images) in enumerate(lines):
        place, label = (LABEL / 2, (line + 0.5) * height), textwrap.fill(name, LETTERS)
        pen.multiline_text(place, label, INK, anchor="mm", align="center")
        for column, image in enumerate(images):
            picture.paste(Image.fromarray(image), (LABEL + column * width, line * height))
    return np.asarray(picture)


def sheet_of(rows: Mapping[str, Images]) -> np.ndarray:
    """Moments of whole videos (n, h, w, 3) and, below, consecutive frames of their middle."""
    count = len(next(iter(rows.values())))
    blocks = moments(count), neighbours(count)
    return sheet([(name, images[block]) for block in blocks for name, images in rows.items()])
