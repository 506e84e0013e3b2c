"""A video and its pose images, frame by frame: what a data set is made of."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from anchor_jax.data.clips import MIN_LENGTH, Box, Clip, read_clips, resample
from anchor_jax.data.dataset import FACE, Pictures
from anchor_jax.data.mattes import Matting
from anchor_jax.data.pictures import list_images, resize
from anchor_jax.data.video import iter_sizes, iter_video, read_frames
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size

Maker = Literal["green screen", "still background"]  # how mattes are made of the video itself
Numbered = tuple[int, np.ndarray]  # a pose image and its number in its folder or video, from 0


@runtime_checkable  # the tests check types as they run
class Faces(Protocol):
    """Where the face is in each pose image. Given by who calls, as data knows nothing of faces;
    it goes to other processes through pickle."""

    @property
    def size(self) -> int:
        """Side of the crops, pixels."""
        ...

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that it reads."""
        ...

    def check(self, poses: Path, num_poses: int, pose_size: Size) -> None:
        """Raise an `AnchorError` unless it belongs to these pose images."""
        ...

    def cut(self, number: int, target: np.ndarray, pose: np.ndarray, window: Box) -> Pictures:
        """`face`, `face_pose` and `face_mask`, uint8 (size, size, 3) and (size, size).

        Args:
            number: of the pose image.
            target, pose: uint8 (h, h, 3), as stored.
            window: the square of the pose image that `pose` shows.
        """
        ...


@dataclass(frozen=True)
class VideoSource:
    """One video with its poses; each worker process opens it for itself."""

    path: Path
    poses: Path  # a folder with an image a frame of the data set, or a video
    name: str
    identity: str
    mattes: Path | Maker | None = None
    plate: Path | None = None  # the still background without the person
    faces: Faces | None = None
    audio: bool = True  # whether the video's sound is kept
    loop_poses: bool = False  # poses of another motion: cut or repeated to the video's length
    fps: Fraction = Fraction(30)
    length: int = 300  # frames of a clip
    size: int = 512
    crop: Box | None = None
    num_frames: int = 0  # at `fps`; this and the two below are found by `examine`
    num_poses: int = 0
    frame_size: Size = (0, 0)

    @property
    def sound(self) -> tuple[str, Path] | None:
        """The name of the sound to keep, and the video that has it."""
        return (self.name, self.path) if self.audio else None

    def examine(self) -> "VideoSource":
        """The source with its numbers of frames; reads the video once, to its end.

        Raises:
            AnchorError: not readable, too short, or poses that do not fit it.
        """
        num_frames, _, frame_size = _count(self.path, self.fps)
        if self.poses.is_dir():
            images = list_images(self.poses)
            num_poses, pose_size = len(images), _size_of(read_frames(images[0])[0][0])
            num_drawn = num_poses
        else:
            num_poses, num_drawn, pose_size = _count(self.poses, self.fps)
        if num_frames < MIN_LENGTH:
            raise AnchorError(
                f"{self.path} has {num_frames} frames at {_show_rate(self.fps)}; expected at"
                f" least {MIN_LENGTH}"
            )
        if num_poses != num_frames and not self.loop_poses:
            raise AnchorError(
                f"{self.poses} has {num_poses} pose images and {self.path} {num_frames} frames at"
                f" {_show_rate(self.fps)}; expected one pose a frame: render the poses of this"
                " video at this rate (--fps), or cut one of the two"
            )
        if pose_size != frame_size and pose_size[0] != pose_size[1]:
            raise AnchorError(
                f"the pose images in {self.poses} are {pose_size[0]}x{pose_size[1]}; expected"
                f" squares, or the size of {self.path}, {frame_size[0]}x{frame_size[1]}"
            )
        if self.faces is not None:
            self.faces.check(self.poses, num_drawn, pose_size)
        return replace(self, num_frames=num_frames, num_poses=num_poses, frame_size=frame_size)

    def lengths(self) -> list[tuple[str, int]]:
        """Name and number of frames of each clip; a short rest is left out, as by `read_clips`."""
        starts = range(0, self.num_frames, self.length)
        counts = [min(self.length, self.num_frames - start) for start in starts]
        return [
            (f"{self.name}-{index:03d}", count)
            for index, count in enumerate(counts)
            if count >= MIN_LENGTH
        ]

    def read(self, wanted: range) -> Iterator[tuple[int, Iterator[Pictures]]]:
        """The frames of the clips `wanted`, one clip after the other."""
        clips = read_clips(
            self.path,
            fps=self.fps,
            length=self.length,
            size=self.size,
            crop=self.crop,
            mattes=self._matting(),
        )
        poses = self._iter_poses(wanted.start * self.length)
        for clip in islice(clips, wanted.stop):
            if clip.index >= wanted.start:
                own = islice(poses, len(clip.frames))
                yield clip.index, self._pair(clip, own)
                deque(own, maxlen=0)  # of a clip that was left out

    def pictures(self) -> dict[str, Size]:
        """The pictures of each frame and their sizes."""
        names: tuple[str, ...] = ("target", "pose")
        names += () if self.mattes is None else ("matte",)
        pictures: dict[str, Size] = dict.fromkeys(names, (self.size, self.size))
        if self.faces is not None:
            pictures |= dict.fromkeys(FACE, (self.faces.size, self.faces.size))
        return pictures

    def _pair(self, clip: Clip, poses: Iterator[Numbered]) -> Iterator[Pictures]:
        for number, (pose_number, image) in enumerate(poses):
            window = self._window(image, clip.crop)
            left, top, side = window
            square = np.ascontiguousarray(image[top : top + side, left : left + side])
            frame = {
                "target": clip.frames[number],
                "pose": resize(square, (self.size, self.size)),
            }
            if clip.mattes is not None:
                frame["matte"] = clip.mattes[number]
            if self.faces is not None:
                frame |= self.faces.cut(pose_number, frame["target"], frame["pose"], window)
            yield frame

    def _window(self, pose: np.ndarray, crop: Box) -> Box:
        """A pose image of the video's own size is cut as its frames are; others are squares."""
        if _size_of(pose) == self.frame_size:
            return crop
        if pose.shape[0] != pose.shape[1]:
            raise AnchorError(f"the pose images in {self.poses} differ in size; expected one size")
        return 0, 0, pose.shape[0]

    def _matting(self) -> Path | Matting | None:
        if self.mattes == "green screen":
            from anchor_jax.data.green_screen import green_screen

            return green_screen(self.path)
        if self.mattes == "still background":
            from anchor_jax.data.still_camera import still_camera

            return still_camera(self.path, self.plate)
        return self.mattes if isinstance(self.mattes, Path) else None

    def _iter_poses(self, start: int) -> Iterator[Numbered]:
        if not self.loop_poses:
            return self._poses_from(start)
        rounds = chain([start % self.num_poses], repeat(0))
        return chain.from_iterable(map(self._poses_from, rounds))

    def _poses_from(self, start: int) -> Iterator[Numbered]:
        if self.poses.is_dir():
            images = islice(enumerate(list_images(self.poses)), start, None)
            yield from ((number, read_frames(path)[0][0]) for number, path in images)
        else:
            timed = enumerate(iter_video(self.poses))
            frames = ((seconds, (number, pixels)) for number, (seconds, pixels) in timed)
            yield from islice(resample(frames, self.fps), start, None)


def _count(path: Path, fps: Fraction) -> tuple[int, int, Size]:
    """How many frames a video has at `fps`, how many it has itself, and their size."""
    size, own = (0, 0), 0

    def timed() -> Iterator[tuple[Fraction, None]]:
        nonlocal size, own
        for seconds, shown in iter_sizes(path):
            size, own = shown, own + 1
            yield seconds, None

    return sum(1 for _ in resample(timed(), fps)), own, size


def _size_of(pixels: np.ndarray) -> Size:
    return pixels.shape[1], pixels.shape[0]


def _show_rate(fps: Fraction) -> str:
    return f"{float(fps):g} fps"
