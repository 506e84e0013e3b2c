"""Make a picture that compares several videos of the same motion, one below the other."""

import textwrap
from collections.abc import Mapping

import numpy as np

from anchor_jax.data.preview import COLUMNS, INK, PAPER, moments
from anchor_jax.shapes import Images

_LABEL_WIDTH = 84  # pixels
_LABEL_LETTERS = 13  # letters that fit into that width


def _neighbours(count: int) -> np.ndarray:
    """Return the indices of some consecutive frames in the middle of `count` frames."""
    start = max(0, count // 2 - COLUMNS // 2)
    return np.arange(start, min(count, start + COLUMNS))


def sheet(lines: list[tuple[str, Images]]) -> np.ndarray:
    """Draw a line for each video: its name and its frames.

    Args:
        lines: names and frames, uint8 (k, h, w, 3), all of the same shape.

    Returns:
        uint8 (h', w', 3).
    """
    from PIL import Image, ImageDraw

    count, height, width, _ = lines[0][1].shape
    picture = Image.new("RGB", (_LABEL_WIDTH + count * width, len(lines) * height), PAPER)
    pen = ImageDraw.Draw(picture)
    for line, (name, images) in enumerate(lines):
        position = _LABEL_WIDTH / 2, (line + 0.5) * height
        label = textwrap.fill(name, _LABEL_LETTERS)
        pen.multiline_text(position, label, INK, anchor="mm", align="center")
        for column, image in enumerate(images):
            picture.paste(Image.fromarray(image), (_LABEL_WIDTH + column * width, line * height))
    return np.asarray(picture)


def sheet_of(rows: Mapping[str, Images]) -> np.ndarray:
    """Draw frames of whole videos and, below, consecutive frames of their middle.

    Args:
        rows: videos by their names, uint8 (n, h, w, 3), all of the same shape.

    Returns:
        uint8 (h', w', 3).
    """
    count = len(next(iter(rows.values())))
    blocks = moments(count), _neighbours(count)
    return sheet([(name, images[block]) for block in blocks for name, images in rows.items()])
