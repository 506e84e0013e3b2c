"""A test clip as `python -m benchmarks.synthetic` writes one, of somebody very simple."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE, COUNT = 32, 10
FACE = np.s_[4:14, 11:21]
LANDMARKS = np.array([[13, 7.5], [19, 7.5], [16, 10], [13.8, 12.5], [18.2, 12.5]])


def write_clip(folder: Path) -> Path:
    """Poses, conditions, truth and appearance of a head that stands still and a hand that moves
    below it, before a wall."""
    rng = np.random.default_rng(0)
    wall = rng.integers(40, 90, (SIDE, SIDE, 3), np.uint8)
    for name in ("poses", "truth", "poses-conditions/face"):
        (folder / name).mkdir(parents=True)
    for index in range(COUNT):
        pose, truth = np.zeros((SIDE, SIDE, 3), np.uint8), wall.copy()
        face = np.zeros((SIDE, SIDE), np.uint8)
        hand = np.s_[20:28, 2 * index : 2 * index + 8]
        for part, skin in ((FACE, (220, 180, 160)), (hand, (200, 150, 130))):
            pose[part], truth[part] = (118, 146, 152), skin
        face[FACE] = 255
        name = f"{index + 1:06d}.png"
        Image.fromarray(pose).save(folder / "poses" / name)
        Image.fromarray(truth).save(folder / "truth" / name)
        Image.fromarray(face).save(folder / "poses-conditions" / "face" / name)
    Image.fromarray(truth).save(folder / "appearance.png")
    np.savez(
        folder / "poses-conditions" / "conditions.npz",
        landmarks=np.repeat(LANDMARKS[None], COUNT, 0).astype(np.float32),
        visible=np.ones((COUNT, 5), bool),
        size=(SIDE, SIDE),
        fps=(30, 1),
    )
    return folder
