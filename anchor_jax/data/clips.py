"""Cut a video of a person into clips with one frame rate, one square crop and one size.

Frame k shows the source frame whose time is nearest to k / fps after the first one. Times are never
counted up, so nothing drifts and variable frame rates need no special care.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from anchor_jax.data.mattes import Matting, read_mattes
from anchor_jax.data.video import iter_video
from anchor_jax.errors import AnchorError, require

Box = tuple[int, int, int]  # a square: left, top, side, pixels
_Pair = tuple[np.ndarray, np.ndarray | None]  # a frame and its matte

FPS = Fraction(30)
LENGTH = 300  # frames
MIN_LENGTH = 16  # frames, as many as a window of the sampler
LONGEST_GAP = 10  # seconds without a frame; a longer one is a damaged file or a still picture
TIE = Fraction(1, 1000)  # seconds: Matroska rounds times to this, and each may err by half of it
MARGIN = 0.08  # share of the person's size that is left free on each side of the crop
LOOK = Fraction(1, 10)  # seconds between the mattes that the crop is computed from
PRESENT = 1 / 200  # a pixel counts if at least this share of the mattes shows the person there

T = TypeVar("T")


@dataclass(frozen=True)
class VideoClip:
    """Consecutive frames of one video."""

    name: str  # name of the video's file, without suffix
    index: int  # number of the clip in the video, from 0
    frames: np.ndarray  # uint8 (n, size, size, 3), RGB
    start: Fraction  # seconds from the first frame that is kept; `write_audio` has the same zero
    fps: Fraction
    crop: Box  # in pixels of the video as it is shown; the same for all clips of a video
    mattes: np.ndarray | None  # uint8 (n, size, size), 255 on the person


def read_clips(
    path: Path,
    *,
    fps: Fraction | int = FPS,
    length: int = LENGTH,
    size: int = 512,
    crop: Box | None = None,
    mattes: Path | Matting | None = None,
    part: range | None = None,
) -> Iterator[VideoClip]:
    """Cut a video into clips; one of them is in memory at a time.

    The last clip may be shorter; a rest of fewer than 16 frames is left out. With a `Matting` the
    clips show its foreground, from which the light of a green screen is removed. Damage is reported
    when it is reached, after earlier clips were yielded.

    Args:
        path: a video in any container and codec that FFmpeg reads.
        fps: frames per second of the clips; see `resample`.
        length: frames of a clip.
        size: side of the clips' frames, pixels (Lanczos filtering with antialiasing).
        crop: the square to keep. Default: the square around the person in the mattes
            (`person_crop`); without mattes the largest square in the middle.
        mattes: a folder or video with a matte for every frame of the video, or a function that
            makes a matte of a frame (`green_screen`, `still_camera`). Mattes are read twice.
        part: the numbers, at `fps`, of the frames to keep (`times.frames_between`); default: all.

    Raises:
        AnchorError: settings out of range; the video or the mattes cannot be read or do not fit
            each other; the crop is not inside the frame; the video is shorter than 16 frames.
    """
    fps = Fraction(fps)
    require(
        (fps > 0, f"fps is {float(fps):g}: expected more than 0"),
        (length >= MIN_LENGTH, f"length is {length}: expected at least {MIN_LENGTH} frames"),
        (size >= 8, f"size is {size}: expected at least 8 pixels"),
    )
    width, height = _frame_size(path)
    if crop is None and mattes is not None:
        looks = _looks(resample(_pairs(path, mattes), 1 / LOOK), fps, part)
        crop = person_crop(matte for _, matte in _matted(looks, mattes) if matte is not None)
    elif crop is None:
        side = min(width, height)
        crop = (width - side) // 2, (height - side) // 2, side
    left, top, side = crop
    if min(left, top) < 0 or side < 1 or left + side > width or top + side > height:
        raise AnchorError(
            f"a crop of {side}x{side} at {left},{top} is not inside the frames of {path}, "
            f"{width}x{height}"
        )
    pairs = resample(_pairs(path, mattes), fps)
    pairs = _matted(pairs if part is None else islice(pairs, part.start, part.stop), mattes)
    for index, frames, alphas in _stacks(pairs, crop, size, length):
        yield VideoClip(path.stem, index, frames, index * length / fps, fps, crop, alphas)
        del frames, alphas  # free the memory before the next clip is read


def resample(frames: Iterable[tuple[Fraction, T]], fps: Fraction) -> Iterator[T]:
    """Yield the frame nearest to each time k / fps after the first one, up to half a step after the
    last one.

    If two frames are equally near, within a millisecond, the earlier is taken. From 60 to 30
    fps, every second frame is kept; from 25 to 30 fps, every fifth frame is shown twice.

    Raises:
        AnchorError: more than 10 seconds without a frame.
    """
    first = previous = None
    shown = 0
    for seconds, frame in frames:
        if first is None:
            first = seconds
        if previous is not None:
            if seconds - previous[0] > LONGEST_GAP:
                raise AnchorError(
                    f"the video shows no frame from {float(previous[0]):.2f} to "
                    f"{float(seconds):.2f} s; expected one at least every {LONGEST_GAP} s"
                )
            while 2 * (first + shown / fps) <= previous[0] + seconds + TIE:
                yield previous[1]
                shown += 1
        previous = seconds, frame
    while first is not None and previous and first + (shown - Fraction(1, 2)) / fps < previous[0]:
        yield previous[1]
        shown += 1


def person_crop(mattes: Iterable[np.ndarray]) -> Box:
    """Compute the square around the person over a whole video.

    A pixel counts where at least one in 200 mattes is above one half, and neighbouring pixels count
    too. The square has a margin of 8 % and stays inside the frame. Where the person is taller than
    the square can be, the head is kept.

    Args:
        mattes: uint8 (h, w) each, 255 on the person.

    Raises:
        AnchorError: no person in any of them.
    """
    from scipy import ndimage

    seen: np.ndarray | None = None
    looks = 0
    for matte in mattes:
        seen = np.zeros(matte.shape, np.int32) if seen is None else seen
        seen += matte > 127
        looks += 1
    if seen is None:
        raise AnchorError("there are no mattes to find the person in")
    found = ndimage.binary_opening(seen >= max(1, looks * PRESENT), np.ones((3, 3)))
    if not found.any():
        raise AnchorError("the mattes show no person to crop to; give a crop box")
    y, x = ndimage.find_objects(found.astype(int))[0]
    height, width = seen.shape
    wanted = max(y.stop - y.start, x.stop - x.start) * (1 + 2 * MARGIN)
    side = min(round(wanted), width, height)
    left = round((x.start + x.stop - side) / 2)
    margin = MARGIN * (y.stop - y.start)
    above = max((side - (y.stop - y.start)) / 2, min(margin, y.start))
    top = round(y.start - above)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def _looks(frames: Iterator[T], fps: Fraction, part: range | None) -> Iterator[T]:
    """Choose those of `frames`, `LOOK` seconds apart, that lie in a part of a video."""
    if part is None:
        return frames
    first, last = (Fraction(number) / fps / LOOK for number in (part.start, part.stop))
    return islice(frames, math.floor(first), math.ceil(last))


def _frame_size(path: Path) -> tuple[int, int]:
    frames = iter_video(path)
    _, pixels = next(frames)
    frames.close()
    return pixels.shape[1], pixels.shape[0]


def _pairs(path: Path, mattes: Path | Matting | None) -> Iterator[tuple[Fraction, _Pair]]:
    """Read every frame with its time, and its matte where `mattes` is a folder or video."""
    if not isinstance(mattes, Path):
        yield from ((seconds, (pixels, None)) for seconds, pixels in iter_video(path))
        return
    number, alphas = 0, read_mattes(mattes)
    for number, (seconds, pixels) in enumerate(iter_video(path), 1):
        alpha = next(alphas, None)
        if alpha is None:
            raise AnchorError(
                f"{mattes} holds {number - 1} mattes and {path} more frames; expected one a frame"
            )
        if alpha.shape != pixels.shape[:2]:
            raise AnchorError(
                f"the mattes in {mattes} are {alpha.shape[1]}x{alpha.shape[0]}, the frames of "
                f"{path} {pixels.shape[1]}x{pixels.shape[0]}; expected one size"
            )
        yield seconds, (pixels, alpha)
    if next(alphas, None) is not None:
        raise AnchorError(
            f"{mattes} holds more mattes than {path} has frames, {number}; expected one a frame"
        )


def _matted(pairs: Iterable[_Pair], mattes: Path | Matting | None) -> Iterator[_Pair]:
    """Make the matte of each frame where `mattes` is a function."""
    for pixels, alpha in pairs:
        if isinstance(mattes, Callable):
            alpha, pixels = mattes(pixels)
        yield pixels, alpha


def _stacks(
    pairs: Iterator[_Pair], crop: Box, size: int, length: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Collect the frames of each clip: its number, frames and mattes, cropped and resized."""
    for index in count():
        frames, alphas, taken = np.empty((length, size, size, 3), np.uint8), None, 0
        for taken, (pixels, alpha) in enumerate(islice(pairs, length), 1):
            frames[taken - 1] = _cut(pixels, crop, size)
            if alpha is not None:
                if alphas is None:
                    alphas = np.empty((length, size, size), np.uint8)
                alphas[taken - 1] = _cut(alpha, crop, size)
        if taken >= MIN_LENGTH:
            yield index, frames[:taken], alphas if alphas is None else alphas[:taken]
        elif not index:
            raise AnchorError(
                f"there are {taken} frames at this rate; expected at least {MIN_LENGTH}"
            )
        if taken < length:
            return
        del frames, alphas  # free the memory before the next clip is read


def _cut(pixels: np.ndarray, crop: Box, size: int) -> np.ndarray:
    """Crop a frame or matte and resize it to the clips' size."""
    from PIL import Image

    left, top, side = crop
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))
