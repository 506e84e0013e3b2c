"""The faces in the frames of a data set, by what `anchor-jax render` left beside the poses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Pictures
from anchor_jax.data.video import resize
from anchor_jax.errors import AnchorError
from anchor_jax.face import align, mask
from anchor_jax.poses.pose_images import TABLE, Conditions, conditions_beside, read_conditions

Size = tuple[int, int]  # width, height
SIDE = 256  # pixels, as published


@dataclass(frozen=True)
class FaceCrops:
    """Cuts frame, pose image and face mask alike, by the landmarks of the pose image.

    As in the published face stage the five landmarks are laid on a template of 512 pixels by a
    similarity transform, and the crop is then resized. It is the stored frame that is cut: that is
    what the face stage gets to see.
    """

    conditions: Conditions
    size: int = SIDE

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that are read."""
        return [self.conditions.folder / TABLE, self.conditions.folder / "face"]

    def check(self, poses: Path, num_poses: int, pose_size: Size) -> None:
        """Find out whether the landmarks and masks are those of these pose images.

        Raises:
            AnchorError: another number of frames, or another size.
        """
        count = len(self.conditions.landmarks)
        if count != num_poses or self.conditions.size != pose_size:
            width, height = self.conditions.size
            raise AnchorError(
                f"{self.conditions.folder} is of {count} pose images of {width}x{height}, and"
                f" {poses} has {num_poses} of {pose_size[0]}x{pose_size[1]}: render them again, or"
                " leave the faces out (--no-face)"
            )

    def cut(
        self, number: int, target: np.ndarray, pose: np.ndarray, window: tuple[int, int, int]
    ) -> Pictures:
        """`face`, `face_pose`, uint8 (size, size, 3), and `face_mask`, uint8 (size, size).

        Args:
            number: of the pose image, from 0.
            target, pose: uint8 (h, h, 3), as stored.
            window: left, top and side of the square of the pose image that `pose` shows.

        Returns:
            The crops; in the mask 0 is the face, to be repainted, and 255 is kept.

        Raises:
            AnchorError: a mask that cannot be read, or landmarks that are no face.
        """
        from PIL import Image

        left, top, side = window
        square = self.conditions.face(number)[top : top + side, left : left + side]
        seen = resize(np.ascontiguousarray(square), target.shape[1::-1])
        # The transform counts pixels from the middle of the first one, as OpenCV does.
        landmarks = (self.conditions.landmarks[number] - (left, top)) * len(target) / side - 0.5
        transforms = align.estimate_transforms(landmarks[None])
        if not align.scales(transforms)[0] < align.SIZE:  # NaN, too
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


def find_faces(poses: Sequence[Path], size: int = SIDE) -> tuple[FaceCrops, ...]:
    """What cuts the faces of each of `poses`, if `anchor-jax render` wrote landmarks beside them.

    Args:
        poses: folders or videos of pose images.
        size: of the crops, pixels.

    Raises:
        AnchorError: only some have landmarks, or some that are damaged; a size that cannot be.
    """
    if not 64 <= size <= 1024 or size % 8:
        raise AnchorError(f"--face-size {size}: expected 64 to 1024, a multiple of 8")
    folders = {path: conditions_beside(path.absolute()) for path in poses}
    missing = [path for path, folder in folders.items() if not folder.exists()]
    if len(missing) == len(folders):
        return ()
    if missing:
        raise AnchorError(
            f"{missing[0]} has no landmarks beside it ({folders[missing[0]].name}) and others"
            " have: render it with them, or leave the faces out (--no-face)"
        )
    return tuple(FaceCrops(read_conditions(folders[path]), size) for path in poses)
