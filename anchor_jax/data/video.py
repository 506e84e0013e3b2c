"""Frames from videos and folders of images, RGB, uint8 (n, h, w, 3).

`pictures` reads single pictures, and `video_writer` writes. This module exports both for users:
`from anchor_jax.data.video import read_frames, read_image, write_video`.
"""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

import numpy as np

from anchor_jax.data.orientation import Orientation, read_orientation
from anchor_jax.data.pictures import (
    IMAGE_SUFFIXES,
    lay_on_black,
    list_images,
    read_image,
    read_images,
    resize,
)
from anchor_jax.data.video_writer import check_output, check_room, write_frames, write_video
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import ffmpeg_name
from anchor_jax.shapes import Size, show_size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = [
    "check_output",
    "check_room",
    "count_frames",
    "iter_sizes",
    "iter_video",
    "open_stream",
    "open_video",
    "read_frames",
    "read_image",
    "read_rate",
    "write_frames",
    "write_video",
]

MOTION_SUFFIXES = {".npy", ".npz", ".pkl"}
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders
MISSING_TAIL = Fraction(1, 2)  # seconds by which a whole video may end before its stated end

T = TypeVar("T")


def read_frames(path: Path, size: Size | None = None) -> tuple[np.ndarray, Fraction | None]:
    """Read the frames of a folder of PNG and JPEG images, of a video, or of one image.

    Images are ordered by the numbers in their names; hidden files are left out. Transparent pixels,
    also of videos, are blended with black, the background of pose images. Videos are turned and
    mirrored where their metadata says so.

    Args:
        path: the folder, video or image.
        size: width and height to resize to (Lanczos); by default the frames' own.

    Returns:
        uint8 (n, h, w, 3), and the frames per second of a video; None for images.

    Raises:
        AnchorError: the path does not exist, cannot be read or holds no frames, or the images have
            different sizes.
    """
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a folder of images or a video")
    if path.is_dir():
        return read_images(list_images(path), size), None
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_images([path], size), None
    frames = [pixels if size is None else resize(pixels, size) for _, pixels in iter_video(path)]
    return np.stack(frames), read_rate(path)


def iter_video(path: Path) -> Generator[tuple[Fraction, np.ndarray], None, None]:
    """Read the frames of a video one by one, as a player shows them: turned and mirrored by the
    video's display matrix. Transparent pixels are blended with black.

    Memory holds a few frames, however long the video is.

    Yields:
        the time at which the frame is shown, seconds, and its pixels, uint8 (h, w, 3). Times never
        decrease, may start above 0, and are as exact as in the container: Matroska rounds to
        milliseconds.

    Raises:
        AnchorError: the file does not exist, cannot be read or holds no frames; frames differ in
            size; a display matrix does more than turn by quarters and mirror; a part is damaged or
            missing, reported after the frames before it were yielded.
    """
    return _iter_frames(path, _pixels)


def iter_sizes(path: Path) -> Generator[tuple[Fraction, Size], None, None]:
    """Read the time and size of each frame of a video, without converting pixels. Times and errors
    are the same as in `iter_video`."""
    return _iter_frames(path, lambda frame, orientation: orientation.size_of(frame))


def read_rate(path: Path) -> Fraction | None:
    """Read the average frames per second that a video states, exact; None where it states none.

    Raises:
        AnchorError: the file does not exist or is no readable video.
    """
    with open_video(path) as (_, stream):
        return stream.average_rate or stream.guessed_rate


def count_frames(path: Path) -> tuple[int, Size]:
    """Count the frames of a video and find their size; errors as for `iter_sizes`, so that damage
    is found before long work."""
    count, size = 0, (0, 0)
    for count, (_, size) in enumerate(iter_sizes(path), 1):  # noqa: B007
        pass
    return count, size


def open_stream(file: BinaryIO, name: str) -> tuple[Fraction | None, Iterator[np.ndarray]]:
    """Open a video that is read once from start to end, such as standard input.

    Args:
        file: the video, in a container that needs no seeking (Matroska, MPEG-TS, NUT, Y4M).
        name: of the file, for messages.

    Returns:
        The average frames per second, or None, and the frames, uint8 (h, w, 3).

    Raises:
        AnchorError: it is no readable video; while the frames are read as in `iter_video`.
    """
    with ExitStack() as stack:
        container, stream = stack.enter_context(_opened(file, name))
        opened = stack.pop_all()

    def frames() -> Iterator[np.ndarray]:
        with opened:
            for _, pixels in _frames_of(container, stream, name, _pixels):
                yield pixels

    return stream.average_rate or stream.guessed_rate, frames()


@contextmanager
def open_video(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open a video and its first picture stream.

    Raises:
        AnchorError: it cannot be opened, or an error of reading it inside the block; a motion file
            is told from a damaged video by its name.
    """
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a video")
    if path.suffix.lower() in MOTION_SUFFIXES:
        raise AnchorError(
            f"{path} is a motion file; expected a video or a folder of images: draw it first, with"
            f" anchor-jax render {path} --out poses.mp4, and give that"
        )
    with _opened(ffmpeg_name(path), str(path)) as opened:
        yield opened


@contextmanager
def _opened(source: str | BinaryIO, name: str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open a video, named for FFmpeg or as a file, and its first picture stream; `name` is for
    errors, also those of reading it inside the block."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(source, "r") as container:
            if not container.streams.video:
                raise AnchorError(f"{name} holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        reason = error.strerror or first_line(error)
        raise AnchorError(f"cannot read {name} as a video: {reason}") from error


def _iter_frames(
    path: Path, convert: Callable[["VideoFrame", Orientation], T]
) -> Generator[tuple[Fraction, T], None, None]:
    with open_video(path) as (container, stream):
        yield from _frames_of(container, stream, str(path), convert)


def _frames_of(
    container: "InputContainer",
    stream: "VideoStream",
    name: str,
    convert: Callable[["VideoFrame", Orientation], T],
) -> Generator[tuple[Fraction, T], None, None]:
    """Yield the time and the converted picture of each frame, see `iter_video`."""
    size, last, count = None, None, 0
    step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(30))
    decoder = _decoder_of(stream)
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise AnchorError(f"{name} is damaged or cut short, after {count} frames")
        for frame in decoder.decode(packet):
            if frame.is_corrupt:
                raise AnchorError(f"{name} is damaged or cut short, after {count} frames")
            seconds = _seconds(frame, Fraction(0) if last is None else last + step)
            if last is not None and seconds < last:
                raise AnchorError(
                    f"the times of {name} go back from {float(last):.3f} to "
                    f"{float(seconds):.3f} s at frame {count + 1}; convert it anew, for "
                    "example with ffmpeg"
                )
            orientation = read_orientation(frame, name)
            shown = orientation.size_of(frame)
            size = size or shown
            if shown != size:
                raise AnchorError(
                    f"the frames of {name} differ in size: the first is {show_size(size)}, "
                    f"number {count + 1} is {show_size(shown)}"
                )
            last, count = seconds, count + 1
            yield seconds, convert(frame, orientation)
    end = _promised_end(container, stream)
    if last is None:
        raise AnchorError(f"the video {name} holds no frames")
    if end is not None and last + step < end - MISSING_TAIL:
        raise AnchorError(
            f"{name} is damaged or cut short, after {count} frames: it should last "
            f"{float(end):.2f} s and ends at {float(last + step):.2f} s"
        )


def _decoder_of(stream: "VideoStream") -> "VideoCodecContext":
    """Return the decoder of a stream. FFmpeg's own decoders leave out the alpha channel of WebM
    files; libvpx's read it."""
    from av.codec import CodecContext

    own = stream.codec_context
    if stream.metadata.get("alpha_mode") != "1" or own.name not in WITH_ALPHA:
        return own
    decoder = cast("VideoCodecContext", CodecContext.create(WITH_ALPHA[own.name], "r"))
    decoder.thread_type = "AUTO"
    return decoder


def _pixels(frame: "VideoFrame", orientation: Orientation) -> np.ndarray:
    if not _has_alpha(frame):
        return orientation.apply(frame.to_ndarray(format="rgb24"))
    from PIL import Image

    pixels = frame.to_ndarray(format="rgba")
    return orientation.apply(np.array(lay_on_black(Image.fromarray(pixels))))


def _has_alpha(frame: "VideoFrame") -> bool:
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _seconds(frame: "VideoFrame", otherwise: Fraction) -> Fraction:
    """Return the time at which a frame is shown, or `otherwise` if the container states none."""
    if frame.pts is None or frame.time_base is None:
        return otherwise
    return frame.pts * frame.time_base


def _promised_end(container, stream) -> Fraction | None:
    """Return the end of the last frame, seconds, that Matroska, WebM and AVI files state. None for
    other formats, whose demuxer notices a missing tail itself."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return stream.frames / stream.average_rate
    if "matroska" not in container.format.name:
        return None
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        hours, minutes, seconds = (Fraction(part) for part in written.groups())
        return hours * 3600 + minutes * 60 + seconds
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, 1_000_000)
    return None
