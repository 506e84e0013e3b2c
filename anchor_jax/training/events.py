"""Writes the event files that TensorBoard reads."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


class EventWriter:
    """An event file in a folder. Its methods write and flush at once.

    tensorboardX's own `SummaryWriter` writes in a thread. That thread ends when the disk is full,
    and the writer then waits for it for ever.

    Args:
        folder: created if it is missing.
        step: the first step that follows. TensorBoard drops the events of this and later steps in
            older files of the folder.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore

        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step.

        Raises:
            OSError: the disk is full.
        """
        from tensorboardX import summary
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

        each = [value for name in values for value in summary.scalar(name, values[name]).value]
        self._write(step, summary=Summary(value=each))

    def add_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image, uint8 (h, w, 3); errors as for `add_scalars`."""
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        """Close the file. A full disk is no error here: writing has raised it before."""
        with suppress(OSError):
            self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))
        self._writer.flush()
