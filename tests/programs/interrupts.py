"""Ctrl-C and SIGTERM at a command that has processes of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil


def interrupt(words: list[str], ready: Callable[[int], object], number: int = signal.SIGINT) -> str:
    """Start a command, send a signal to all of its processes and give what it wrote to stderr.

    Asserts that it ends with 130 and no traceback, and that none of at least two helpers lives on.

    Args:
        words: the command line after `anchor-jax`.
        ready: of the command's process id, true when it is time.
        number: the signal.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "anchor_jax.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not ready(process.pid):
            assert process.poll() is None
            time.sleep(0.02)
        helpers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, number)  # to every process, as a terminal and `timeout` do
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(helpers) >= 2
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert all(helper.status() == psutil.STATUS_ZOMBIE for helper in alive)
    return err
