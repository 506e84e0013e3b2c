"""Worker processes: started anew, deaf to Ctrl-C, and ended with the process that started them.

A terminal sends Ctrl-C to all processes of a command. Only the first one handles it, and then ends
its workers. Workers are spawned, not forked: a fork would copy locks that threads of jax and grain
hold. A program that starts workers needs `if __name__ == "__main__":`.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from anchor_jax.errors import AnchorError
from anchor_jax.progress import Advance

SECONDS_TO_END = 10  # for a process that has answered; a killed one leaves semaphores behind

Task = TypeVar("Task")
Result = TypeVar("Result")

_spawn = get_context("spawn")
_queue: Any = None  # in a worker of `run_all`: where it reports progress
_stop: Any = None  # in a worker of `run_all`: set when its work is no longer wanted


class WorkerEnded(AnchorError):
    """A worker process ended before its work was done."""


def worker_ended(advice: str) -> WorkerEnded:
    """The error for a worker that ended too early; `advice` tells the user what to do."""
    return WorkerEnded(f"a worker process ended too early, perhaps for lack of memory; {advice}")


class _Stopped(Exception):
    """The work is no longer wanted."""


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Block `signals` in this thread. Processes that are started meanwhile inherit that, so they
    never receive one, not even before their first line runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(*signals: signal.Signals) -> None:
    """Set up a worker process: ignore `signals`, and end when the parent process ends, even if that
    is killed."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def leave() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


class Pool:
    """Worker processes that take tasks. Use it in a `with`, or call `close`.

    Args:
        count: number of processes.
        set_up: called once in each process; a function of a module.
        args: arguments of `set_up`.
        advice: what the user is to do when a worker ends too early; the end of the error.
    """

    def __init__(
        self,
        count: int,
        set_up: Callable[..., None] | None = None,
        args: tuple[Any, ...] = (),
        *,
        advice: str = "use fewer processes",
    ):
        self._executor = ProcessPoolExecutor(count, _spawn, _begin_in_pool, (set_up, args))
        self._advice = advice

    def submit(self, function: Callable[..., Result], *args: Any) -> "Future[Result]":
        """Compute `function(*args)`, a function of a module, in a worker.

        Raises:
            WorkerEnded: a worker ended too early: it was killed, for example.
        """
        try:
            with blocked(signal.SIGINT):  # the first task starts the processes
                return self._executor.submit(function, *args)
        except BrokenProcessPool:
            raise worker_ended(self._advice) from None

    def result(self, future: "Future[Result]") -> Result:
        """Wait for a task.

        Raises:
            WorkerEnded: a worker ended too early: it was killed, for example.
            Exception: whatever the task raised.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise worker_ended(self._advice) from None

    def close(self) -> None:
        """Drop waiting tasks and end the processes after the tasks that they are at."""
        self._executor.shutdown(cancel_futures=True)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def run_all(
    work: Callable[[Task, Advance], Result],
    tasks: Sequence[Task],
    processes: int,
    advance: Advance,
    advice: str = "run the same command again, with fewer --processes",
) -> list[Result]:
    """Compute `work(task, advance)` for every task; in worker processes if there are several.

    Args:
        work: a function of a module; it calls `advance` often.
        tasks: they and their results go through pickle.
        processes: the most workers at a time.
        advance: gets the counts from all workers.
        advice: as for `Pool`.

    Returns:
        The results in the order of the tasks.

    Raises:
        WorkerEnded: a worker ended too early: it was killed, for example.
        Exception: whatever the first failed task raised; the other tasks are stopped.
    """
    if processes <= 1 or len(tasks) <= 1:
        return [work(task, advance) for task in tasks]
    queue, stop = _spawn.SimpleQueue(), _spawn.Event()
    with Pool(processes, _begin_task_worker, (queue, stop), advice=advice) as pool:
        try:
            futures = [pool.submit(_call, work, task) for task in tasks]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                while not queue.empty():
                    advance(queue.get())
                for future in done:
                    pool.result(future)
            return [pool.result(future) for future in futures]
        finally:
            stop.set()


def run_alone(function: Callable[..., Result], *args: Any, advice: str) -> Result:
    """Compute `function(*args)` in a new process, which is killed if this one is interrupted.

    Args:
        function: a function of a module.
        args: they and the result go through pickle.
        advice: as for `Pool`.

    Raises:
        WorkerEnded: the process ended before it answered.
        AnchorError: the function raised it.
    """
    ours, theirs = _spawn.Pipe(duplex=False)
    process = _spawn.Process(target=_answer, args=(theirs, function, args), daemon=True)
    _start(process)
    theirs.close()
    try:
        answer = ours.recv()
        process.join(SECONDS_TO_END)
    except EOFError:
        raise worker_ended(advice) from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, AnchorError):
        raise answer
    return answer


def _start(process: Any) -> None:
    with blocked(signal.SIGINT):
        process.start()


# A command that is interrupted in these functions must end them first: a worker of which only half
# is known would be waited for without end.
STARTS_WORKERS = {Pool.submit.__code__, _start.__code__}


# In the workers.


def _begin_in_pool(set_up: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    begin_worker(signal.SIGINT)
    if set_up is not None:
        set_up(*args)


def _begin_task_worker(queue: Any, stop: Any) -> None:
    global _queue, _stop
    _queue, _stop = queue, stop


def _call(work: Callable[[Task, Advance], Result], task: Task) -> Result:
    return work(task, _advance)


def _advance(count: int) -> None:
    if _stop.is_set():
        raise _Stopped
    _queue.put(count)


def _answer(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    begin_worker(signal.SIGINT)
    try:
        answer = function(*args)
    except AnchorError as error:
        answer = error
    pipe.send(answer)
