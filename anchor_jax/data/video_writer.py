"""Frames into files: an H.264 video, a folder of PNG images, or both."""

import math
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np

from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import (
    PNG_BYTES,
    VIDEO_BYTES,
    check_parent,
    check_space,
    ffmpeg_name,
    named_errors,
    placed,
)

FRAME_NAME = re.compile(r"\d{6}\.png")


def write_video(
    path: Path, frames: Iterable[np.ndarray], fps: Fraction, folder: Path | None = None
) -> None:
    """Write an H.264 mp4 (yuv420p, BT.709), and the same frames as PNG where a folder is given.

    Args:
        path: the video, ending in `.mp4`; replaced when it exists.
        frames: uint8 (n, h, w, 3), h and w even, or an iterator over such frames.
        fps: frames per second, kept exactly.
        folder: for `000001.png`, ...; see `write_frames`.

    Raises:
        AnchorError: one of the two cannot be written; then neither is.
    """
    check_output(path, folder)
    with ExitStack() as stack:
        if folder is not None:
            frames = _save_each(stack.enter_context(placed(folder)), frames, folder)
        encode(stack.enter_context(placed(path)), frames, fps, path)


def write_frames(folder: Path, frames: Iterable[np.ndarray]) -> None:
    """Write uint8 (n, h, w, 3), or an iterator over such frames, as `000001.png`, ... into
    `folder`. Frames that are there already are replaced.

    Raises:
        AnchorError: the folder cannot be written, or holds other files than such frames.
    """
    check_output(folder=folder)
    with placed(folder) as partial:
        for _ in _save_each(partial, frames, folder):
            pass


def check_output(path: Path | None = None, folder: Path | None = None) -> None:
    """Check before the work that its output can be written.

    Args:
        path: the video for `write_video`.
        folder: the folder for `write_video` or `write_frames`.

    Raises:
        AnchorError: as `write_video` and `write_frames`.
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


def check_room(
    shape: tuple[int, ...], path: Path | None = None, folder: Path | None = None
) -> None:
    """Check before the work that its output has space on the disk.

    Args:
        shape: number, height and width of the frames; more numbers are ignored.
        path: the video for `write_video`.
        folder: the folder for `write_video` or `write_frames`.

    Raises:
        AnchorError: a disk has too little space.
    """
    pixels = math.prod(shape[:3])
    outputs = {path: VIDEO_BYTES, folder: PNG_BYTES}
    check_space({target: int(pixels * x) for target, x in outputs.items() if target is not None})


def encode(hidden: Path, frames: Iterable[np.ndarray], fps: Fraction, path: Path) -> None:
    """Encode frames (h, w, 3) to the mp4 file `hidden`, which becomes `path`."""
    import av
    from av.error import FFmpegError
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    try:
        faststart = {"movflags": "+faststart"}
        with av.open(ffmpeg_name(hidden), "w", format="mp4", options=faststart) as container:
            stream = container.add_stream("libx264", rate=fps, options=_encoder_options())
            stream.pix_fmt = "yuv420p"
            # State which YUV this is; otherwise players guess it from the picture's size.
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
    except FFmpegError as error:
        if isinstance(error, OSError):  # a full disk
            raise
        raise AnchorError(f"cannot write {path}: {first_line(error)}") from error


def join(parts: list[Path], hidden: Path) -> None:
    """Join videos of `encode`, of the same size and rate, to the mp4 file `hidden`, without
    encoding them again. All but the last have the same length."""
    import av

    faststart = {"movflags": "+faststart"}
    with av.open(ffmpeg_name(hidden), "w", format="mp4", options=faststart) as container:
        stream, offset = None, 0
        for part in parts:
            with av.open(ffmpeg_name(part), "r") as source:
                own = source.streams.video[0]
                stream = stream or container.add_stream_from_template(own)
                length = 0
                for packet in source.demux(own):
                    if packet.pts is None or packet.dts is None:  # the end
                        continue
                    length += packet.duration or 0
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    container.mux(packet)
                offset += length


def _encoder_options() -> dict[str, str]:
    """Options for a video that looks lossless, with the same bytes for the same frames.

    With its AVX-512 code, x264 made other macroblock trees from run to run (seen at 160x120, not at
    512x512). So only the instructions that every x86-64 has are used; the encoder takes a tenth
    longer.
    """
    options = {"crf": "18"}
    if platform.machine().lower() in {"x86_64", "amd64"}:
        options["x264-params"] = "asm=sse2"
    return options


def _save_each(partial: Path, frames: Iterable[np.ndarray], folder: Path) -> Iterator[np.ndarray]:
    """Pass the frames on, and write each into the new folder `partial`, which becomes `folder`."""
    partial.mkdir()
    for number, pixels in enumerate(frames, 1):
        with named_errors(folder):
            save_frame(partial, number, pixels)
        yield pixels


def save_frame(folder: Path, number: int, pixels: np.ndarray) -> None:
    """Write a frame, uint8 (h, w, 3), as `000001.png`, ..., by its number from 1."""
    from PIL import Image

    Image.fromarray(pixels).save(folder / f"{number:06d}.png", compress_level=1)
