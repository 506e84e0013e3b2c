"""Frames from folders, pictures and videos, and back; everything is RGB, uint8 (n, h, w, 3)."""

import os
import platform
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, placed

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from PIL.Image import Image as PictureFile

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
FRAME_NAME = re.compile(r"\d{6}\.png")
MULTIPLE = 8  # the autoencoder halves a picture three times
MISSING_TAIL = Fraction(1, 2)  # seconds by which a whole video may end before its stated end

Size = tuple[int, int]  # width, height
T = TypeVar("T")


def round_size(size: Size) -> Size:
    """`size` rounded down to multiples of 8, as the published system rounds.

    Raises:
        AnchorError: nothing is left of a side.
    """
    width, height = (side - side % MULTIPLE for side in size)
    if width <= 0 or height <= 0:
        raise AnchorError(f"a size of {size[0]}x{size[1]} is too small: each side needs {MULTIPLE}")
    return width, height


def read_frames(path: Path, size: Size | None = None) -> tuple[np.ndarray, Fraction | None]:
    """The frames in a folder of PNG and JPEG images, in a video, or in one image.

    Images come in the order of the numbers in their names; hidden files are left out. Transparent
    pixels are laid on black, the background of pose images. A video is read as it is shown, turned
    when its metadata says so.

    Args:
        path: the folder, video or image.
        size: width and height to resize to (Lanczos); by default the frames' own.

    Returns:
        uint8 (n, h, w, 3), and the frames per second of a video, None of a folder.

    Raises:
        AnchorError: nothing there, not readable, no frames, or images of different sizes.
    """
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a folder of images or a video")
    if path.is_dir():
        return _read_images(list_images(path), size), None
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_images([path], size), None
    frames = [pixels if size is None else resize(pixels, size) for _, pixels in iter_video(path)]
    return np.stack(frames), read_rate(path)


def iter_video(path: Path) -> Generator[tuple[Fraction, np.ndarray], None, None]:
    """The frames of a video one by one, as they are shown: turned when the metadata says so.

    Memory holds a few frames, however long the video is.

    Yields:
        when the frame is shown, seconds in the file's own time (it may not begin at 0), never
        going back; and its pixels, uint8 (h, w, 3). The time is exact where the container's is:
        Matroska rounds to a millisecond.

    Raises:
        AnchorError: not there, not readable, no frames, frames of different sizes; and, after the
            frames before it, a damaged or missing part.
    """
    return _iter_frames(path, _pixels)


def iter_sizes(path: Path) -> Generator[tuple[Fraction, Size], None, None]:
    """When each frame of a video is shown, and its width and height: `iter_video` without
    converting the pixels. It raises the same."""
    return _iter_frames(path, _shown_size)


def _iter_frames(
    path: Path, look: Callable[["VideoFrame"], T]
) -> Generator[tuple[Fraction, T], None, None]:
    size, last, count = None, None, 0
    with opened(path) as (container, stream):
        step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(30))
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise AnchorError(f"{path} is damaged or cut short, after {count} frames")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise AnchorError(f"{path} is damaged or cut short, after {count} frames")
                seconds = _seconds(frame, Fraction(0) if last is None else last + step)
                if last is not None and seconds < last:
                    raise AnchorError(
                        f"the times of {path} go back from {float(last):.3f} to "
                        f"{float(seconds):.3f} s at frame {count + 1}; convert it anew, for "
                        "example with ffmpeg"
                    )
                shown = _shown_size(frame)
                size = size or shown
                if shown != size:
                    raise AnchorError(
                        f"the frames of {path} differ in size: the first is {_show(size)}, "
                        f"number {count + 1} is {_show(shown)}"
                    )
                last, count = seconds, count + 1
                yield seconds, look(frame)
        end = _promised_end(container, stream)
    if last is None:
        raise AnchorError(f"the video {path} holds no frames")
    if end is not None and last + step < end - MISSING_TAIL:
        raise AnchorError(
            f"{path} is damaged or cut short, after {count} frames: it should last "
            f"{float(end):.2f} s and ends at {float(last + step):.2f} s"
        )


def read_rate(path: Path) -> Fraction | None:
    """The average frames per second that a video states, exact; None where it states none.

    Raises:
        AnchorError: not there or not a readable video.
    """
    with opened(path) as (_, stream):
        return stream.average_rate or stream.guessed_rate


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """One frame, uint8 (h, w, 3), at another width and height (Lanczos, as published)."""
    from PIL import Image

    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def read_image(path: Path) -> np.ndarray:
    """A picture as uint8 (h, w, 3), turned upright when its EXIF data says so.

    As in the published system an alpha channel is dropped, not blended. 16-bit greys are scaled
    to 8 bits (published: clipped to white).

    Raises:
        AnchorError: not there or not a readable picture.
    """
    return np.asarray(_open_rgb(path, on_black=False))


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: Fraction, folder: Path | None = None
) -> None:
    """Write an H.264 mp4 (yuv420p, BT.709) and, if asked, the same frames as PNG into `folder`.

    Args:
        path: the video, ending in `.mp4`; replaced when it exists.
        frames: uint8 (n, h, w, 3), h and w even, or an iterator over such frames.
        fps: frames per second, kept exactly.
        folder: where to put `000001.png`, ...; see `write_frames`.

    Raises:
        AnchorError: a place that cannot be written; then neither is there.
    """
    check_output(path, folder)
    with ExitStack() as stack:
        if folder is not None:
            frames = _saving(stack.enter_context(placed(folder)), frames)
        _encode(stack.enter_context(placed(path)), frames, fps)


def write_frames(folder: Path, frames: Iterable[np.ndarray]) -> None:
    """Write uint8 (n, h, w, 3), or an iterator over such frames, as `000001.png`, ... into
    `folder`, which then holds only these.

    Raises:
        AnchorError: the folder cannot be written, or holds anything but such frames.
    """
    check_output(folder=folder)
    with placed(folder) as partial:
        for _ in _saving(partial, frames):
            pass


def check_output(path: Path | None = None, folder: Path | None = None) -> None:
    """Find out before the work whether its results will have a place.

    Raises:
        AnchorError: as `write_video` and `write_frames` would.
    """
    for target in (path, folder):
        if target is not None:
            check_parent(target)
    if path is not None:
        if path.suffix.lower() != ".mp4":
            raise AnchorError(f"cannot write {path}: the name of a video must end in .mp4")
        if path.is_dir():
            raise AnchorError(f"cannot write {path}: it is a folder")
    if folder is not None and folder.exists():
        if not folder.is_dir():
            raise AnchorError(f"cannot write frames into {folder}: it is not a folder")
        others = [name for name in os.listdir(folder) if not FRAME_NAME.fullmatch(name)]
        if others:
            raise AnchorError(
                f"cannot write frames into {folder}: it holds other files, such as {min(others)}; "
                "name a new or empty folder"
            )


def list_images(folder: Path) -> list[Path]:
    paths = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: _natural(path.name),
    )
    if not paths:
        raise AnchorError(f"{folder} holds no images; expected .png or .jpg files")
    return paths


def _read_images(paths: list[Path], size: Size | None) -> np.ndarray:
    first = None
    frames = []
    for path in paths:
        image = _open_rgb(path, on_black=True)
        first = first or image.size
        if image.size != first:
            raise AnchorError(
                f"the images in {path.parent} differ in size: {paths[0].name} is {_show(first)} "
                f"and {path.name} is {_show(image.size)}; expected one size"
            )
        frames.append(resize(np.asarray(image), size or first))
    return np.stack(frames)


@contextmanager
def opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A video and its first picture stream; what goes wrong inside is one line about `path`."""
    import av
    from av.error import FFmpegError

    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a video")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise AnchorError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        raise AnchorError(f"cannot read {path} as a video: {_reason(error)}") from error


def _pixels(frame: "VideoFrame") -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _shown_size(frame: "VideoFrame") -> Size:
    quarters = round(frame.rotation / 90)
    return (frame.height, frame.width) if quarters % 2 else (frame.width, frame.height)


def _seconds(frame: "VideoFrame", otherwise: Fraction) -> Fraction:
    """When a frame is shown; `otherwise` where the container does not say."""
    if frame.pts is None or frame.time_base is None:
        return otherwise
    return frame.pts * frame.time_base


def _promised_end(container, stream) -> Fraction | None:
    """When the last frame should end, seconds, where the reader of a container does not notice a
    missing tail itself: Matroska, WebM and AVI."""
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


@contextmanager
def open_picture(path: Path) -> Iterator["PictureFile"]:
    """The picture in `path`, upright, 8 bits a channel; what goes wrong inside is one line."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey: keep the high byte
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnchorError(f"cannot read {path} as a picture: {_reason(error)}") from error


def _open_rgb(path: Path, on_black: bool):
    """The picture in `path` as an upright RGB `PIL.Image`."""
    from PIL import ImageChops

    with open_picture(path) as image:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if on_black:
                alpha = image.getchannel("A").convert("RGB")
                return ImageChops.multiply(image.convert("RGB"), alpha)
        return image.convert("RGB")


def _encode(path: Path, frames: Iterable[np.ndarray], fps: Fraction) -> None:
    import av
    from av.error import FFmpegError
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps, options=_encoder_options())
            stream.pix_fmt = "yuv420p"
            # Say which YUV this is: players guess by the picture's size otherwise.
            codec = stream.codec_context
            codec.colorspace = Colorspace.ITU709
            codec.color_range = ColorRange.MPEG
            codec.color_primaries = ColorPrimaries.BT709
            codec.color_trc = ColorTrc.BT709
            for index, pixels in enumerate(frames):
                if index == 0:  # the encoder starts with the first frame
                    stream.height, stream.width = pixels.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except (FFmpegError, OSError) as error:
        raise AnchorError(f"cannot write the video: {_reason(error)}") from error


def _encoder_options() -> dict[str, str]:
    """Nearly lossless to the eye, and the same bytes for the same frames.

    x264's macroblock trees came out differently from run to run with its AVX-512 code (seen at
    160x120, not at 512x512), so it gets by with what every x86-64 has. That costs a tenth of the
    encoder's time.
    """
    options = {"crf": "18"}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        options["x264-params"] = "asm=sse2"
    return options


def _saving(folder: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each written into the new `folder` on its way."""
    from PIL import Image

    try:
        folder.mkdir()
        for number, pixels in enumerate(frames, 1):
            Image.fromarray(pixels).save(folder / f"{number:06d}.png", compress_level=1)
            yield pixels
    except OSError as error:
        raise AnchorError(f"cannot write the frames: {_reason(error)}") from error


def _natural(name: str) -> tuple[list[int], str]:
    """The sort key that puts `2.png` before `10.png`."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name


def _show(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, without Python's decoration."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
