"""Cuts face crops for training data sets, from the conditions folders of `anchor-jax render`.

`find_faces` is for `anchor-jax prepare`. For generation, use `face_inputs.read_face`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Pictures
from anchor_jax.data.pictures import resize
from anchor_jax.errors import AnchorError
from anchor_jax.face import align, mask
from anchor_jax.poses.pose_images import TABLE, Conditions, conditions_beside, read_conditions
from anchor_jax.shapes import Size

_SIDE = 256  # pixels, as published


@dataclass(frozen=True)
class FaceCrops:
    """Cuts the same crop from frame, pose image and face mask, by the landmarks of the pose image.

    As in the published face stage, a similarity transform maps the five landmarks to a crop of 512
    pixels, which is then resized. The crop is cut from the frame as stored in the data set, since
    the face stage repaints frames of that size.

    Attributes:
        conditions: landmarks and masks of the pose images.
        size: side of the crops, pixels.
    """

    conditions: Conditions
    size: int = _SIDE

    @property
    def inputs(self) -> list[Path]:
        """The file and the folder that are read."""
        return [self.conditions.folder / TABLE, self.conditions.folder / "face"]

    def check(self, poses: Path, num_poses: int, pose_size: Size) -> None:
        """Check that landmarks and masks belong to the pose images at `poses`.

        Raises:
            AnchorError: the number of frames or their size differs.
        """
        count = len(self.conditions.landmarks)
        if count != num_poses or self.conditions.size != pose_size:
            width, height = self.conditions.size
            raise AnchorError(
                f"{self.conditions.folder} is for {count} pose images of {width}x{height}, but"
                f" {poses} has {num_poses} of {pose_size[0]}x{pose_size[1]}: render them again, or"
                " leave faces out (--no-face)"
            )

    def cut(
        self, number: int, target: np.ndarray, pose: np.ndarray, window: tuple[int, int, int]
    ) -> Pictures:
        """Cut the face crops of one frame.

        Args:
            number: number of the pose image, from 0.
            target, pose: frame and pose image as stored, uint8 (h, h, 3).
            window: left, top and side, pixels, of the square of the pose image that `pose` shows.

        Returns:
            `face` and `face_pose`, uint8 (size, size, 3), and `face_mask`, uint8 (size, size): 0 on
            the face, which is repainted, 255 on the pixels that are kept.

        Raises:
            AnchorError: the mask cannot be read, or the face is smaller than a pixel.
        """
        from PIL import Image

        left, top, side = window
        square = self.conditions.face(number)[top : top + side, left : left + side]
        seen = resize(np.ascontiguousarray(square), target.shape[1::-1])
        # `align` uses OpenCV's coordinates: the centre of the first pixel is (0, 0).
        landmarks = (self.conditions.landmarks[number] - (left, top)) * len(target) / side - 0.5
        transforms = align.estimate_transforms(landmarks[None])
        if not align.scales(transforms)[0] < align.SIZE:  # also True for NaN
            raise AnchorError(
                f"{self.conditions.folder / TABLE}: the face of frame {number + 1} is smaller than"
                " a pixel"
            )
        crops = align.crop(np.concatenate([target, pose], axis=-1)[None], transforms)[0]
        face = mask.from_renders((seen > 127)[None], transforms)
        keep = (mask.repaint_mask(face)[0, ..., 0] * 255).astype(np.uint8)
        size = self.size, self.size
        return {
            "face": resize(np.ascontiguousarray(crops[..., :3]), size),
            "face_pose": resize(np.ascontiguousarray(crops[..., 3:]), size),
            "face_mask": np.asarray(Image.fromarray(keep).resize(size, Image.Resampling.NEAREST)),
        }


def find_faces(poses: Sequence[Path], size: int = _SIDE) -> tuple[FaceCrops, ...]:
    """Find the conditions folders of pose images, as `anchor-jax render` writes them.

    Args:
        poses: folders or videos of pose images.
        size: side of the crops, pixels: 64 to 1024, a multiple of 8.

    Returns:
        One `FaceCrops` for each of `poses`; empty if none of them has landmarks.

    Raises:
        AnchorError: only some of `poses` have landmarks, landmarks are damaged, or `size` is
            invalid.
    """
    if not 64 <= size <= 1024 or size % 8:
        raise AnchorError(f"--face-size {size}: expected 64 to 1024, a multiple of 8")
    folders = {path: conditions_beside(path.absolute()) for path in poses}
    missing = [path for path, folder in folders.items() if not folder.exists()]
    if len(missing) == len(folders):
        return ()
    if missing:
        raise AnchorError(
            f"{missing[0]} has no landmarks beside it ({folders[missing[0]].name}), but others"
            " have: render it again, or leave faces out (--no-face)"
        )
    return tuple(FaceCrops(read_conditions(folders[path]), size) for path in poses)
