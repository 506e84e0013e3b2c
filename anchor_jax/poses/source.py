"""Read pose images as they are needed: of a folder, a video, standard input, or a folder that
another program is still filling."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, count, islice
from pathlib import Path

from anchor_jax.data import video
from anchor_jax.data.pictures import (
    IMAGE_SUFFIXES,
    list_images,
    read_images,
    read_size,
    resize,
    round_size,
)
from anchor_jax.errors import AnchorError, note
from anchor_jax.shapes import Images, Size, show_size

STANDARD_INPUT = Path("-")
END_NAME = "END"  # a file of this name in a folder that is being filled says that it is complete

_POLL = 0.2  # seconds between two looks at a folder that is being filled
_NUMBER = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class PoseSource:
    """Pose images that are read one by one, at the size at which they are used.

    Attributes:
        path: folder or video; `STANDARD_INPUT` for a video from there.
        size: width and height at which they are used, pixels.
        own_size: width and height as they are stored.
        rate: frames per second of a video; None if unknown.
        count: number of pose images; None for a source that is still being written.
        open: reads them from a number (from 0) on, uint8 (h, w, 3), at their own size.
        in_any_order: whether `open` reads none of those before the number.
    """

    path: Path
    size: Size
    own_size: Size
    rate: Fraction | None
    count: int | None
    open: Callable[[int], Iterator[Images]] = field(repr=False)
    in_any_order: bool = False

    def read(self, start: int = 0) -> Iterator[Images]:
        """Read pose images from a number (from 0) on, uint8 (h, w, 3).

        Raises:
            AnchorError: one cannot be read, or has another size than the first.
        """
        for number, image in enumerate(self.open(start), start):
            yield self._used(number, image)

    def pick(self, numbers: Sequence[int]) -> Iterator[Images]:
        """Read the pose images of some numbers, from 0 and ascending; errors as for `read`."""
        if self.in_any_order:
            found = ((number, next(self.open(number))) for number in numbers)
        else:
            chosen = set(numbers)
            whole = enumerate(islice(self.open(0), numbers[-1] + 1))
            found = ((number, image) for number, image in whole if number in chosen)
        yield from (self._used(number, image) for number, image in found)

    def _used(self, number: int, image: Images) -> Images:
        """Resize a pose image to the size at which it is used."""
        if image.shape[1::-1] != self.own_size:
            raise AnchorError(
                f"pose image {number + 1} of {self.path} is {show_size(image.shape[1::-1])}:"
                f" expected {show_size(self.own_size)}, as the first"
            )
        return resize(image, self.size)


def open_source(path: Path, size: Size | None = None, follow: float | None = None) -> PoseSource:
    """Open pose images, and check as much of them as is there.

    Args:
        path: a folder of images, in the order of the numbers in their names, a video, one image, or
            `STANDARD_INPUT`.
        size: width and height to resize to, by default their own; rounded down to multiples of 8,
            with a note.
        follow: seconds to wait for each next image of a folder that another program is filling; the
            folder is complete when it holds a file named END. None: it is complete now.

    Raises:
        AnchorError: there is nothing, or nothing that can be read, or images differ in size.
    """
    if follow is not None:
        if not path.is_dir():
            raise AnchorError(f"--follow goes with a folder of pose images, and {path} is none")
        return _follow_folder(path, size, follow)
    if path == STANDARD_INPUT:
        return _open_input(size)
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a folder of images or a video")
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _open_images(path, list_images(path) if path.is_dir() else [path], size)
    length, own_size = video.count_frames(path)
    frames = lambda start: (pixels for _, pixels in islice(video.iter_video(path), start, None))
    return PoseSource(path, _used(own_size, size), own_size, video.read_rate(path), length, frames)


def _open_images(path: Path, paths: list[Path], size: Size | None) -> PoseSource:
    own_size = read_size(paths[0])
    for other in paths[1:]:
        if (found := read_size(other)) != own_size:
            raise AnchorError(
                f"the images in {path} differ in size: {paths[0].name} is {show_size(own_size)} and"
                f" {other.name} is {show_size(found)}; expected one size"
            )
    frames = lambda start: (read_images([path], None)[0] for path in paths[start:])
    used = _used(own_size, size)
    return PoseSource(path, used, own_size, None, len(paths), frames, in_any_order=True)


def _open_input(size: Size | None) -> PoseSource:
    """Open a video from standard input, in any container that needs no seeking."""
    rate, frames = video.open_stream(sys.stdin.buffer, "standard input")
    first = next(frames)
    own_size = first.shape[1::-1]
    whole = chain([first], frames)
    opened = lambda start: islice(whole, start, None)
    return PoseSource(STANDARD_INPUT, _used(own_size, size), own_size, rate, None, opened)


def _follow_folder(path: Path, size: Size | None, patience: float) -> PoseSource:
    """Open a folder that is being filled. Its images are numbered without gaps."""
    folder = _GrowingFolder(path, patience)
    first = folder.wait()
    if first is None:
        raise AnchorError(f"{path} holds no images after {patience:g} s; expected .png or .jpg")
    number, image = first

    def frames(start: int) -> Iterator[Images]:
        if not start:
            yield image
        for following in count(number + max(start, 1)):
            found = folder.wait(following)
            if found is None:
                return
            yield found[1]

    own_size = image.shape[1::-1]
    return PoseSource(path, _used(own_size, size), own_size, None, None, frames)


class _GrowingFolder:
    """A folder of numbered images that another program is filling.

    Args:
        path: the folder.
        patience: seconds to wait for an image.
    """

    def __init__(self, path: Path, patience: float):
        self._path, self._patience = path, patience
        self._seen: dict[int, Path] = {}  # images that are there and not read yet

    def wait(self, number: int | None = None) -> tuple[int, Images] | None:
        """Wait for the image of a number, or None for the first, until it can be read whole.

        Returns:
            Its number and pixels; None if the folder is complete without it, or time is over.

        Raises:
            AnchorError: later images are there, or it cannot be read.
        """
        until = time.monotonic() + self._patience
        while True:
            if number not in self._seen:
                # Looked for first: the file comes after the last image.
                complete = (self._path / END_NAME).exists()
                self._look(number)
            else:
                complete = False
            late = time.monotonic() >= until
            wanted = min(self._seen, default=None) if number is None else number
            if wanted in self._seen:
                try:
                    image = read_images([self._seen[wanted]], None)[0]
                except AnchorError:  # it is being written
                    if late:
                        raise
                else:
                    del self._seen[wanted]
                    return wanted, image
            elif late or complete:
                if self._seen:
                    raise AnchorError(
                        f"{self._path} has no image number {wanted}, but number"
                        f" {min(self._seen)}: expected numbers without gaps"
                    )
                return None
            time.sleep(_POLL)

    def _look(self, number: int | None) -> None:
        """Find the images from a number on, by the last number in their names."""
        self._seen.clear()
        for path in self._path.iterdir():
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                match = _NUMBER.search(path.stem)
                if match is None:
                    raise AnchorError(f"{path}: expected images with numbers in their names")
                if number is None or int(match[1]) >= number:
                    self._seen[int(match[1])] = path


def _used(own_size: Size, size: Size | None) -> Size:
    """Return the size at which pose images are used; print a note if it is rounded."""
    wanted = size or own_size
    rounded = round_size(wanted)
    if rounded != wanted:
        note(f"{show_size(wanted)} is rounded down to {show_size(rounded)}, multiples of 8")
    return rounded
