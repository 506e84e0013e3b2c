"""Cached outputs of frozen networks for every frame of a data set.

There is a folder for each key (of networks and settings), and in it a `.npy` file for each clip and
array, which appears when it is complete.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Dataset
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import check_space, placed, write_text

FOLDER = "encodings"


class Encodings:
    """Named float32 arrays for every frame, read from disk on demand.

    Args:
        dataset: the data set whose frames they belong to.
        key: hexadecimal hash of everything that the values of the arrays depend on.
        shapes: for each name the shape of one frame's array.
        folder: where they are kept; default: `encodings` in the data set.
    """

    def __init__(
        self,
        dataset: Dataset,
        key: str,
        shapes: Mapping[str, tuple[int, ...]],
        folder: Path | None = None,
    ):
        self.folder = (folder or dataset.path / FOLDER) / key[:16]
        self.shapes = dict(shapes)
        self.starts = dataset.starts
        self._key, self._open = key, {}

    def missing(self) -> list[int]:
        """List the numbers of the clips that lack an array."""
        clips = range(len(self.starts) - 1)
        return [i for i in clips if not all(self._path(i, name).exists() for name in self.shapes)]

    def make_folder(self) -> None:
        """Make the folder. Called before the work, it shows whether results can be written.

        Raises:
            AnchorError: the folder cannot be written, or the disk has too little space.
        """
        frames = sum(self.starts[clip + 1] - self.starts[clip] for clip in self.missing())
        check_space({self.folder: 4 * frames * sum(map(math.prod, self.shapes.values()))})
        write_text(self.folder / "key.json", json.dumps({"key": self._key}) + "\n")

    def write(self, clip: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays (frames, ...) of one clip.

        Raises:
            AnchorError: the folder cannot be written, or the disk is full.
        """
        try:
            for name, array in arrays.items():
                with placed(self._path(clip, name)) as partial, partial.open("wb") as file:
                    np.save(file, np.asarray(array, np.float32))
        except AnchorError as error:
            raise AnchorError(f"{error}; the encodings of earlier clips are kept") from error

    def read(self, name: str, frame: int) -> np.ndarray:
        """Read an array of a frame, given the frame's number in the data set.

        Raises:
            AnchorError: the file is missing or damaged.
        """
        clip = int(np.searchsorted(self.starts, frame, side="right")) - 1
        if (clip, name) not in self._open:
            self._open[clip, name] = self._load(clip, name)
        return np.array(self._open[clip, name][frame - self.starts[clip]])

    def _load(self, clip: int, name: str) -> np.ndarray:
        path = self._path(clip, name)
        shape = (self.starts[clip + 1] - self.starts[clip], *self.shapes[name])
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            problem = first_line(error)
        else:
            if array.shape == shape and array.dtype == np.float32:
                return array
            problem = f"{array.dtype} {array.shape} instead of float32 {shape}"
        raise AnchorError(f"{path}: cannot be read ({problem}); remove it and start again")

    def _path(self, clip: int, name: str) -> Path:
        return self.folder / f"{name}-{clip:05d}.npy"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}
