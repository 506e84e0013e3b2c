"""Worker processes."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from anchor_jax import processes
from anchor_jax.errors import AnchorError
from anchor_jax.processes import Pool, WorkerEnded, run_all, run_alone


def square(number: int, advance=None) -> int:
    if advance is not None:
        advance(number)
    return number**2


def refuse(number: int, advance=None) -> int:
    if number == 1:
        raise AnchorError("one is refused")
    while advance is not None:  # until it is stopped
        advance(1)
        time.sleep(0.01)
    return number


def die(*_: object) -> None:
    os._exit(9)


def fail(*_: object) -> None:
    raise ValueError("a mistake")


def blocked_signals() -> set[int]:
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def ignored() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_results_come_in_the_order_of_the_tasks():
    """Catches results in the order in which they are ready, and counts that get lost."""
    for count in (1, 2):
        counts: list[int] = []
        assert run_all(square, range(5), count, counts.append) == [0, 1, 4, 9, 16]
        assert sum(counts) == 10


def test_a_failure_stops_the_other_tasks():
    """Catches a wait for tasks that nobody needs, and an error that gets lost."""
    with pytest.raises(AnchorError, match="one is refused"):
        run_all(refuse, [0, 1], 2, lambda count: None)


def test_a_killed_worker_is_one_line():
    """Catches a wait without end, or a traceback, where the system kills for lack of memory."""
    with pytest.raises(WorkerEnded, match=r"ended too early, .*; try again"):
        run_all(die, [0, 1], 2, lambda count: None, advice="try again")
    with pytest.raises(WorkerEnded, match=r"ended too early, .*; try again"):
        run_alone(die, advice="try again")


def test_a_broken_pool_is_one_line():
    """Catches a traceback where a task is given to a pool whose workers are gone."""
    with Pool(1, advice="try again") as pool:
        with pytest.raises(WorkerEnded):
            pool.result(pool.submit(die))
        with pytest.raises(WorkerEnded, match="try again"):
            pool.submit(square, 1)


def test_a_pool_whose_set_up_fails_is_one_line():
    """Catches a pool that waits for ever for processes that cannot begin."""
    with Pool(1, fail) as pool, pytest.raises(WorkerEnded):
        pool.result(pool.submit(square, 1))


def test_an_answer_of_one_process():
    """Catches a process that computes here, and an error that is not passed on."""
    assert run_alone(os.getpid, advice="") != os.getpid()
    with pytest.raises(AnchorError, match="one is refused"):
        run_alone(refuse, 1, advice="")


def test_workers_never_hear_ctrl_c():
    """Catches a worker that ends with a traceback at Ctrl-C: before its first line it has to be
    blocked there, and here it must be heard again."""
    before = blocked_signals()
    with Pool(1) as pool:
        assert signal.SIGINT in pool.result(pool.submit(blocked_signals))
        assert pool.result(pool.submit(ignored))
    assert signal.SIGINT in run_alone(blocked_signals, advice="")
    assert run_alone(ignored, advice="")
    assert blocked_signals() == before and signal.SIGINT not in before


PARENT = """
import sys, time
from anchor_jax.processes import Pool, run_alone
if __name__ == "__main__":
    if sys.argv[1] == "pool":
        pool = Pool(2)
        [pool.submit(time.sleep, 600) for _ in range(2)]
        print("started", flush=True)
        time.sleep(600)
    else:
        print("started", flush=True)
        run_alone(time.sleep, 600, advice="")
"""


@pytest.mark.parametrize("kind", ["pool", "alone"])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, kind):
    """Catches workers that live on, with their memory, when the command is killed."""
    program = tmp_path / "parent.py"  # a file: workers import the main module
    program.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, program, kind], stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert parent.stdout.readline() == b"started\n"
        children: list[psutil.Process] = []
        while len(children) < (3 if kind == "pool" else 2):  # the resource tracker is one
            children = psutil.Process(parent.pid).children()
            time.sleep(0.05)
        time.sleep(1.0)  # until they watch
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in alive)


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch):
    """Catches a crash on macOS, which has no `os.sched_getaffinity`."""
    assert processes.num_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processes.num_cores() == 1
