"""The folder of a run, its logs, and how a signal stops it.

config.json     all settings, and the versions of the packages
metrics.jsonl   one line for each logged step: scalars, and the frames with their references
events/         the scalars and the validation grids for TensorBoard
grids/          validation grids, one PNG file for each step
checkpoints/    see `checkpoints`
anchor/         the result
report.html     curves and grids on one page
"""

import json
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from anchor_jax.devices import is_first_process
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import check_parent, leftovers, named_errors, remove, write_text
from anchor_jax.training.events import EventWriter
from anchor_jax.training.sharding import any_process
from anchor_jax.versions import versions

PACKAGES = ("anchor-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Run:
    """The folder of a run, which is new or continues. Only the first process writes here, except
    for checkpoints, which all processes write. Use it in a `with`, or call `close`.

    Args:
        folder: created if it is missing.
        settings: everything that determines the result, as JSON values.
        free: names of settings that may change when a run continues.
        translate: from the settings that an earlier version wrote to those of this version.

    Raises:
        AnchorError: the folder is not a run, is in use, cannot be written, or belongs to a run with
            other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        free: frozenset[str],
        translate: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ):
        self.folder = folder
        self._translate = translate
        self.is_main = is_first_process()
        self._events: Any = None  # opened by `begin`
        self._lock = filelock.FileLock(folder / ".lock")
        problem = None
        if self.is_main:
            try:
                self._open(settings, free)
            except AnchorError as error:
                self._lock.release()
                problem = error
        if any_process(problem is not None):
            raise problem or AnchorError(f"{folder}: the first process failed, see its error")

    def _open(self, settings: Mapping[str, Any], free: frozenset[str]) -> None:
        folder = self.folder
        check_parent(folder)
        try:
            is_run = (folder / "config.json").is_file()
            if folder.exists() and not is_run and not _is_empty(folder):
                raise AnchorError(f"{folder}: exists and is no run; choose a new folder for --out")
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            if (folder / "config.json").is_file():
                self._check(settings, free)
            for left in leftovers(folder):
                remove(left)
            self._write_config(settings)
        except filelock.Timeout:
            raise AnchorError(f"{folder}: another process trains in this folder") from None
        except OSError as error:
            raise AnchorError(f"{folder}: cannot be written: {first_line(error)}") from None

    def _check(self, settings: Mapping[str, Any], free: frozenset[str]) -> None:
        try:
            old = json.loads((self.folder / "config.json").read_text("utf-8"))["settings"]
            old = self._translate(old)
            new = json.loads(json.dumps(dict(settings)))
            stages = old.get("stage"), new.get("stage")
            changed = [
                f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
                for name in sorted(set(old) | set(new))
                if name not in free and old.get(name) != new.get(name)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnchorError(
                f"{self.folder / 'config.json'}: cannot be read: {first_line(error)}"
            ) from None
        if stages[0] != stages[1]:
            raise AnchorError(
                f"{self.folder} is a run of `train {stages[0]}`, not of `train {stages[1]}`:"
                " choose another folder for --out"
            )
        if changed:
            raise AnchorError(
                f"{self.folder} is a run with other settings: {shorten(changed, separator='; ')};"
                " give the same ones to go on, or a new --out"
            )

    def _write_config(self, settings: Mapping[str, Any]) -> None:
        content = {
            "settings": dict(settings),
            "versions": versions(PACKAGES),
            "python": platform.python_version(),
            "devices": [str(device) for device in jax.devices()],
            "command": sys.argv,
        }
        write_text(self.folder / "config.json", json.dumps(content, indent=1) + "\n")

    def begin(self, step: int) -> None:
        """Open the logs to continue after `step`; lines of later steps are removed."""
        if not self.is_main:
            return
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_text(self.folder / "metrics.jsonl", text)
        with named_errors(self.folder):
            self._events = EventWriter(self.folder / "events", step + 1)

    def log(
        self, step: int, metrics: Mapping[str, float], frames: Sequence[Any] | None = None
    ) -> None:
        """Log the metrics of a step, and in `metrics.jsonl` the frames of its batch."""
        if not self.is_main:
            return
        line = {"step": step, **metrics} | ({} if frames is None else {"frames": frames})
        with named_errors(self.folder):
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self._events.add_scalars(step, metrics)

    def log_grid(self, step: int, grid: np.ndarray) -> None:
        """Log the validation grid of a step, uint8 (h, w, 3)."""
        if not self.is_main:
            return
        from PIL import Image

        path = self.folder / "grids" / f"{step:08d}.png"
        with named_errors(self.folder):
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(grid).save(path)
            self._events.add_image(step, "validation", grid)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the logged lines, each a step and its metrics, in order."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = []
        for line in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last line, which a killed process did not finish
                break
        return lines

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()
        if isinstance(error, KeyboardInterrupt) and not str(error):
            kept = f"what is complete in {self.folder} is kept; repeat the command to continue"
            raise KeyboardInterrupt(kept) from None

    def close(self) -> None:
        """Close the logs and release the lock on the folder."""
        if self._events is not None:
            self._events.close()
        if self.is_main:
            self._lock.release()


def _is_empty(folder: Path) -> bool:
    """Return whether a folder is empty, except for files that a killed `Run` wrote first."""
    first = {folder / ".lock", *leftovers(folder)}
    return folder.is_dir() and set(folder.iterdir()) <= first


class Stop:
    """True after a signal to stop. A second signal raises KeyboardInterrupt at once."""

    _requested = False

    def __bool__(self) -> bool:
        return self._requested

    def request(self, *_: object) -> None:
        """Handle the signal."""
        if self._requested:
            raise KeyboardInterrupt("the last complete checkpoint is kept")
        self._requested = True
        print("\nstopping and saving ...", file=sys.stderr)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Delay SIGTERM and Ctrl-C: the first one only makes the yielded `Stop` true.

    Outside the main thread, which alone may handle signals, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, stop.request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
