"""A video of a person cut into clips: one rate, one still square crop, one size, a clip at a time.

Frames are chosen by their times, never by counting, so variable frame rates need no care and
nothing drifts: output frame k shows the source frame nearest to k / fps after the first one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from anchor_jax.data.mattes import Matting, read_mattes
from anchor_jax.data.video import iter_video
from anchor_jax.errors import AnchorError

Box = tuple[int, int, int]  # a square: left, top, side, pixels
Pair = tuple[np.ndarray, np.ndarray | None]  # a frame and its matte

FPS = Fraction(30)
LENGTH = 300  # frames
MIN_LENGTH = 16  # frames: what a window of the sampler takes
LONGEST_GAP = 10  # seconds without a frame; a longer one is a damaged file or a still picture
TIE = Fraction(1, 1000)  # seconds: what Matroska rounds times to, twice half of it
MARGIN = 0.08  # of the person's size, left free at each side of the crop
LOOK = Fraction(1, 10)  # seconds between the mattes that the crop is chosen from
PRESENT = 1 / 200  # of the mattes in which a pixel of the person has to show to count

T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one video."""

    name: str  # of the video, without its suffix
    index: int  # of the clip in the video, from 0
    frames: np.ndarray  # uint8 (n, size, size, 3), RGB
    start: Fraction  # seconds from the video's first frame; `write_audio` has the same zero
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
) -> Iterator[Clip]:
    """Cut a video into clips, holding one of them in memory at a time.

    The last clip is shorter; a rest of fewer than 16 frames is left out. With a `Matting` the
    clips show its foreground, where the spilled light of a green screen is removed. What a
    damaged tail makes unreadable is known only at its place: clips before it have come out then.

    Args:
        path: a video in any container and codec that FFmpeg reads.
        fps: frames per second of the clips; see `resample`.
        length: frames of a clip.
        size: side of the clips' frames, pixels (Lanczos over the whole area of a pixel).
        crop: the square to keep. By default the person's, from the mattes (`person_crop`), and
            without mattes the largest square in the middle.
        mattes: a folder or video with a matte for every frame of the video, or what makes a matte
            of a frame (`green_screen`, `still_camera`). The mattes are read twice.

    Raises:
        AnchorError: a video or mattes that cannot be read or do not belong together, a crop that
            is not inside the frame, or a video shorter than 16 frames.
    """
    fps = Fraction(fps)
    if fps <= 0 or length < MIN_LENGTH or size < 8:
        raise AnchorError(
            f"clips of {length} frames of {size}x{size} at {float(fps):g} fps cannot be made; "
            f"expected at least {MIN_LENGTH} frames, 8 pixels and a positive rate"
        )
    width, height = _frame_size(path)
    if crop is None and mattes is not None:
        looks = resample(_pairs(path, mattes), 1 / LOOK)
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
    pairs = _matted(resample(_pairs(path, mattes), fps), mattes)
    for index, frames, alphas in _stacks(pairs, crop, size, length):
        yield Clip(path.stem, index, frames, index * length / fps, fps, crop, alphas)
        del frames, alphas  # before the next clip is read


def resample(frames: Iterable[tuple[Fraction, T]], fps: Fraction) -> Iterator[T]:
    """The frame nearest to each time k / fps after the first one, up to half a step after the last.

    Between two frames that are equally near, up to a millisecond, it is the earlier. At twice
    the rate every second frame stays, at 25 fps every fifth is shown twice at 30.

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
    """The square around the person over a whole video: whatever the mattes show at any time.

    A pixel counts where the matte is over a half in one of 200 mattes, at least one, and
    has neighbours that count too. The square has a margin of 8 % and stays inside the frame; where
    the person is taller than the square can be, the head stays in.

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
        raise AnchorError("the mattes show nobody, so there is nothing to crop to; give a crop box")
    y, x = ndimage.find_objects(found.astype(int))[0]
    height, width = seen.shape
    wanted = max(y.stop - y.start, x.stop - x.start) * (1 + 2 * MARGIN)
    side = min(round(wanted), width, height)
    left = round((x.start + x.stop - side) / 2)
    margin = MARGIN * (y.stop - y.start)
    above = max((side - (y.stop - y.start)) / 2, min(margin, y.start))
    top = round(y.start - above)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def _frame_size(path: Path) -> tuple[int, int]:
    frames = iter_video(path)
    _, pixels = next(frames)
    frames.close()
    return pixels.shape[1], pixels.shape[0]


def _pairs(path: Path, mattes: Path | Matting | None) -> Iterator[tuple[Fraction, Pair]]:
    """Every frame of the video with its time and, where the user has made it, its matte."""
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


def _matted(pairs: Iterable[Pair], mattes: Path | Matting | None) -> Iterator[Pair]:
    for pixels, alpha in pairs:
        if isinstance(mattes, Callable):
            alpha, pixels = mattes(pixels)
        yield pixels, alpha


def _stacks(
    pairs: Iterator[Pair], crop: Box, size: int, length: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """The number, frames and mattes of each clip, cropped and resized as they arrive."""
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
        del frames, alphas  # the next clip takes their place


def _cut(pixels: np.ndarray, crop: Box, size: int) -> np.ndarray:
    """The square of a frame or matte at the clips' size."""
    from PIL import Image

    left, top, side = crop
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))
