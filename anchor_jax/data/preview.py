"""Contact sheets: a picture for each clip that shows whether poses and frames are aligned."""

import re
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Dataset, decode
from anchor_jax.data.pictures import resize
from anchor_jax.files import placed
from anchor_jax.progress import Advance, no_advance

COLUMNS = 8
SIDE = 192  # pixels of the longer side of a thumbnail
GAP, LABELS, HEADER, TEXT = 6, 84, 40, 15  # pixels
PAPER, INK, FAINT = (24, 26, 30), (236, 238, 242), (150, 156, 166)  # RGB
POSE_SHARE = 0.6  # weight of the pose in the overlay, where it shows the body


def moments(count: int, most: int = COLUMNS) -> np.ndarray:
    """Choose at most `most` of `count` frames, spread evenly from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def write_sheets(dataset: Dataset, folder: Path, advance: Advance = no_advance) -> list[Path]:
    """Write a sheet of every clip into `folder`, whose older content is removed.

    The columns are frames spread evenly over the clip. The rows are the frame, its pose, the pose
    over the frame, and the matte or mask if there is one.

    Returns:
        the paths of the sheets.
    """
    source = dataset.source()
    names = []
    with placed(folder) as partial:
        partial.mkdir()
        for number, (clip, start) in enumerate(zip(dataset.clips, dataset.starts, strict=False)):
            numbers = moments(clip.frames).tolist()
            frames = [
                {name: decode(name, source[start + number][name]) for name in dataset.pictures}
                for number in numbers
            ]
            fps = float(dataset.fps)
            title = f"{clip.name}   {clip.frames} frames, {clip.frames / fps:.1f} s at {fps:g} fps"
            if clip.identity != clip.name:
                title += f"   of {clip.identity}"
            labels = [f"{number + 1}" for number in numbers]
            safe = re.sub(r"[^\w.-]+", "_", clip.name)[-60:]
            names.append(f"{number:05d}-{safe}.png")
            draw_sheet(title, labels, frames).save(partial / names[-1])
            advance(1)
    return [folder / name for name in names]


def draw_sheet(title: str, labels: list[str], frames: list[dict[str, np.ndarray]]):
    """Draw a `PIL.Image` with a column for each frame, its label above."""
    from PIL import Image, ImageDraw, ImageFont

    columns = [_rows(frame) for frame in frames]
    height, width = columns[0][0][1].shape[:2]
    num_rows = len(columns[0])
    size = LABELS + len(columns) * (width + GAP), 2 * HEADER + num_rows * (height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    pen.text((LABELS, HEADER / 2), title, INK, ImageFont.load_default(TEXT + 3), anchor="lm")
    for row, (name, _) in enumerate(columns[0]):
        middle = 2 * HEADER + row * (height + GAP) + height / 2
        pen.text((LABELS - 2 * GAP, middle), name, FAINT, font, anchor="rm")
    for column, (label, rows) in enumerate(zip(labels, columns, strict=True)):
        left = LABELS + column * (width + GAP)
        pen.text((left + width / 2, HEADER * 1.5), label, FAINT, font, anchor="mm")
        for row, (_, pixels) in enumerate(rows):
            sheet.paste(Image.fromarray(pixels), (left, 2 * HEADER + row * (height + GAP)))
    return sheet


def _rows(frame: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """List the names and pictures, uint8 (h, w, 3), of a column from top to bottom."""
    small = {name: _thumbnail(pixels) for name, pixels in frame.items()}
    rows = []
    for picture, pose, extra in (("target", "pose", "matte"), ("face", "face_pose", "face_mask")):
        if picture in small:
            name = "frame" if picture == "target" else picture
            rows += [(name, small[picture]), (pose.replace("_", " "), small[pose])]
            rows.append(("overlay", _overlay(small[picture], small[pose])))
            rows += [(extra.removeprefix("face_"), small[extra])] if extra in small else []
    return rows


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Resize a picture or mask to uint8 (h, w, 3) with a longer side of 192 pixels."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    small = resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))
    return small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)


def _overlay(picture: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Blend the pose over the frame, and darken the rest."""
    body = pose.max(axis=2, keepdims=True) > 8
    shown = np.where(body, (1 - POSE_SHARE) * picture + POSE_SHARE * pose, 0.7 * picture)
    return shown.astype(np.uint8)
