"""The folder of a run: what it was told, what it did, and how it stops.

config.json     every setting and the versions of what ran
metrics.jsonl   one line a logged step: scalars, and the frames with their references
events/         the same for TensorBoard
grids/          pictures of validation, by step
checkpoints/    see `checkpoints`
anchor/         the result
report.html     curves and grids on one page
"""

import json
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import check_parent, leftovers, remove, write_text
from anchor_jax.training.sharding import any_process
from anchor_jax.versions import versions

PACKAGES = ("anchor-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Run:
    """A run's folder, new or gone on with. Of several processes the first one alone writes here,
    but for checkpoints.

    Args:
        folder: made if it is not there.
        settings: everything that decides the result, as JSON has it.
        free: settings that may differ when a run goes on.

    Raises:
        AnchorError: the folder is something else, in use, cannot be written, or is of a run with
            other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], free: frozenset[str]):
        self.folder = folder
        self.is_main = jax.process_index() == 0
        self._events: Any = None
        self._lock = filelock.FileLock(folder / ".lock")
        problem = None
        if self.is_main:
            try:
                self._open(settings, free)
            except AnchorError as error:
                self._lock.release()
                problem = error
        if any_process(problem is not None):
            raise problem or AnchorError(f"{folder}: the first process tells what is wrong")

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
            new = json.loads(json.dumps(dict(settings)))
            changed = [
                f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
                for name in sorted(set(old) | set(new))
                if name not in free and old.get(name) != new.get(name)
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnchorError(
                f"{self.folder / 'config.json'}: cannot be read: {first_line(error)}"
            ) from None
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
        """Open the logs to go on after `step`; what they tell of later steps is forgotten."""
        if not self.is_main:
            return
        kept = [line for line in self.metrics() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_text(self.folder / "metrics.jsonl", text)
        self._events = Events(self.folder / "events", step + 1)

    def log(
        self, step: int, values: Mapping[str, float], frames: Sequence[Any] | None = None
    ) -> None:
        """Scalars of a step and, for `metrics.jsonl` alone, the frames that it saw."""
        if not self.is_main:
            return
        line = {"step": step, **values} | ({} if frames is None else {"frames": frames})
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._events.add_scalars(step, values)

    def log_grid(self, step: int, grid: np.ndarray) -> None:
        """A picture uint8 (h, w, 3) of a step."""
        if not self.is_main:
            return
        from PIL import Image

        path = self.folder / "grids" / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(grid).save(path)
        self._events.add_image(step, "validation", grid)

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged, in order."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = []
        for line in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last one, of a killed process
                break
        return lines

    def close(self) -> None:
        """Flush the logs and leave the folder to others."""
        if self._events is not None:
            self._events.close()
        if self.is_main:
            self._lock.release()


class Events:
    """Writes what TensorBoard reads. tensorboardX' own writer has a thread that ends when the disk
    is full, and then waits for it for ever.

    Args:
        folder: made if it is not there.
        step: the first one that follows; what other files tell of it and later ones is void.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All scalars of a step."""
        from tensorboardX import summary
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        each = [value for name in values for value in summary.scalar(name, values[name]).value]
        self._write(step, summary=Summary(value=each))

    def add_image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture uint8 (h, w, 3)."""
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, picture, dataformats="HWC"))

    def close(self) -> None:
        """Close the file; what did not fit on the disk was told when it was written."""
        with suppress(OSError):
            self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))
        self._writer.flush()


def _is_empty(folder: Path) -> bool:
    """But for what a process left that came no further."""
    left = {folder / ".lock", *leftovers(folder)}
    return folder.is_dir() and set(folder.iterdir()) <= left


class Stop:
    """Whether SIGTERM or Ctrl-C asked to stop. A second Ctrl-C does not wait."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked

    def ask(self, *_: object) -> None:
        """The signals' handler."""
        if self.asked:
            raise KeyboardInterrupt("the last complete checkpoint is kept")
        self.asked = True
        print("\nstopping after this step and saving ...", file=sys.stderr)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it, SIGTERM and Ctrl-C only set what it gives."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
