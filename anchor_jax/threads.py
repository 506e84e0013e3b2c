"""Threads: for rows of work that release Python's lock, and for long work beside the main thread.

Python handles signals between two lines of the main thread, and XLA compiles for minutes in one.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from anchor_jax.errors import EXIT_INTERRUPTED
from anchor_jax.processes import num_cores
from anchor_jax.progress import open_clock

Row = TypeVar("Row")
Item = TypeVar("Item")

_MOST = 8  # threads that work on rows

_exit_code: int | None = None  # the process's, once its command has ended
_started: list[threading.Thread] = []


def map_rows(function: Callable[[Row], Item], rows: Iterable[Row]) -> list[Item]:
    """Apply a function to all rows, with threads.

    >>> map_rows(abs, [-1, 2])
    [1, 2]
    """
    return list(_pool().map(function, rows))


@cache
def _pool() -> Executor:
    return ThreadPoolExecutor(min(num_cores(), _MOST))


class Work:
    """Computes `function()` in a thread. When the process ends, it does not wait for the thread.

    Args:
        function: it gets none of this thread's settings, such as JAX's precision.
    """

    def __init__(self, function: Callable[[], Any]):
        self._result: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        _started[:] = [thread for thread in _started if thread.is_alive()] + [self._thread]
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result.set_result(function())
        except BaseException as error:  # raised by `wait`
            self._result.set_exception(error)

    def wait(self, what: str, show: bool, stop: Callable[[], object] = lambda: False) -> Any:
        """Wait for the result; signals are handled meanwhile.

        Args:
            what: label of the clock.
            show: show a clock on standard error.
            stop: asked meanwhile whether the result is still wanted.

        Returns:
            The result, or None as soon as `stop()` is true. The thread then lives on.
        """
        with open_clock(what, show=show) as tick:
            while self._thread.is_alive() and not stop():
                self._thread.join(0.1)
                tick()
        return self._result.result() if self._result.done() else None


def leave_with(code: int) -> None:
    """Set the exit code of this process, which then ends without waiting: neither for threads that
    still work, nor until the interpreter has freed a million objects (0.9 seconds after a short
    video)."""
    global _exit_code
    _exit_code = code


@atexit.register
def _leave() -> None:
    """End the process at once if the exit code is known; else wait for threads that still work. XLA
    aborts if the interpreter ends while it compiles. What was registered after this, such as the
    end of JAX's connections to other processes, was done before."""
    working = [thread for thread in _started if thread.is_alive()]
    code = _exit_code
    if working and issubclass(getattr(sys, "last_type", None) or int, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    if code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    for thread in working:
        thread.join()
