"""One picture of everybody: frame, pose, matte, face and mask at several moments."""

from pathlib import Path

import numpy as np
from PIL import Image

from anchor_jax.data.dataset import decode, load
from anchor_jax.data.preview import moments
from anchor_jax.data.video import resize

MOMENTS = 6
ROWS = "target", "pose", "matte", "face", "face_pose", "face_mask"


def write_people_sheet(datasets: list[Path], out: Path) -> None:
    """Two rows a clip of the data sets: whole frames, and below each its face crops.

    Each moment is a block of [frame | pose | matte] over [face | its pose | its mask].
    """
    rows = []
    for path in datasets:
        dataset = load(path)
        source = dataset.source()
        for clip, start in zip(dataset.clips, dataset.starts, strict=False):
            numbers = moments(clip.frames, MOMENTS).tolist()
            rows.append([_block(source[start + number]) for number in numbers])
    picture = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    Image.fromarray(picture).save(out, optimize=True)


def _block(example) -> np.ndarray:
    pictures = [decode(name, example[name]) for name in ROWS]
    side = len(pictures[0])
    shown = [
        resize(p if p.ndim == 3 else np.repeat(p[..., None], 3, 2), (side, side)) for p in pictures
    ]
    return np.concatenate([np.concatenate(shown[:3], 1), np.concatenate(shown[3:], 1)], 0)
