"""Lists of the published system: one JSON object a line,
`{"source": pose.png, "target": frame.png, "reference": other.png}`, with "mask" for the head."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anchor_jax.data.dataset import Pictures
from anchor_jax.data.pictures import open_picture, resize
from anchor_jax.data.video import read_frames
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.shapes import Size, show_size

BODY = {"source": "pose", "target": "target"}
FACE = {"source": "face_pose", "target": "face", "mask": "face_mask"}
LONGEST_LINE = 1 << 16  # characters


@dataclass(frozen=True)
class ListSource:
    """One clip: the lines of a list whose targets are in one folder."""

    name: str
    identity: str
    lines: tuple[dict[str, Path], ...]  # picture -> file, in the order of the list
    size: Size | None = None  # size of all pictures; None: `examine` finds it
    resized: bool = False  # pictures of other sizes are resized, else refused
    sound: None = None  # lists have no sound

    def lengths(self) -> list[tuple[str, int]]:
        """Return the name and number of frames of the clip."""
        return [(self.name, len(self.lines))]

    def examine(self) -> "ListSource":
        """Fill in the size of the first target where the size is None.

        Raises:
            AnchorError: the target is no picture.
        """
        if self.size is not None:
            return self
        path = next(self.lines[0][name] for name in ("target", "face") if name in self.lines[0])
        with open_picture(path) as image:
            return replace(self, size=image.size)

    def pictures(self) -> dict[str, Size]:
        """Return the pictures of each frame and their sizes."""
        assert self.size is not None
        return dict.fromkeys(self.lines[0], self.size)

    def read(self, wanted: range) -> Iterator[tuple[int, Iterator[Pictures]]]:
        """Read the frames of the clip if its number, 0, is wanted."""
        if 0 in wanted:
            yield 0, map(self._read_line, self.lines)

    def _read_line(self, line: dict[str, Path]) -> Pictures:
        frame = {}
        for name, path in line.items():
            pixels = _read_mask(path) if name == "face_mask" else read_frames(path)[0][0]
            frame[name] = pixels
        assert self.size is not None
        sizes = {pixels.shape[1::-1] for pixels in frame.values()}
        if len(sizes) > 1 or (not self.resized and sizes != {self.size}):
            shown = [
                f"{line[name]} is {show_size(pixels.shape[1::-1])}"
                for name, pixels in frame.items()
            ]
            raise AnchorError(
                f"pictures of the list differ in size: {', '.join(shown)}; expected one size in a"
                f" line, and {show_size(self.size)} everywhere unless --size is given"
            )
        return {name: resize(pixels, self.size) for name, pixels in frame.items()}


def read_list(
    path: Path, identity: str | None = None, size: Size | None = None
) -> list[ListSource]:
    """Read the clips of a list, in the order of their first lines.

    Paths are absolute or relative to the list's folder. The reference of a line must exist but is
    not kept: as in the paper, training draws another frame of the same clip each time.

    Args:
        path: the list.
        identity: the person in all clips; default: a clip's own name.
        size: size to which all pictures are resized.

    Raises:
        AnchorError: the list cannot be read, or has wrong lines, missing files or clips of fewer
            than two frames, which the message names.
    """
    problems: list[str] = []
    clips: dict[Path, list[dict[str, Path]]] = {}
    kinds: set[tuple[str, ...]] = set()
    for number, text in _lines(path):
        try:
            entry, kind = _parse(text)
            files = {name: _find(path.parent, name, entry[name]) for name in (*kind, "reference")}
        except AnchorError as error:
            problems.append(f"line {number}: {error}")
            continue
        kinds.add(tuple(kind))
        line = {picture: files[name] for name, picture in kind.items()}
        clips.setdefault(files["target"].parent, []).append(line)
    if len(kinds) > 1:
        problems.append("some lines have a mask and some have none")
    problems += [
        f"{folder} gives one frame; expected at least two, a target and its reference"
        for folder, lines in clips.items()
        if len(lines) < 2
    ]
    if problems:
        raise AnchorError(f"the list {path} has problems: {shorten(problems, separator='; ')}")
    if not clips:
        raise AnchorError(f"the list {path} is empty; expected one JSON object a line")
    names = _unique(list(clips))
    return [
        ListSource(name, identity or name, tuple(lines), size, size is not None)
        for name, lines in zip(names, clips.values(), strict=True)
    ]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines that are not blank, with their numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise AnchorError(f"{path}, line {number} is too long for a list of pictures")
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as error:
        raise AnchorError(f"cannot read the list {path}: {first_line(error)}") from error


def _parse(text: str) -> tuple[dict[str, object], dict[str, str]]:
    """Parse a line: its entries, and a map from names in the list to names in a data set."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        raise AnchorError("not JSON") from None
    if not isinstance(entry, dict):
        raise AnchorError("not a JSON object")
    kind = FACE if "mask" in entry else BODY
    missing = [name for name in (*kind, "reference") if name not in entry]
    if missing:
        raise AnchorError(f"has no {' and no '.join(missing)}")
    return entry, kind


def _find(folder: Path, name: str, value: object) -> Path:
    """Find the file that a line names. Devices and pipes are refused."""
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > 4096:
        raise AnchorError(f"its {name} is not a path")
    path = Path(os.path.normpath(folder / value))
    try:
        if path.is_file():
            return path
    except OSError:  # a name too long for the file system
        pass
    raise AnchorError(f"its {name} {value[:200]} is not a file")


def _unique(folders: list[Path]) -> list[str]:
    """Make different names for the folders, with as few of their parents as possible."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _read_mask(path: Path) -> np.ndarray:
    """Read a mask, uint8 (h, w). As published, 0 marks the face, which is repainted."""
    with open_picture(path) as image:
        return np.asarray(image.convert("L"))
