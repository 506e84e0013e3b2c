"""An overview image of all people: frame, pose, matte, face and mask at several times."""

from pathlib import Path

import numpy as np
from PIL import Image

from anchor_jax.data.dataset import decode, load
from anchor_jax.data.pictures import resize
from anchor_jax.data.preview import moments

_MOMENTS = 6
_ROWS = "target", "pose", "matte", "face", "face_pose", "face_mask"


def write_people_sheet(datasets: list[Path], out: Path) -> None:
    """Write an image with one row per clip of the data sets.

    Each block shows one frame: [frame | pose | matte] above [face | face pose | face mask].
    """
    rows = []
    for path in datasets:
        dataset = load(path)
        source = dataset.source()
        for clip, start in zip(dataset.clips, dataset.starts, strict=False):
            numbers = moments(clip.frames, _MOMENTS).tolist()
            rows.append([_block(source[start + number]) for number in numbers])
    picture = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    Image.fromarray(picture).save(out, optimize=True)


def _block(example) -> np.ndarray:
    pictures = [decode(name, example[name]) for name in _ROWS]
    side = len(pictures[0])
    shown = [
        resize(p if p.ndim == 3 else np.repeat(p[..., None], 3, 2), (side, side)) for p in pictures
    ]
    return np.concatenate([np.concatenate(shown[:3], 1), np.concatenate(shown[3:], 1)], 0)
