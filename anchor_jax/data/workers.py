"""Work spread over processes that tell their progress and leave with the one that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from anchor_jax.errors import AnchorError

Advance = Callable[[int], object]
Task = TypeVar("Task")
Result = TypeVar("Result")

_queue: Any = None  # of a worker process: where its progress goes
_stop: Any = None  # of a worker process: set when its work is no longer wanted


class _Stopped(Exception):
    """The work is no longer wanted."""


def num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    work: Callable[[Task, Advance], Result],
    tasks: Sequence[Task],
    processes: int,
    advance: Advance,
) -> list[Result]:
    """`work(task, advance)` for every task, in processes of their own if there are several.

    Args:
        work: a function of a module; calls `advance` often.
        tasks: what it gets; these and its results go through pickle.
        processes: at most so many at a time.
        advance: gets what `work` tells.

    Returns:
        The results in the order of the tasks.

    Raises:
        AnchorError: a process that was killed from outside.
        Exception: whatever the first failed task raised; the others are stopped.
    """
    if processes <= 1 or len(tasks) <= 1:
        return [work(task, advance) for task in tasks]
    context = get_context("spawn")  # a fork would copy the locks of jax's and grain's threads
    queue, stop = context.SimpleQueue(), context.Event()
    with ProcessPoolExecutor(processes, context, _begin, (queue, stop)) as pool:
        futures = [pool.submit(_call, work, task) for task in tasks]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                while not queue.empty():
                    advance(queue.get())
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise AnchorError(
                "a process was killed, perhaps for want of memory; run the same command again,"
                " with fewer --processes"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return [future.result() for future in futures]


def _begin(queue, stop) -> None:
    """Set up a worker."""
    global _queue, _stop
    _queue, _stop = queue, stop
    follow_parent(signal.SIGINT)


@contextmanager
def deaf(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started within do not hear `signals`, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(*signals: signal.Signals) -> None:
    """In a worker: end when its parent does, even if that is killed, and leave `signals` to it."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def leave() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _call(work: Callable[[Task, Advance], Result], task: Task) -> Result:
    return work(task, _advance)


def _advance(count: int) -> None:
    if _stop.is_set():
        raise _Stopped
    _queue.put(count)
