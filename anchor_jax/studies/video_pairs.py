"""Generated videos and their truth: checked for fit, and read in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from anchor_jax.data.pictures import list_images, read_images, read_size, resize
from anchor_jax.data.video import count_frames, iter_video, read_rate
from anchor_jax.errors import AnchorError, require
from anchor_jax.shapes import Images, Size, show_size

_BLOCK = 16  # frames that are measured together, fewer if they are large
_PIXELS = 16 * 640 * 480  # of a block, at most
_SAME_RATE = Fraction(1, 2000)  # difference of rates that are one, such as 29.97 and 30000/1001


@dataclass(frozen=True)
class Block:
    """Frames that follow one another, and their truth.

    Attributes:
        start: number of the first one, from 0.
        images: uint8 (k, h, w, 3), generated.
        truth: uint8 (k, h, w, 3).
        before: the last frame before them, uint8 (2, 1, h, w, 3): generated and true; None at the
            start of a video.
    """

    start: int
    images: Images
    truth: Images
    before: np.ndarray | None = None

    def with_last(self) -> tuple[Images, Images]:
        """Return generated and true frames after the last frame before them, if there is one."""
        both = self.images, self.truth
        if self.before is None:
            return both
        first, second = (np.concatenate(x) for x in zip(self.before, both, strict=True))
        return first, second


@dataclass(frozen=True)
class VideoPair:
    """A video and its truth, which fit together.

    Attributes:
        generated: the video, or a folder of images.
        truth: likewise.
        count: number of frames.
        size: of the true frames.
        own_size: of the generated frames, which are resized to `size`.
        rate: frames per second; None for two folders.
    """

    generated: Path
    truth: Path
    count: int
    size: Size
    own_size: Size
    rate: Fraction | None

    def facts(self) -> dict[str, object]:
        """Describe the pair by JSON values."""
        return {
            "generated": str(self.generated),
            "truth": str(self.truth),
            "frames": self.count,
            "size": list(self.size),
            "resized from": None if self.size == self.own_size else list(self.own_size),
            "frames per second": None if self.rate is None else str(self.rate),
        }

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Read the frames from number `start` on."""
        generated = iter_frames(self.generated, self.own_size)
        truth = iter_frames(self.truth, self.size)
        first = max(0, start - 1)  # with the last one before
        both = islice(zip(generated, truth, strict=True), first, None)
        before = None
        if start:
            before = self._stack(list(islice(both, 1)))
        size = min(_BLOCK, max(1, _PIXELS // (self.size[0] * self.size[1])))
        while rows := list(islice(both, size)):
            images, expected = stacked = self._stack(rows)
            yield Block(start, images, expected, before)
            before, start = stacked[:, -1:], start + len(images)

    def _stack(self, rows: list[tuple[Images, Images]]) -> np.ndarray:
        return np.stack([np.stack([resize(x, self.size), y]) for x, y in rows], 1)


def read_pair(generated: Path, truth: Path, resized: bool) -> VideoPair:
    """Check that a video fits its truth.

    Args:
        generated: a video or folder of images.
        truth: likewise.
        resized: whether the sizes may differ.

    Raises:
        AnchorError: their frames differ in number, rate or size, or are not readable.
    """
    (count, own_size, rate), (true_count, size, true_rate) = map(_examine, (generated, truth))
    both = f"{generated} and {truth}"
    advice = "say that it may be resized (--resize), or resize it as its authors do"
    require(
        (
            count == true_count,
            f"{both} have {count} and {true_count} frames: expected as many; cut the longer one",
        ),
        (
            rate is None or true_rate is None or abs(rate / true_rate - 1) < _SAME_RATE,
            f"{both} have {rate} and {true_rate} frames a second: expected the same; resample one",
        ),
        (
            resized or own_size == size,
            f"{generated} is {show_size(own_size)}, the truth {show_size(size)}: {advice}",
        ),
        (min(size) >= 11, f"{truth} is {show_size(size)}: expected sides of at least 11 pixels"),
    )
    return VideoPair(generated, truth, count, size, own_size, rate or true_rate)


def iter_frames(path: Path, size: Size) -> Iterator[Images]:
    """Read the frames of a video or folder, which all have `size`.

    Raises:
        AnchorError: one is not readable, or has another size.
    """
    if not path.is_dir():
        yield from (pixels for _, pixels in iter_video(path))
        return
    for image in list_images(path):
        pixels = read_images([image], None)[0]
        if pixels.shape[1::-1] != size:
            raise AnchorError(
                f"{image} is {show_size(pixels.shape[1::-1])}, the first image of the folder"
                f" {show_size(size)}: expected one size"
            )
        yield pixels


def _examine(path: Path) -> tuple[int, Size, Fraction | None]:
    """Return number, size and rate of the frames of a video or folder."""
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a video or a folder of images")
    if path.is_dir():
        images = list_images(path)
        return len(images), read_size(images[0]), None
    return *count_frames(path), read_rate(path)


def stamp(path: Path) -> list[int]:
    """Return what tells whether a file, or one in a folder, was changed: number, bytes and latest
    change in nanoseconds."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file.stat() for file in files]
    newest = max((x.st_mtime_ns for x in found), default=0)
    return [len(found), sum(x.st_size for x in found), newest]
