"""Contact sheets: the thumbnail at a place shows the frame and the pose that its label names."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from anchor_jax.data import preview
from anchor_jax.data.preview import GAP, HEADER, LABELS, SIDE
from anchor_jax.data.request import Request
from anchor_jax.progress import silent

COUNT = 31  # frames: eight columns are not evenly spaced over them
SIZE = SIDE, SIDE


def solid(path: Path, colour: tuple[int, int, int]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, colour).save(path)
    return str(path)


def cell(sheet: Image.Image, column: int, row: int) -> np.ndarray:
    """The pixels of one thumbnail."""
    left, top = LABELS + column * (SIDE + GAP), 2 * HEADER + row * (SIDE + GAP)
    return np.asarray(sheet)[top : top + SIDE, left : left + SIDE]


def test_every_column_shows_one_moment(tmp_path):
    """Catches a pose beside another frame's picture, moments that leave out the first or the last
    frame, rows in another order, and an overlay of other pictures."""
    lines = []
    for number in range(COUNT):
        name = f"{number:03d}.png"
        target = solid(tmp_path / "clip" / name, (4 * number, 0, 0))
        pose = solid(tmp_path / "poses" / name, (0, 60 + 4 * number, 0))
        lines.append({"source": pose, "target": target, "reference": target})
    (tmp_path / "list.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    request = Request(json_list=tmp_path / "list.json")
    made = request.make(tmp_path / "data", 1, silent)
    (path,) = preview.write_sheets(made, tmp_path / "sheets")
    sheet = Image.open(path)
    moments = [0, 4, 9, 13, 17, 21, 26, 30]
    assert sheet.width == LABELS + len(moments) * (SIDE + GAP)
    for column, moment in enumerate(moments):
        frame, pose = np.array([4 * moment, 0, 0]), np.array([0, 60 + 4 * moment, 0])
        overlay = 0.4 * frame + 0.6 * pose
        for row, expected in enumerate((frame, pose, overlay)):
            assert np.abs(cell(sheet, column, row) - expected).max() <= 1
