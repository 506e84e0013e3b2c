"""Keep what unfinished work needs to go on after any stop, also SIGKILL.

Beside the video `talk.mp4` there is a hidden folder `.talk.mp4.unfinished` until it is complete. It
holds the frames that are finished (see `data.video_parts`) and the state of the stages with the
number of frames that they had finished then. A state replaces the one before in one step, so there
is always a whole one.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from anchor_jax.diffusion.rings import State
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, named_errors, parent_made, remove

_SHARE = 0.01  # of the time that saving may take
_FIRST = 5.0  # seconds before the first state is saved

_STATE, _FACTS, _LOCK = "state.safetensors", "settings.json", "lock"


def folder_of(out: Path) -> Path:
    """Return the folder for what is unfinished of the video `out`."""
    out = out.absolute()
    return out.with_name(f".{out.name}.unfinished")


class Unfinished:
    """The folder of an unfinished video, open for one process.

    Attributes:
        folder: the folder.
        count: number of frames that are finished in the last state that was saved, or 0.
        state: the state of an earlier run, or None.
        kept: whether there is a state on the disk.
    """

    def __init__(self, folder: Path, out: Path):
        self.folder, self._out = folder, out
        self.state: State | None = None
        self.count = 0
        self.kept = False
        self._next = time.monotonic() + _FIRST
        with suppress(FileNotFoundError):
            self._load()

    def _load(self) -> None:
        path = self.folder / _STATE
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise AnchorError(f"{path} is damaged: remove {self.folder} to begin anew") from error
        self.count = int(arrays.pop("count"))
        self.state = unflatten_dict(arrays, sep="/")
        self.kept = True

    def save(self, state: Callable[[], State], count: int) -> bool:
        """Save the state, if enough time has passed since the last one that all of them take about
        a hundredth of the time.

        Args:
            state: gives the state.
            count: number of frames that are finished in it.

        Returns:
            Whether it was saved.

        Raises:
            AnchorError: it cannot be written.
        """
        start = time.monotonic()
        if start < self._next:
            return False
        # safetensors writes no scalars of NumPy, and arrays only in C order.
        arrays = jax.tree.map(lambda x: np.asarray(x, order="C"), state())
        path = self.folder / _STATE
        with named_errors(self._out):
            partial = path.with_suffix(".partial")
            flat: dict[str, Any] = dict(flatten_dict(arrays, sep="/"))
            save_file(flat | {"count": np.array(count)}, partial)
            partial.replace(path)
        self.kept, self.count = True, count
        end = time.monotonic()
        self._next = end + (end - start) / _SHARE
        return True


@contextmanager
def open_unfinished(
    out: Path, facts: Mapping[str, Any], restart: bool = False
) -> Iterator[Unfinished]:
    """Open the folder of an unfinished video, or make it. When the block ends the folder is
    removed. If the block fails, it stays if there is a state in it.

    Args:
        out: the video.
        facts: what its frames depend on, as JSON; a state of other facts is refused.
        restart: remove what is unfinished.

    Raises:
        AnchorError: another process has it open, it was made with other facts, it is damaged or
            cannot be written.
    """
    folder = folder_of(out)
    check_parent(out)
    with parent_made(out):
        with named_errors(out):
            folder.mkdir(exist_ok=True)
        with _locked(folder, out):
            if restart:
                for path in folder.iterdir():
                    if path.name != _LOCK:
                        remove(path)
            _check_facts(folder, out, facts)
            unfinished = Unfinished(folder, out)
            try:
                yield unfinished
            except BaseException:
                if not unfinished.kept:
                    remove(folder)
                raise
            remove(folder)


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Keep other processes out of the folder; the lock ends with this process."""
    lock = filelock.FileLock(folder / _LOCK)
    with named_errors(out):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:  # an OSError
            raise AnchorError(f"another process is making {out}: wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _check_facts(folder: Path, out: Path, facts: Mapping[str, Any]) -> None:
    """Raise AnchorError if the folder has a state of other facts; else write them."""
    path, text = folder / _FACTS, json.dumps(facts, indent=1, sort_keys=True)
    if (folder / _STATE).exists():
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            raise AnchorError(f"{path} is damaged: remove {folder} to begin anew") from None
        now = json.loads(text)
        if changed := sorted(x for x in before | now if before.get(x) != now.get(x)):
            raise AnchorError(
                f"{out} is unfinished, made with other settings ({', '.join(changed)}): give the"
                " same ones to go on, or --restart to begin anew"
            )
        return
    with named_errors(out):
        partial = path.with_suffix(".partial")
        partial.write_text(text, "utf-8")
        partial.replace(path)
