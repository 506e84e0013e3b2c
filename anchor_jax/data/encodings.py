"""Arrays of every frame of a data set, computed once and kept beside it: what frozen networks make
of its pictures. One folder a key, one `.npy` a clip and array, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Dataset
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import placed, write_text

FOLDER = "encodings"


class Encodings:
    """float32 arrays, one of each name for every frame, read from disk as they are asked for.

    Args:
        dataset: whose frames they are of.
        key: hexadecimal; of the networks and of everything else that decides what the arrays are.
        shapes: of one frame's array of each name.
        folder: to put them in; default: `encodings` in the data set.
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
        """The clips whose arrays are not all there."""
        clips = range(len(self.starts) - 1)
        return [i for i in clips if not all(self._path(i, name).exists() for name in self.shapes)]

    def make_folder(self) -> None:
        """Make the folder, to know before the work whether its results can be kept.

        Raises:
            AnchorError: they cannot.
        """
        write_text(self.folder / "key.json", json.dumps({"key": self._key}) + "\n")

    def write(self, clip: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays (frames, ...) of one clip.

        Raises:
            AnchorError: the folder cannot be written, or the disk is full.
        """
        try:
            self.make_folder()
            for name, array in arrays.items():
                with placed(self._path(clip, name)) as partial, partial.open("wb") as file:
                    np.save(file, np.asarray(array, np.float32))
        except AnchorError as error:
            raise AnchorError(f"{error}; the encodings of earlier clips are kept") from error

    def read(self, name: str, frame: int) -> np.ndarray:
        """The array of a frame, by its number in the data set.

        Raises:
            AnchorError: its file is missing or damaged.
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
