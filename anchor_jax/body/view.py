"""Where the camera stands: a fitted video's own, or one that frames head to hips of a whole clip.

World coordinates are OpenGL's: y up, z towards the viewer, metres. The camera looks along -z and is
never turned; the body is. Pixel coordinates are continuous: (0, 0) is the picture's upper left
corner, and the pixel in column j and row i spans j..j+1 and i..i+1.
"""

from dataclasses import dataclass

import numpy as np

from anchor_jax.body.motion import Camera, Motion
from anchor_jax.errors import AnchorError

Size = tuple[int, int]  # width, height

HALF_TURN = np.diag([1.0, -1.0, -1.0])  # about x: from y down, z away to y up, z to the viewer
LARGEST = 4096  # pixels of a side, which every OpenGL can render

# Without a camera of its own a clip is seen as the published renders are: through a lens of 5000
# pixels at 512, the hips where SMPL-X has them at zero translation, so that the lights, which do
# not move, fall on the body in the same way.
LENS = 5000 / 512
HIPS = np.array([0.0, 0.35, 0.0])
PELVIS, HEAD, LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 15, 1, 2, 16, 17
LEGS = [1, 2, 4, 5, 7, 8, 10, 11]
SKULL = 0.22  # from the head joint to the crown, metres
FLESH = 0.1  # around all other joints
BELOW_HIPS = 0.03
RARE = 0.05  # of the frames


@dataclass(frozen=True)
class View:
    """How a body's vertices become pixels.

    World = rotation @ vertex + offset; the camera stands at `position`.
    """

    rotation: np.ndarray  # (3, 3)
    offset: np.ndarray  # (3,), metres
    position: np.ndarray  # (3,), metres
    focal_length: float  # pixels
    center: tuple[float, float]  # principal point, pixels
    size: Size
    near: float = 0.05  # metres: what is nearer or farther is not drawn
    far: float = 100.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the motion's frame in the world, float32."""
        return (points @ self.rotation.T + self.offset).astype(np.float32)

    def project(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) and depths (...), metres in front of the camera, of world points."""
        x, y, z = np.moveaxis(np.asarray(world, np.float64) - self.position, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            across, down = self.focal_length * x / -z, self.focal_length * y / z
        return np.stack([across + self.center[0], down + self.center[1]], axis=-1), -z

    def crops(self, camera: Camera) -> bool:
        """Whether these pictures leave out some of what a fitted video's camera saw."""
        return self.size[0] * camera.size[1] != self.size[1] * camera.size[0]


def make_view(motion: Motion, joints: np.ndarray, size: Size) -> View:
    """The camera for a clip, the same for all of its frames.

    Args:
        motion: the whole clip, of which parts may be rendered.
        joints: its joints (n, 55, 3), metres, in `motion.frame`.
        size: width and height of the pictures, pixels.

    Raises:
        AnchorError: a size that cannot be rendered, or joints that are not finite.
    """
    check_size(size)
    if not np.isfinite(joints).all():
        frame = int(np.flatnonzero(~np.isfinite(joints).all((1, 2)))[0])
        raise AnchorError(f"frame {frame} of the motion puts joints at places that are not finite")
    if motion.camera is not None:
        return _fitted(motion.camera, size)
    return _framed(motion, joints.astype(np.float64), size)


def check_size(size: Size) -> None:
    """Raise AnchorError for sides that cannot be rendered or made a video of."""
    if not all(2 <= side <= LARGEST and side % 2 == 0 for side in size):
        raise AnchorError(
            f"pictures of {size[0]}x{size[1]}: expected even sides from 2 to {LARGEST} pixels"
        )


def _fitted(camera: Camera, size: Size) -> View:
    """SHOW's camera: vertices make a half turn about x, the camera is moved to (x, -y, z) of its
    translation. Where `size` has another shape than the fitted video, the middle of its picture
    fills it."""
    x, y, z = map(float, camera.translation)
    width, height = camera.size
    scale = max(size[0] / width, size[1] / height)
    middle = [
        side / 2 + scale * (point - whole / 2)
        for point, whole, side in zip(camera.center, camera.size, size, strict=True)
    ]
    return View(
        rotation=HALF_TURN,
        offset=np.zeros(3),
        position=np.array([x, -y, z]),
        focal_length=scale * camera.focal_length,
        center=(middle[0], middle[1]),
        size=size,
    )


def _framed(motion: Motion, joints: np.ndarray, size: Size) -> View:
    """Head to hips of the whole clip, from the front, with room for the hands above the hips.

    The head is always in the picture. A reach of the hands, or a crouch, that only a few frames
    have (`RARE`) may leave it: making room for each would make the person small in all others.
    """
    rotation = HALF_TURN if motion.frame == "camera" else _facing(joints)
    joints = joints @ rotation.T
    offset = HIPS - np.median(joints[:, PELVIS], axis=0)
    joints += offset
    upper, head = np.delete(joints, LEGS, axis=1), joints[:, HEAD]
    rare = 100 * RARE
    left = min(np.percentile(upper[..., 0].min(1), rare), head[:, 0].min()) - FLESH
    right = max(np.percentile(upper[..., 0].max(1), 100 - rare), head[:, 0].max()) + FLESH
    top = max(np.percentile(upper[..., 1].max(1), 100 - rare) + FLESH, head[:, 1].max() + SKULL)
    bottom = np.percentile(joints[:, PELVIS, 1], rare) - BELOW_HIPS
    scale = float(min(size[0] / (right - left), size[1] / (top - bottom)))  # pixels per metre
    focal_length = LENS * max(size)
    distance = focal_length / scale
    # The hips stay at the lower edge: room that is left over is above.
    position = [(left + right) / 2, bottom + size[1] / scale / 2, HIPS[2] + distance]
    return View(
        rotation=rotation,
        offset=offset,
        position=np.array(position),
        focal_length=focal_length,
        center=(size[0] / 2, size[1] / 2),
        size=size,
        near=distance / 20,
        far=distance * 20,
    )


def _facing(joints: np.ndarray) -> np.ndarray:
    """The turn about y that makes the body look along z, on average over the clip."""
    across = joints[:, LEFT_HIP] - joints[:, RIGHT_HIP]
    across += joints[:, LEFT_SHOULDER] - joints[:, RIGHT_SHOULDER]
    x, z = across[:, 0].mean(), across[:, 2].mean()  # the person's left, seen from above
    if np.hypot(x, z) < 1e-3:  # turned about as often as not
        x, z = across[0, 0], across[0, 2]
    angle = np.arctan2(z, x)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
