"""Work in a thread, so that the main thread handles signals meanwhile.

Python handles signals between two lines of the main thread, and XLA compiles for minutes in one.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from anchor_jax.errors import EXIT_INTERRUPTED
from anchor_jax.progress import open_clock

_exit_code: int | None = None  # the process's, once its command has ended
_started: list[threading.Thread] = []


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
    """Set the exit code of this process for the case that threads still work when it ends."""
    global _exit_code
    _exit_code = code


@atexit.register
def _leave() -> None:
    """End the process at once if a thread still works and the exit code is known; else wait. XLA
    aborts if the interpreter ends while it compiles."""
    working = [thread for thread in _started if thread.is_alive()]
    code = _exit_code
    if issubclass(getattr(sys, "last_type", None) or int, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    if working and code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    for thread in working:
        thread.join()
