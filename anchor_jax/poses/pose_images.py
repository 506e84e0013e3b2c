"""Writes and reads pose images: a video or a folder, and a conditions folder beside it.

The conditions folder holds landmarks, face masks and foreground masks (docs/render.md).
`anchor-jax render` writes with `write_pose_images`; `face_inputs` and `face_crops` read.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.body.arrays import Archive
from anchor_jax.body.motion import NUM_JOINTS
from anchor_jax.body.parallel import PoseImage
from anchor_jax.body.view import View
from anchor_jax.data import video
from anchor_jax.data.pictures import open_picture
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, named_errors, placed
from anchor_jax.shapes import Size

_MASKS = "face", "foreground"
TABLE = "conditions.npz"
_LANDMARK_NAMES = "left_eye", "right_eye", "nose", "left_mouth", "right_mouth"
MAX_ARRAY_BYTES = 1 << 28
EXPECTED_LANDMARKS = (
    "expected (n, 5, 2): x, y of left eye, right eye, nose, left and right mouth corner in each of "
    "n frames"
)


def conditions_beside(out: Path) -> Path:
    """The default conditions folder: `seth-conditions/` for `seth.mp4` and for `seth/`."""
    name = out.stem if out.suffix.lower() == ".mp4" else out.name
    return out.with_name(f"{name}-conditions")


def check_outputs(out: Path, conditions: Path) -> None:
    """Check, before drawing, that the outputs can be written.

    Raises:
        AnchorError: a path cannot be written, or a folder holds other files.
    """
    if out.suffix and not out.is_dir():
        video.check_output(path=out)
    else:
        video.check_output(folder=out)
    check_parent(conditions)
    if conditions.resolve() == out.resolve():
        raise AnchorError(f"--out and --conditions are both {out}; expected different paths")
    if not conditions.exists():
        return
    if not conditions.is_dir():
        raise AnchorError(f"cannot write landmarks and masks into {conditions}: it is not a folder")
    others = sorted(set(os.listdir(conditions)) - {TABLE, *_MASKS})
    if others:
        raise AnchorError(
            f"cannot write landmarks and masks into {conditions}: it holds other files, such as "
            f"{others[0]}; choose a new or empty folder"
        )


def check_room(out: Path, count: int, size: Size) -> None:
    """Check, before drawing, that the disk has space for `count` pose images of `size`. The masks
    are a hundredth of it and not counted.

    Raises:
        AnchorError: the disk has too little space.
    """
    shape = count, *size
    if out.suffix.lower() == ".mp4":
        video.check_room(shape, path=out)
    else:
        video.check_room(shape, folder=out)


def write_pose_images(
    images: Iterable[PoseImage], view: View, fps: Fraction, out: Path, conditions: Path
) -> int:
    """Write pose images, landmarks and masks in the layout of docs/render.md.

    Args:
        images: the frames, from `body.parallel.draw_clip`.
        view: the camera that they were drawn with.
        fps: frames per second.
        out: an .mp4, or a folder for `000001.png`, ...
        conditions: a folder for `conditions.npz`, `face/` and `foreground/`.

    Returns:
        The number of frames.

    Raises:
        AnchorError: an output cannot be written. Then neither output exists.
    """
    check_outputs(out, conditions)
    landmarks, visible, joints = [], [], []

    def frames(folder: Path) -> Iterator[np.ndarray]:
        for number, image in enumerate(images, 1):
            with named_errors(conditions):
                for mask in _MASKS:
                    _save_mask(folder / mask / f"{number:06d}.png", getattr(image, mask))
            landmarks.append(image.landmarks)
            visible.append(image.visible)
            if image.joints is not None:
                joints.append(image.joints)
            yield image.pixels
        table = _camera(view, fps)
        table |= {"landmarks": np.stack(landmarks), "visible": np.stack(visible)}
        if joints:
            table["joints"] = np.stack(joints)
        with named_errors(conditions):
            np.savez(folder / TABLE, **table)  # before any output is moved to its place

    with ExitStack() as stack:
        folder = stack.enter_context(placed(conditions))
        for mask in _MASKS:
            (folder / mask).mkdir(parents=True)
        if out.suffix.lower() == ".mp4":
            video.write_video(out, frames(folder), fps)
        else:
            video.write_frames(out, frames(folder))
    return len(landmarks)


def _camera(view: View, fps: Fraction) -> dict[str, Any]:
    return {
        "landmark_names": np.array(_LANDMARK_NAMES),
        "fps": np.array([fps.numerator, fps.denominator]),
        "size": np.array(view.size),
        "focal_length": np.array(view.focal_length),
        "center": np.array(view.center),
        "camera_position": view.position,
        "body_rotation": view.rotation,
        "body_offset": view.offset,
    }


def _save_mask(path: Path, mask: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(mask.astype(np.uint8) * 255).save(path, compress_level=1)


@dataclass(frozen=True)
class Conditions:
    """A conditions folder that `anchor-jax render` wrote (docs/render.md)."""

    folder: Path
    landmarks: np.ndarray  # float32 (n, 5, 2), continuous pixels
    size: Size  # of the pose images

    def face(self, number: int) -> np.ndarray:
        """Read the face mask of frame `number`, from 0: uint8 (h, w), 255 on the face, else 0.

        Raises:
            AnchorError: the mask is missing, unreadable or of another size.
        """
        path = self.folder / "face" / f"{number + 1:06d}.png"
        with open_picture(path) as image:
            mask = np.asarray(image.convert("L"))
        if mask.shape[::-1] != self.size:
            raise AnchorError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]}; expected the size of the pose images,"
                f" {self.size[0]}x{self.size[1]}"
            )
        return mask


@dataclass(frozen=True)
class LandmarkTable:
    """The content of a landmark file, checked when it is made.

    Attributes:
        path: the file, for error messages.
        points: numbers (n, 5, 2), continuous pixels; NaN if missing.
        visible: bool (n, 5), or None if the file does not say.
        size: width and height (2,) of the images that the points refer to, or None.
        joints: numbers (n, 55, 2), continuous pixels, in the order of `anchor_jax.body.motion`, or
            None.

    Raises:
        AnchorError: an array has another shape or type.
    """

    path: Path
    points: np.ndarray
    visible: np.ndarray | None = None
    size: np.ndarray | None = None
    joints: np.ndarray | None = None

    def __post_init__(self):
        points, visible, size, joints = self.points, self.visible, self.size, self.joints
        if points.ndim != 3 or points.shape[1:] != (5, 2) or points.dtype.kind not in "iuf":
            raise AnchorError(
                f"{self.path}: landmarks are {points.dtype} {points.shape}; {EXPECTED_LANDMARKS}"
            )
        if visible is not None and (visible.shape != points.shape[:2] or visible.dtype != bool):
            raise AnchorError(
                f"{self.path}: visible is {visible.dtype} {visible.shape}; expected bool (n, 5)"
            )
        expected = (len(points), NUM_JOINTS, 2)
        if joints is not None and (joints.shape != expected or joints.dtype.kind not in "iuf"):
            raise AnchorError(
                f"{self.path}: joints are {joints.dtype} {joints.shape}; expected {expected}"
            )
        if size is not None and (
            size.shape != (2,)
            or size.dtype.kind not in "iuf"
            or not (np.isfinite(size) & (size >= 1)).all()
        ):
            raise AnchorError(
                f"{self.path}: size is {size.tolist()}; expected a width and height in pixels"
            )


def read_table(path: Path) -> LandmarkTable:
    """Read an `.npz` landmark file, such as the `conditions.npz` of `write_pose_images`.

    Raises:
        AnchorError: the file is damaged, or "landmarks" is missing or invalid.
    """
    archive = Archive(path, MAX_ARRAY_BYTES)
    names = "visible", "size", "joints"
    others = {name: archive[name] for name in names if name in archive}
    return LandmarkTable(path, archive["landmarks"], **others)


def read_conditions(folder: Path) -> Conditions:
    """Read a conditions folder of `write_pose_images`. The masks are read later, on access.

    Raises:
        AnchorError: there is no such folder, or its `conditions.npz` is damaged or invalid.
    """
    if not (folder / TABLE).is_file():
        raise AnchorError(
            f"{folder} has no {TABLE}; expected a conditions folder of `anchor-jax render`"
        )
    table = read_table(folder / TABLE)
    if table.size is None:
        raise AnchorError(f"{table.path}: size is missing; expected a width and height in pixels")
    if not np.isfinite(table.points).all():
        raise AnchorError(f"{table.path}: landmarks hold values that are not finite")
    width, height = (int(side) for side in table.size)
    return Conditions(folder, table.points.astype(np.float32), (width, height))
