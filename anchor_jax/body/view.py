"""Chooses the camera: that of the fitted video, or one that frames head to hips of the whole clip.

World coordinates are OpenGL's: y up, z towards the viewer, metres. The camera always looks along
-z; the body is rotated instead. Pixel coordinates are continuous: (0, 0) is the upper left corner
of the image, and the pixel in column j and row i spans j..j+1 and i..i+1.
"""

from dataclasses import dataclass, replace

import numpy as np

from anchor_jax.body.motion import LEGS, Camera, Motion
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size

_HALF_TURN = np.diag([1.0, -1.0, -1.0])  # about x: y down, z away becomes y up, z to the viewer
_MAX_SIDE = 4096  # pixels; every OpenGL can render this

# A motion without a camera is viewed like the published renders: focal length 5000 pixels at image
# size 512, and the hips where SMPL-X has them at zero translation, so that the fixed lights fall on
# the body in the same way.
LENS = 5000 / 512
HIPS = np.array([0.0, 0.35, 0.0])
_PELVIS, _HEAD, _LEFT_HIP, _RIGHT_HIP, _LEFT_SHOULDER, _RIGHT_SHOULDER = 0, 15, 1, 2, 16, 17
_SKULL = 0.22  # from the head joint to the crown, metres
_FLESH = 0.1  # around the other joints, metres
_BELOW_HIPS = 0.03  # metres
_RARE = 0.05  # fraction of the frames whose hands or hips may leave the image


@dataclass(frozen=True)
class View:
    """Maps a body's vertices to world coordinates and to pixels.

    world = rotation @ vertex + offset; the camera is at `position`.
    """

    rotation: np.ndarray  # (3, 3)
    offset: np.ndarray  # (3,), metres
    position: np.ndarray  # (3,), metres
    focal_length: float  # pixels
    center: tuple[float, float]  # principal point, pixels
    size: Size
    near: float = 0.05  # clipping planes, metres from the camera
    far: float = 100.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) from the motion's frame to the world, float32."""
        return (points @ self.rotation.T + self.offset).astype(np.float32)

    def project(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points (..., 3) to pixels (..., 2) and depths (...), metres along -z."""
        x, y, z = np.moveaxis(np.asarray(world, np.float64) - self.position, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            across, down = self.focal_length * x / -z, self.focal_length * y / z
        return np.stack([across + self.center[0], down + self.center[1]], axis=-1), -z

    def zoomed(self, scale: float, seen: np.ndarray, wanted: np.ndarray) -> "View":
        """Return a camera of the same size whose pixels are scale (p - seen) + wanted, where this
        one has p."""
        x, y = wanted + scale * (np.array(self.center) - seen)
        return replace(self, focal_length=scale * self.focal_length, center=(float(x), float(y)))

    def crops(self, camera: Camera) -> bool:
        """Whether the image has another aspect ratio than `camera`'s and so cuts off some of it."""
        return self.size[0] * camera.size[1] != self.size[1] * camera.size[0]


def make_view(motion: Motion, joints: np.ndarray, size: Size) -> View:
    """Choose the camera of a clip. It is the same for all frames.

    Args:
        motion: the whole clip, even if only a part of it is rendered.
        joints: joint positions (n, 55, 3), metres, in `motion.frame`.
        size: width and height of the images, pixels.

    Raises:
        AnchorError: the size cannot be rendered, or joints are not finite.
    """
    check_size(size)
    if not np.isfinite(joints).all():
        frame = int(np.flatnonzero(~np.isfinite(joints).all((1, 2)))[0])
        raise AnchorError(f"frame {frame} of the motion gives joint positions that are not finite")
    if motion.camera is not None:
        return _fitted(motion.camera, size)
    return _framed(motion, joints.astype(np.float64), size)


def check_size(size: Size) -> None:
    """Raise AnchorError unless both sides are even and from 2 to 4096 pixels."""
    if not all(2 <= side <= _MAX_SIDE and side % 2 == 0 for side in size):
        raise AnchorError(
            f"images of {size[0]}x{size[1]}: expected even sides from 2 to {_MAX_SIDE} pixels"
        )


def _fitted(camera: Camera, size: Size) -> View:
    """SHOW's camera: vertices are rotated by 180 degrees about x, the camera is at (x, -y, z) of
    its translation. If `size` has another aspect ratio than the fitted video, the central part of
    the video's image fills it."""
    x, y, z = map(float, camera.translation)
    width, height = camera.size
    scale = max(size[0] / width, size[1] / height)
    middle = [
        side / 2 + scale * (point - whole / 2)
        for point, whole, side in zip(camera.center, camera.size, size, strict=True)
    ]
    return View(
        rotation=_HALF_TURN,
        offset=np.zeros(3),
        position=np.array([x, -y, z]),
        focal_length=scale * camera.focal_length,
        center=(middle[0], middle[1]),
        size=size,
    )


def _framed(motion: Motion, joints: np.ndarray, size: Size) -> View:
    """Frame head to hips of the whole clip from the front, with room for the hands.

    The head is always in the image. Hands or hips may leave it in a few frames (`_RARE`): room for
    the most extreme ones would make the person small in all other frames.
    """
    rotation = _HALF_TURN if motion.frame == "camera" else _facing(joints)
    joints = joints @ rotation.T
    offset = HIPS - np.median(joints[:, _PELVIS], axis=0)
    joints += offset
    upper, head = np.delete(joints, LEGS, axis=1), joints[:, _HEAD]
    rare = 100 * _RARE
    left = min(np.percentile(upper[..., 0].min(1), rare), head[:, 0].min()) - _FLESH
    right = max(np.percentile(upper[..., 0].max(1), 100 - rare), head[:, 0].max()) + _FLESH
    top = max(np.percentile(upper[..., 1].max(1), 100 - rare) + _FLESH, head[:, 1].max() + _SKULL)
    bottom = np.percentile(joints[:, _PELVIS, 1], rare) - _BELOW_HIPS
    scale = float(min(size[0] / (right - left), size[1] / (top - bottom)))  # pixels per metre
    focal_length = LENS * max(size)
    distance = focal_length / scale
    # The hips stay at the lower edge: spare room is above the head.
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
    """The rotation about y after which the body faces z, on average over the clip."""
    across = joints[:, _LEFT_HIP] - joints[:, _RIGHT_HIP]
    across += joints[:, _LEFT_SHOULDER] - joints[:, _RIGHT_SHOULDER]
    x, z = (
        across[:, 0].mean(),
        across[:, 2].mean(),
    )  # direction to the person's left, seen from above
    if np.hypot(x, z) < 1e-3:  # all directions occur equally: use the first frame
        x, z = across[0, 0], across[0, 2]
    angle = np.arctan2(z, x)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
