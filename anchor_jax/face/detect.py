"""Detects face landmarks in images, for pose images without landmark files.

BlazeFace (Bazarevsky et al. 2019, https://arxiv.org/abs/1907.05047) finds the faces, of which the
one with the highest score is used. Face Mesh (Kartynnik et al. 2019,
https://arxiv.org/abs/1907.06724) places 468 points on it, of which five landmarks are computed.
Both models are files of the mediapipe package (Apache-2.0) and are run by ai-edge-litert.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from anchor_jax.errors import AnchorError
from anchor_jax.face.align import invert, square, warp
from anchor_jax.face.litert import Model
from anchor_jax.files import cache_folder
from anchor_jax.shapes import Images

_DETECTOR_FILE, _MESH_FILE = "face_detection_short_range.tflite", "face_landmark.tflite"
_DETECTOR_SIDE, _MESH_SIDE = 128, 192  # pixels of the models' inputs
# BlazeFace's two grids: cells along a side, and anchors per cell.
_GRIDS = (16, 2), (8, 6)
_MIN_LOGIT = 0.0  # a probability of one half
_MARGIN = 1.5  # side of Face Mesh's input, in sides of the detected box
# Mesh points of each landmark: both corners of the left and of the right eye (image-left first),
# nose, left and right mouth corner.
_POINTS = (33, 133), (362, 263), (1,), (61,), (291,)


def find_models(folder: Path | None = None) -> Path | None:
    """Find the folder with both model files: `folder`, or by default the cache folder.

    Returns:
        The folder; None if no `folder` is given and the cache folder lacks the files.

    Raises:
        AnchorError: `folder` lacks the files.
    """
    for place in [cache_folder() / "face"] if folder is None else [folder]:
        if all((place / name).is_file() for name in (_DETECTOR_FILE, _MESH_FILE)):
            return place
    if folder is not None:
        raise AnchorError(
            f"{folder} does not hold {_DETECTOR_FILE} and {_MESH_FILE}; {how_to_get(folder)}"
        )
    return None


def how_to_get(folder: Path | None = None) -> str:
    """The shell commands that install the detector."""
    place = "~/.cache/anchor-jax/face" if folder is None else folder
    return (
        "pip install 'anchor-jax[face]'; pip download --no-deps mediapipe==0.10.21; unzip -j "
        f"mediapipe-*.whl '*/{_DETECTOR_FILE}' '*/{_MESH_FILE}' -d {place}"
    )


class Detector:
    """Detects the landmarks of one face per image.

    Args:
        folder: the folder with the two model files.

    Raises:
        AnchorError: ai-edge-litert is not installed, or the files are not these models.
    """

    def __init__(self, folder: Path) -> None:
        self._detector = Model(
            folder / _DETECTOR_FILE, (1, _DETECTOR_SIDE, _DETECTOR_SIDE, 3), (14336, 896)
        )
        self._mesh = Model(folder / _MESH_FILE, (1, _MESH_SIDE, _MESH_SIDE, 3), (1404, 1))
        self._anchors = anchor_centres(_GRIDS)

    def find(self, picture: Images) -> Float[np.ndarray, "5 2"]:
        """Detect left eye, right eye, nose, left and right mouth corner, image-left first.

        Args:
            picture: uint8 (h, w, 3).

        Returns:
            x, y in continuous pixels, (0, 0) being the image's corner; NaN if there is no face.
        """
        region = self._region(picture)
        if region is None:
            return np.full((5, 2), np.nan)
        cut = warp(picture[None], region[None], (_MESH_SIDE, _MESH_SIDE))[0]
        points, presence = self._mesh(cut[None].astype(np.float32) / 255)
        if presence.item() < _MIN_LOGIT:
            return np.full((5, 2), np.nan)
        mesh = points.reshape(-1, 3)[:, :2]
        five = np.stack([mesh[list(indices)].mean(0) for indices in _POINTS])
        back = invert(region[None])[0]
        return five @ back[:, :2].T + back[:, 2] + 0.5

    def _region(self, picture: np.ndarray) -> np.ndarray | None:
        """The transform to Face Mesh's input, an upright square around the best-scored face."""
        height, width, _ = picture.shape
        side = max(height, width)
        padded = np.zeros((side, side, 3), np.uint8)
        padded[:height, :width] = picture
        small = Image.fromarray(padded).resize(
            (_DETECTOR_SIDE, _DETECTOR_SIDE), Image.Resampling.BILINEAR
        )
        boxes, scores = self._detector(np.asarray(small, np.float32)[None] / 127.5 - 1)
        best = int(scores.argmax())
        if scores.ravel()[best] < _MIN_LOGIT:
            return None
        numbers = boxes[0, best] / _DETECTOR_SIDE
        anchor = self._anchors[best]
        centre = (numbers[:2] + anchor) * side
        left_eye, right_eye = (numbers[4:8].reshape(2, 2) + anchor) * side
        across = right_eye - left_eye
        angle = float(np.arctan2(across[1], across[0]))
        margin = _MARGIN * side * float(numbers[2:4].max())
        return square(centre - 0.5, margin, angle, _MESH_SIDE)


def anchor_centres(grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the centres of a detector's anchors, float (n, 2), in fractions of the input's side.

    Args:
        grids: cells along a side, and anchors per cell.
    """
    parts = []
    for cells, repeats in grids:
        middles = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
        parts.append(np.repeat(grid, repeats, 0))
    return np.concatenate(parts)
