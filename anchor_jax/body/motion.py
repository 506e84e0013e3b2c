"""`Motion`: a clip of SMPL-X parameters. Readers of motion files return it, bodies accept it.

Joint order: root, 21 of the body, jaw, left eye, right eye, 15 of the left hand, 15 of the right.
SMPL-X: Pavlakos et al., CVPR 2019, https://arxiv.org/abs/1904.05866
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size

NUM_JOINTS = 55
LEGS = [1, 2, 4, 5, 7, 8, 10, 11]  # hips, knees, ankles and feet
JAW = 22
LEFT_HAND = slice(25, 40)
RIGHT_HAND = slice(40, 55)
MAX_BETAS = 300
_MAX_EXPRESSION = 100
_MAX_HAND_PCA = 45
MAX_FPS = 1000
_FRAMES = ("y_up", "camera")
# The 52 facial actions of ARKit, by which MakeHuman's face units are named, 0 (none) to 1 (full).
FACIAL_ACTIONS: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft",
    "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft",
    "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
MAX_MAGNITUDE = 1e6  # radians, metres or coefficients: above it, float32 is too coarse


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of the video that a motion was fitted to (SHOW).

    Raises:
        AnchorError: a value has another shape or type, or is out of range.
    """

    focal_length: float  # pixels
    center: tuple[float, float]  # principal point, pixels
    translation: np.ndarray  # float32 (3,), metres, SHOW's camera_transl
    size: Size  # pixels

    def __post_init__(self) -> None:
        _check_array("the camera's translation", self.translation, (3,))
        if not (math.isfinite(self.focal_length) and 0 < self.focal_length <= MAX_MAGNITUDE):
            raise AnchorError(f"the camera's focal length is {self.focal_length}: expected pixels")
        if len(self.center) != 2 or not all(abs(c) <= MAX_MAGNITUDE for c in self.center):
            raise AnchorError(f"the camera's center is {self.center}: expected two pixels")
        if len(self.size) != 2 or not all(0 < side <= 1 << 16 for side in self.size):
            raise AnchorError(
                f"the camera's size is {self.size}: expected width and height, 1 to {1 << 16}"
            )


@dataclass(frozen=True)
class Motion:
    """A clip of SMPL-X parameters, checked when it is made.

    Attributes:
        poses: float32 (n, 55, 3), axis-angle of every joint, relative to its parent, radians.
        translation: float32 (n, 3), metres, added to every vertex.
        betas: float32 (k,), k <= 300, coefficients of the body shape.
        expression: float32 (n, e), e <= 100, zeros if the source has no face.
        fps: frames per second.
        frame: frame of reference: "y_up" (world), or "camera" (y down, z away from the camera, as
            in SHOW and TalkSHOW).
        mean_hands: True if hand rotations are relative to the body model's mean hand (smplx:
            flat_hand_mean=False), False if relative to the flat hand.
        camera: the camera of the video that the motion was fitted to.
        hand_pca: left and right hand, float32 (n, c) each: coefficients of the hand basis in the
            model file. The hands of `poses` are then zero.
        actions: float32 (n, 52), the `FACIAL_ACTIONS`, 0 to 1. Bodies that have them use them in
            place of jaw and expression.

    Raises:
        AnchorError: an array has another shape or type or holds values that are not finite, there
            is no frame, or `fps` or `frame` is invalid.
    """

    poses: np.ndarray
    translation: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    fps: Fraction
    frame: str
    mean_hands: bool
    camera: Camera | None = None
    hand_pca: tuple[np.ndarray, np.ndarray] | None = None
    actions: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.poses) if isinstance(self.poses, np.ndarray) and self.poses.ndim else 0
        if n == 0:
            raise AnchorError("the motion has no frames: expected at least one")
        _check_array("poses", self.poses, (n, NUM_JOINTS, 3))
        _check_array("translation", self.translation, (n, 3))
        _check_array("betas", self.betas, (MAX_BETAS,), at_most=True)
        _check_array("expression", self.expression, (n, _MAX_EXPRESSION), at_most=True)
        if not isinstance(self.fps, Fraction) or not 0 < self.fps <= MAX_FPS:
            raise AnchorError(
                f"the motion's fps is {self.fps}: expected a Fraction, above 0, up to {MAX_FPS}"
            )
        if self.frame not in _FRAMES:
            raise AnchorError(f"the motion's frame is {self.frame!r}: expected y_up or camera")
        if self.hand_pca is not None:
            self._check_hands(n)
        if self.actions is not None:
            _check_array("actions", self.actions, (n, len(FACIAL_ACTIONS)))

    def _check_hands(self, n: int) -> None:
        assert self.hand_pca is not None
        for side, coefficients in zip(("left", "right"), self.hand_pca, strict=True):
            _check_array(f"{side} hand_pca", coefficients, (n, _MAX_HAND_PCA), at_most=True)
        if self.poses[:, LEFT_HAND].any() or self.poses[:, RIGHT_HAND].any():
            raise AnchorError("the motion has both hand_pca and hand poses: expected one of them")

    def __getitem__(self, frames: slice | np.ndarray) -> "Motion":
        """Some of the frames: `motion[first:last]`, or those that an array of integers names."""
        hands = self.hand_pca
        return replace(
            self,
            poses=self.poses[frames],
            translation=self.translation[frames],
            expression=self.expression[frames],
            hand_pca=hands and (hands[0][frames], hands[1][frames]),
            actions=None if self.actions is None else self.actions[frames],
        )

    @property
    def seconds(self) -> float:
        """Duration: number of frames divided by `fps`."""
        return float(len(self.poses) / self.fps)


def relaxed_hands(motion: Motion, body: str) -> list[str]:
    """Return the note of a free body, called `body`, whose hands cannot follow a motion; none if
    they can."""
    if motion.hand_pca is None:
        return []
    return [
        "this motion's hands are PCA coefficients, whose basis is only in the licensed model; the "
        f"{body}'s hands are relaxed"
    ]


def _check_array(
    name: str, array: np.ndarray, shape: tuple[int, ...], at_most: bool = False
) -> None:
    """Check for finite float32 of `shape`. With `at_most`, the last axis may be shorter."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise AnchorError(f"{name}: expected an array of float32, not {kind}")
    longest = array.shape[-1:] <= shape[-1:] if at_most else array.shape[-1:] == shape[-1:]
    if array.ndim != len(shape) or array.shape[:-1] != shape[:-1] or not longest:
        most = "at most " if at_most else ""
        raise AnchorError(f"{name}: expected {most}{shape}, not {array.shape}")
    if not np.isfinite(array).all():
        at = int(np.argwhere(~np.isfinite(array))[0][0])
        where = f", first in frame {at}" if len(shape) > 1 else ""
        raise AnchorError(f"{name}: holds values that are not finite{where}")
    if array.size and np.abs(array).max() > MAX_MAGNITUDE:
        raise AnchorError(
            f"{name}: holds values beyond {MAX_MAGNITUDE:g}; expected radians and metres"
        )
