"""Write a video while its frames come, so that another process can go on after any stop.

Frames are kept in parts of `PART_FRAMES`, uncompressed. A part that is complete is encoded to a
file of its own. At the end the encoded parts are joined without encoding them again. So the video
has the same bytes, however often the work was stopped.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from anchor_jax.data.video_writer import encode, join, save_frame
from anchor_jax.files import named_errors, placed, remove

PART_FRAMES = 250  # x264 begins anew after as many frames anyway


class VideoParts:
    """Frames of a video that is not complete.

    Args:
        folder: a folder for the parts, which may hold those of an earlier process.
        size: width and height of the frames, pixels; even.
        fps: frames per second.
        count: number of frames that are kept of those that are there.
        out: the video, for messages.
        pictures: whether each frame is also kept as PNG file.
    """

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        fps: Fraction,
        count: int,
        out: Path,
        pictures: bool,
    ):
        self._folder, self._size, self._fps, self._out = folder, size, fps, out
        self.count = count
        self._pictures = folder / "frames" if pictures else None
        self._first = 0  # part whose uncompressed frames may be there
        self._encoder = ThreadPoolExecutor(1)
        self._encoding: list[Future[None]] = []
        with self._errors():
            if self._pictures is not None:
                self._pictures.mkdir(exist_ok=True)
            self._raw = self._open_part()
        for part in range(count // PART_FRAMES):
            if not self._encoded(part).exists():
                self._encode(part)

    def __enter__(self) -> "VideoParts":
        """Return the parts; at the end of the block threads and files are closed."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close threads and files."""
        self._encoder.shutdown(cancel_futures=True)
        self._raw.close()

    def add(self, frames: np.ndarray) -> None:
        """Keep frames, uint8 (k, h, w, 3).

        Raises:
            AnchorError: the disk is full, for example; also of a part that was being encoded.
        """
        with self._errors():
            for frame in frames:
                self._raw.write(np.ascontiguousarray(frame).tobytes())
                self.count += 1
                if self._pictures is not None:
                    save_frame(self._pictures, self.count, frame)
                if self.count % PART_FRAMES == 0:
                    self._raw.close()
                    self._encode(self.count // PART_FRAMES - 1)
                    self._raw = self._open_part()
            self._raw.flush()
            while self._encoding and self._encoding[0].done():
                self._encoding.pop(0).result()

    def forget(self, count: int) -> None:
        """Remove uncompressed frames that are not needed to go on from `count` frames."""
        for part in range(self._first, count // PART_FRAMES):
            if not self._encoded(part).exists():
                return  # it is being encoded
            remove(self._uncompressed(part))
            self._first = part + 1

    def finish(self, path: Path, folder: Path | None = None) -> None:
        """Encode what is left, and make the video, and the folder of PNG files if there is one.

        Raises:
            AnchorError: one of the two cannot be written; then neither is.
        """
        with self._errors():
            self._raw.close()
            parts = -(-self.count // PART_FRAMES)
            if self.count % PART_FRAMES:
                self._encode(parts - 1)
            for encoding in self._encoding:
                encoding.result()
        with ExitStack() as stack:
            if folder is not None and self._pictures is not None:
                # The work folder keeps them until all is done; it may be on another disk.
                hidden = stack.enter_context(placed(folder))
                shutil.copytree(self._pictures, hidden, copy_function=_link)
            join([self._encoded(part) for part in range(parts)], stack.enter_context(placed(path)))

    def _errors(self):
        return named_errors(self._out)

    def _open_part(self):
        """Open the file of uncompressed frames that the next frame goes to, at its place."""
        path = self._uncompressed(self.count // PART_FRAMES)
        kept = self.count % PART_FRAMES * self._frame_bytes
        file = path.open("r+b" if kept else "wb")
        file.truncate(kept)
        file.seek(kept)
        return file

    @property
    def _frame_bytes(self) -> int:
        width, height = self._size
        return width * height * 3

    def _encode(self, part: int) -> None:
        """Let a thread encode a part."""

        def work() -> None:
            source, target = self._uncompressed(part), self._encoded(part)
            partial = target.with_suffix(".partial")
            encode(partial, self._read(source), self._fps, self._out)
            partial.replace(target)

        self._encoding.append(self._encoder.submit(work))

    def _read(self, path: Path) -> Iterator[np.ndarray]:
        width, height = self._size
        with path.open("rb") as file:
            while data := file.read(self._frame_bytes):
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def _uncompressed(self, part: int) -> Path:
        return self._folder / f"part-{part + 1:06d}.rgb"

    def _encoded(self, part: int) -> Path:
        return self._folder / f"part-{part + 1:06d}.mp4"


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
