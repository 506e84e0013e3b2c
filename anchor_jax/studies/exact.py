"""Where the landmarks of a person should be, from the files that `anchor-jax render` wrote."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.poses.face_inputs import read_landmarks
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.studies.video_pairs import VideoPair

# SMPL-X's joints at COCO's points: shoulders, elbows, wrists, knees and ankles, the left one first.
# Its hips lie deeper in the body than those that are marked in pictures.
_BODY = {5: 16, 6: 17, 7: 18, 8: 19, 9: 20, 10: 21, 13: 4, 14: 5, 15: 7, 16: 8}
_WRISTS = 20, 21
# SMPL-X's first joint of each finger, counted in a hand, at the point of a hand where the finger
# begins: thumb, index, middle, ring and little finger. Tips are no joints.
_FINGERS = {1: 12, 5: 0, 9: 3, 13: 9, 17: 6}
_HANDS = 25, 40  # first joints of the left and of the right hand


@dataclass(frozen=True)
class Exact:
    """Where landmarks should be, pixels of the truth; NaN where it is not known.

    Attributes:
        five: float64 (n, 5, 2), eyes, nose and corners of the mouth, image-left first; NaN where
            they are hidden.
        body: float64 (n, 17, 2), COCO's points, or None.
        hands: float64 (n, 2, 21, 2), the left hand first, or None.
    """

    five: np.ndarray
    body: np.ndarray | None = None
    hands: np.ndarray | None = None

    @classmethod
    def read(cls, path: Path, pair: VideoPair) -> "Exact":
        """Read the landmarks of pose images.

        Args:
            path: pose images beside their conditions folder, that folder, or a file of face
                landmarks.
            pair: the videos that they belong to.

        Raises:
            AnchorError: they are not readable, or of another number of frames.
        """
        beside = conditions_beside(path)
        source = beside if (beside / TABLE).is_file() else path
        file = source / TABLE if source.is_dir() else source
        if not file.is_file() or file.suffix.lower() not in (".npz", ".json"):
            raise AnchorError(
                f"{path}: there is no {beside / TABLE}; expected pose images beside the conditions"
                " folder that `anchor-jax render` wrote, or that folder"
            )
        width, height = pair.size
        table = read_landmarks(source, (pair.count, height, width), lambda: pair.size)
        five, visible = table.points, table.visible
        five = five if visible is None else np.where(visible[..., None], five, np.nan)
        if table.joints is None or table.size is None:
            return cls(five)
        return cls(five, *parts_of(table.joints))


def parts_of(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return COCO's points of the body (n, 17, 2) and the points of both hands (n, 2, 21, 2), as
    far as they are joints of SMPL-X, from these (n, 55, 2)."""
    body = np.full((len(joints), 17, 2), np.nan)
    body[:, list(_BODY)] = joints[:, list(_BODY.values())]
    hands = np.full((len(joints), 2, 21, 2), np.nan)
    for side, first in enumerate(_HANDS):
        hands[:, side, 0] = joints[:, _WRISTS[side]]
        for place, finger in _FINGERS.items():
            start = first + finger
            hands[:, side, place : place + 3] = joints[:, start : start + 3]
    return body, hands
