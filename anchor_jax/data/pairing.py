"""A video paired with its pose images frame by frame, as a source of a data set."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from anchor_jax.data.audio import Sound
from anchor_jax.data.clips import MIN_LENGTH, Box, VideoClip, read_clips, resample
from anchor_jax.data.dataset import FACE, Pictures
from anchor_jax.data.mattes import Matting
from anchor_jax.data.pictures import list_images, resize
from anchor_jax.data.video import iter_sizes, iter_video, read_frames
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size, show_size
from anchor_jax.times import frames_between

MatteMaker = Literal["green screen", "still background"]  # how mattes are made of the video itself
_Numbered = tuple[int, np.ndarray]  # number of a pose image in its folder or video, and the image


@runtime_checkable  # because the tests check types at run time
class Faces(Protocol):
    """Cuts faces out of frames. The caller passes an object of this type, because `data` does not
    import `face`. The object is pickled for worker processes."""

    @property
    def size(self) -> int:
        """Side of the crops, pixels."""
        ...

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that are read."""
        ...

    def check(self, poses: Path, num_poses: int, pose_size: Size) -> None:
        """Raise an `AnchorError` unless the faces are of these pose images."""
        ...

    def cut(self, number: int, target: np.ndarray, pose: np.ndarray, window: Box) -> Pictures:
        """Cut out "face" and "face_pose", uint8 (size, size, 3), and "face_mask", (size, size).

        Args:
            number: number of the pose image, from 0.
            target: the frame, uint8 (h, h, 3), as stored.
            pose: the pose image, the same.
            window: the square of the whole pose image that `pose` shows.
        """
        ...


@dataclass(frozen=True)
class VideoSource:
    """A video with its pose images. Each worker process opens it for itself."""

    path: Path
    poses: Path  # a video, or a folder with one image a frame of the data set
    name: str
    identity: str
    mattes: Path | MatteMaker | None = None
    plate: Path | None = None  # the still background without the person
    faces: Faces | None = None
    audio: bool = True  # keep the video's sound
    loop_poses: bool = False  # repeat or cut poses of another motion to the video's length
    start: float = 0.0  # of the part to store, seconds
    end: float | None = None  # None: the end of the video
    fps: Fraction = Fraction(30)
    length: int = 300  # frames of a clip
    size: int = 512
    crop: Box | None = None
    part: range = range(0)  # frames at `fps`; `examine` fills in this and the two fields below
    num_poses: int = 0
    frame_size: Size = (0, 0)

    @property
    def sound(self) -> Sound | None:
        """The sound to keep, if any; known after `examine`."""
        if not self.audio:
            return None
        end = None if self.end is None else self.part.stop / self.fps
        return Sound(self.name, self.path, self.part.start / self.fps, end)

    def examine(self) -> "VideoSource":
        """Fill in the numbers of frames; this reads the whole video once.

        Raises:
            AnchorError: the video cannot be read, it or its part is too short, or the poses do not
                fit it.
        """
        whole, _, frame_size = _count(self.path, self.fps)
        try:
            part = frames_between(self.start, self.end, self.fps, whole)
        except AnchorError as error:
            raise AnchorError(f"{self.path}: {error}") from None
        if self.poses.is_dir():
            images = list_images(self.poses)
            num_poses, pose_size = len(images), _size_of(read_frames(images[0])[0][0])
            num_drawn = num_poses
        else:
            num_poses, num_drawn, pose_size = _count(self.poses, self.fps)
        shown = f"{len(part)} frames{self._show_part()} at {float(self.fps):g} fps"
        if len(part) < MIN_LENGTH:
            raise AnchorError(f"{self.path} has {shown}; expected at least {MIN_LENGTH}")
        if num_poses != len(part) and not self.loop_poses:
            raise AnchorError(
                f"{self.poses} has {num_poses} pose images and {self.path} {shown}; expected one"
                " pose a frame: give the same --fps, --start and --end to render and prepare"
            )
        if pose_size != frame_size and pose_size[0] != pose_size[1]:
            raise AnchorError(
                f"the pose images in {self.poses} are {show_size(pose_size)}; expected"
                f" squares, or the size of {self.path}, {show_size(frame_size)}"
            )
        if self.faces is not None:
            self.faces.check(self.poses, num_drawn, pose_size)
        return replace(self, part=part, num_poses=num_poses, frame_size=frame_size)

    def lengths(self) -> list[tuple[str, int]]:
        """List name and number of frames of each clip, without a short rest, as `read_clips`."""
        starts = range(0, len(self.part), self.length)
        counts = [min(self.length, len(self.part) - start) for start in starts]
        return [
            (f"{self.name}-{index:03d}", count)
            for index, count in enumerate(counts)
            if count >= MIN_LENGTH
        ]

    def read(self, wanted: range) -> Iterator[tuple[int, Iterator[Pictures]]]:
        """Read the frames of the clips with the numbers `wanted`, clip by clip."""
        clips = read_clips(
            self.path,
            fps=self.fps,
            length=self.length,
            size=self.size,
            crop=self.crop,
            mattes=self._matting(),
            part=self.part,
        )
        poses = self._iter_poses(wanted.start * self.length)
        for clip in islice(clips, wanted.stop):
            if clip.index >= wanted.start:
                own = islice(poses, len(clip.frames))
                yield clip.index, self._pair(clip, own)
                deque(own, maxlen=0)  # skip poses that the caller did not read

    def pictures(self) -> dict[str, Size]:
        """Return the pictures of each frame and their sizes."""
        names: tuple[str, ...] = ("target", "pose")
        names += () if self.mattes is None else ("matte",)
        pictures: dict[str, Size] = dict.fromkeys(names, (self.size, self.size))
        if self.faces is not None:
            pictures |= dict.fromkeys(FACE, (self.faces.size, self.faces.size))
        return pictures

    def _show_part(self) -> str:
        """Say which part of the video is stored; nothing for the whole."""
        end = "" if self.end is None else f" up to {self.end:g} s"
        return f" from {self.start:g} s{end}" if self.start else end

    def _pair(self, clip: VideoClip, poses: Iterator[_Numbered]) -> Iterator[Pictures]:
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
        """Choose the square of a pose image to keep. An image of the frames' size is cropped like
        the frames; any other must be square and is kept whole."""
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

    def _iter_poses(self, start: int) -> Iterator[_Numbered]:
        if not self.loop_poses:
            return self._poses_from(start)
        rounds = chain([start % self.num_poses], repeat(0))
        return chain.from_iterable(map(self._poses_from, rounds))

    def _poses_from(self, start: int) -> Iterator[_Numbered]:
        if self.poses.is_dir():
            images = islice(enumerate(list_images(self.poses)), start, None)
            yield from ((number, read_frames(path)[0][0]) for number, path in images)
        else:
            timed = enumerate(iter_video(self.poses))
            frames = ((seconds, (number, pixels)) for number, (seconds, pixels) in timed)
            yield from islice(resample(frames, self.fps), start, None)


def _count(path: Path, fps: Fraction) -> tuple[int, int, Size]:
    """Count the frames of a video, first at `fps`, then as stored, and find their size."""
    size, own = (0, 0), 0

    def timed() -> Iterator[tuple[Fraction, None]]:
        nonlocal size, own
        for seconds, shown in iter_sizes(path):
            size, own = shown, own + 1
            yield seconds, None

    return sum(1 for _ in resample(timed(), fps)), own, size


def _size_of(pixels: np.ndarray) -> Size:
    return pixels.shape[1], pixels.shape[0]
