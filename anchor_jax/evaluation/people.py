"""Finds the landmarks of a person in frames, with the models of MediaPipe Holistic.

BlazePose (Bazarevsky et al. 2020, https://arxiv.org/abs/2006.10204) finds the person and 33 points
of the body. These tell where the face and the hands are, for Face Mesh (Kartynnik et al. 2019,
https://arxiv.org/abs/1907.06724) and the hand model (Zhang et al. 2020,
https://arxiv.org/abs/2006.10214). Each frame is examined by itself, so that a frame's landmarks do
not depend on those before it. The models are files of the mediapipe package (Apache-2.0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from anchor_jax.evaluation.weights import Unavailable, WeightFile
from anchor_jax.face.align import invert, square, warp
from anchor_jax.face.detect import anchor_centres
from anchor_jax.face.litert import Model
from anchor_jax.files import file_hash
from anchor_jax.shapes import Images

_ORIGIN = (
    "it from the package mediapipe with `mkdir -p {folder} && pip download --no-deps"
    " --only-binary=:all: --python-version 3.12 mediapipe==0.10.21 && unzip -j mediapipe-*.whl"
    " '*.tflite' -d {folder}`"
)
FILES = tuple(
    WeightFile(name, digest, "finding people", _ORIGIN)
    for name, digest in (
        (
            "pose_detection.tflite",
            "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        ),
        (
            "pose_landmark_full.tflite",
            "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        ),
        (
            "hand_landmark_full.tflite",
            "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        ),
        (
            "face_landmark.tflite",
            "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        ),
    )
)

_DETECTOR_SIDE, _POSE_SIDE, _HAND_SIDE, _MESH_SIDE = 224, 256, 224, 192  # pixels of the inputs
# Numbers of values of the models' outputs, in the order of `Model`.
_OUTPUTS = (27048, 2254), (159744, 65536, 195, 117, 1), (63, 63, 1, 1), (1404, 1)
# The detector's grids: cells along a side, and boxes per cell.
_GRIDS = (28, 2), (14, 2), (7, 6)
_SEEN = 0.5  # probability from which a person, hand or point counts as seen

# How much larger than the found points the squares are that the models get, as in MediaPipe.
_POSE_MARGIN, _HAND_MARGIN, _MESH_MARGIN = 1.25, 2.0, 1.5
_HAND_GUESS = 2.7  # of the distance from wrist to knuckles, for the first look at a hand
_FACE_GUESS = 3.0  # of the distance between the outer corners of the eyes
_HAND_SHIFT = 0.1  # of the side, towards the fingers

# BlazePose's points.
_EYES, _NOSE = (6, 3), 0  # outer corners, image-left (the person's right) first
_WRISTS, _INDEX, _LITTLE = (16, 15), (20, 19), (18, 17)  # right hand first
# COCO's 17 points of the body: nose; eyes, ears, shoulders, elbows, wrists, hips, knees and ankles,
# the left one first.
_BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)

# Face Mesh's points nearest to iBUG's 68: outline, brows, nose, eyes, outer and inner lips.
_FACE = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)
_EYE_CORNERS = 33, 263  # of Face Mesh, outer, image-left first
# Of the hand model: wrist; and the knuckles and middle joints of index, middle and ring finger,
# whose mean gives the direction.
_PALM = 0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18
_KNUCKLES = 5, 9, 13
# Points for dlib's crops of faces: outer and inner corner of the eye at the right of the image,
# then at the left, and the base of the nose.
_FIVE = 263, 362, 33, 133, 2


@dataclass(frozen=True)
class Person:
    """Landmarks of a person in a frame: x, y in continuous pixels, (0, 0) being the frame's corner;
    NaN where they are not seen.

    Attributes:
        body: float64 (17, 2), COCO's points.
        face: float64 (68, 2), iBUG's points.
        hands: float64 (2, 21, 2), the left hand first, from the wrist to the tip of the little
            finger, as OpenPose and COCO-WholeBody number them.
        five: float64 (5, 2), the points of `identity.chip_transform`.
    """

    body: Float[np.ndarray, "17 2"]
    face: Float[np.ndarray, "68 2"]
    hands: Float[np.ndarray, "2 21 2"]
    five: Float[np.ndarray, "5 2"]

    @classmethod
    def nobody(cls) -> "Person":
        """Return a frame without anybody."""
        return cls(*(np.full((*shape, 2), np.nan) for shape in ((17,), (68,), (2, 21), (5,))))


class PersonFinder:
    """Finds the landmarks of one person per frame, the one that is seen best.

    Args:
        paths: the model files, in the order of `FILES`.

    Raises:
        AnchorError: ai-edge-litert is not installed, or the files are not these models.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        sides = _DETECTOR_SIDE, _POSE_SIDE, _HAND_SIDE, _MESH_SIDE
        self._detector, self._pose, self._hand, self._mesh = (
            Model(path, (1, side, side, 3), outputs)
            for path, side, outputs in zip(paths, sides, _OUTPUTS, strict=True)
        )
        self._anchors = anchor_centres(_GRIDS)

    def find(self, frame: Images) -> Person:
        """Find the landmarks in a frame, uint8 (h, w, 3)."""
        pose = self._find_pose(frame)
        if pose is None:
            return Person.nobody()
        points, seen = pose
        hands = np.stack([self._find_hand(frame, points, seen, side) for side in (1, 0)])
        mesh = self._find_mesh(frame, points)
        chosen = list(_BODY)
        body = np.where(seen[chosen, None], points[chosen], np.nan)
        return Person(body, mesh[list(_FACE)], hands, mesh[list(_FIVE)])

    def _find_pose(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Find BlazePose's points, float64 (33, 2), and which are seen inside the frame."""
        height, width, _ = frame.shape
        side = max(height, width)
        padded = np.zeros((side, side, 3), np.uint8)
        padded[:height, :width] = frame
        shape = (_DETECTOR_SIDE, _DETECTOR_SIDE)
        small = Image.fromarray(padded).resize(shape, Image.Resampling.BILINEAR)
        boxes, scores = self._detector(np.asarray(small, np.float32)[None] / 127.5 - 1)
        best = int(scores.argmax())
        if scores.ravel()[best] < 0:  # a logit
            return None
        hips, top = boxes[0, best, 4:8].reshape(2, 2) / _DETECTOR_SIDE + self._anchors[best]
        points, (presence, rows) = self._look_at_pose(frame, hips * side, top * side)
        if presence < _SEEN:
            return None
        probability = 1 / (1 + np.exp(-rows[:33, 3:].min(1)))  # visible, and in the crop
        inside = ((points[:33] >= 0) & (points[:33] <= (width, height))).all(1)
        return points[:33], (probability >= _SEEN) & inside

    def _look_at_pose(
        self, frame: np.ndarray, centre: np.ndarray, top: np.ndarray
    ) -> tuple[np.ndarray, tuple[float, np.ndarray]]:
        """Find the points in a square around `centre` that reaches to `top`, the circle in which
        the whole person stands."""
        up = top - centre
        side = 2 * _POSE_MARGIN * float(np.hypot(*up))
        transform = square(centre - 0.5, side, _upright(up), _POSE_SIDE)
        _, _, rows, _, presence = self._pose(_crop(frame, transform, _POSE_SIDE))
        rows = rows.reshape(39, 5)
        return _place(rows[:, :2], transform), (presence.item(), rows)

    def _find_hand(
        self, frame: np.ndarray, pose: np.ndarray, seen: np.ndarray, side: int
    ) -> np.ndarray:
        """Find the 21 points of the right (0) or left (1) hand: first where the body's points say,
        then where the points that this gave say."""
        wrist, index, little = pose[[_WRISTS[side], _INDEX[side], _LITTLE[side]]]
        if not seen[_WRISTS[side]]:
            return np.full((21, 2), np.nan)
        centre = (2 * index + little) / 3
        length = 2 * float(np.hypot(*(centre - wrist)))
        points = self._look_at_hand(frame, centre, centre - wrist, _HAND_GUESS * length)
        if points is None:
            return np.full((21, 2), np.nan)
        up = points[list(_KNUCKLES)].mean(0) - points[0]
        again = self._look_at_hand(frame, *_turned_box(points[list(_PALM)], up))
        return np.full((21, 2), np.nan) if again is None else again

    def _look_at_hand(
        self, frame: np.ndarray, centre: np.ndarray, up: np.ndarray, side: float
    ) -> np.ndarray | None:
        if not side > 1:
            return None
        shifted = centre + _HAND_SHIFT * side * up / np.hypot(*up)
        transform = square(shifted - 0.5, side, _upright(up), _HAND_SIDE)
        points, _, presence, _ = self._hand(_crop(frame, transform, _HAND_SIDE))
        if presence.item() < _SEEN:
            return None
        return _place(points.reshape(21, 3)[:, :2], transform)

    def _find_mesh(self, frame: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Find Face Mesh's 468 points, with two looks as for hands."""
        left, right = pose[list(_EYES)]
        side = _FACE_GUESS * float(np.hypot(*(right - left)))
        points = self._look_at_mesh(frame, pose[_NOSE], right - left, side)
        if points is not None:
            left, right = points[list(_EYE_CORNERS)]
            low, high = points.min(0), points.max(0)
            side = _MESH_MARGIN * float((high - low).max())
            points = self._look_at_mesh(frame, (low + high) / 2, right - left, side)
        return np.full((468, 2), np.nan) if points is None else points

    def _look_at_mesh(
        self, frame: np.ndarray, centre: np.ndarray, across: np.ndarray, side: float
    ) -> np.ndarray | None:
        if not side > 1:
            return None
        angle = float(np.arctan2(across[1], across[0]))
        transform = square(centre - 0.5, side, angle, _MESH_SIDE)
        points, presence = self._mesh(_crop(frame, transform, _MESH_SIDE))
        if presence.item() < 0:  # a logit
            return None
        return _place(points.reshape(468, 3)[:, :2], transform)


def load_finders(
    folder: Path | None, count: int = 2
) -> tuple[tuple[PersonFinder, ...], dict[str, str]]:
    """Load the models.

    Args:
        folder: of weights; None: the cache folder, see `WeightFile`.
        count: number of finders, one for each thread that uses them.

    Returns:
        The finders, and the SHA-256 of each file.

    Raises:
        Unavailable: a file or ai-edge-litert is missing.
        AnchorError: as `PersonFinder`.
    """
    if find_spec("ai_edge_litert") is None:
        raise Unavailable("finding people needs more: pip install 'anchor-jax[evaluate]'")
    paths = [file.find(folder) for file in FILES]
    finders = tuple(PersonFinder(paths) for _ in range(count))
    return finders, {path.name: file_hash(path) for path in paths}


def _upright(up: np.ndarray) -> float:
    """Return the direction of the upper side of a square whose inside points to `up`."""
    return float(np.arctan2(up[1], up[0]) + np.pi / 2)


def _turned_box(points: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return centre, direction and side of a square around points, `_HAND_MARGIN` times as large as
    their box in that direction."""
    turn = complex(*up) / np.hypot(*up)
    turned = (points @ (1, 1j)) / turn
    box = np.array([[turned.real.min(), turned.imag.min()], [turned.real.max(), turned.imag.max()]])
    middle = complex(*box.mean(0)) * turn
    side = _HAND_MARGIN * float((box[1] - box[0]).max())
    return np.array([middle.real, middle.imag]), up, side


def _crop(frame: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    return warp(frame[None], transform[None], (side, side)).astype(np.float32) / 255


def _place(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Map points of a crop to continuous pixels of the frame."""
    back = invert(transform[None])[0]
    return points.astype(np.float64) @ back[:, :2].T + back[:, 2] + 0.5
