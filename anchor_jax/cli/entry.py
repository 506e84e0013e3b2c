"""Run a command line: the table of commands, one-line errors, Ctrl-C and SIGTERM.

A command is a dataclass. Tyro makes its fields the options, and its method `run` does the work.
Heavy imports are inside `run`, so that `--help` answers at once.
"""

import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import tyro

import anchor_jax
from anchor_jax.cli.bench import Bench
from anchor_jax.cli.convert import Convert
from anchor_jax.cli.demo import Demo
from anchor_jax.cli.evaluate import Evaluate
from anchor_jax.cli.export import Export
from anchor_jax.cli.generate import Generate
from anchor_jax.cli.inspect import Inspect
from anchor_jax.cli.options import help_text
from anchor_jax.cli.plan import Plan
from anchor_jax.cli.prepare import Prepare
from anchor_jax.cli.render import Render
from anchor_jax.cli.store import Store
from anchor_jax.cli.train import Train, run_training
from anchor_jax.errors import EXIT_INTERRUPTED, AnchorError
from anchor_jax.memory import MEMORY_SHARE
from anchor_jax.processes import STARTS_WORKERS
from anchor_jax.threads import leave_with

_EXIT_BAD_INPUT = 2
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells report it

_COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "convert": Convert,
    "export": Export,
    "inspect": Inspect,
    "store": Store,
    "render": Render,
    "prepare": Prepare,
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
    "bench": Bench,
    "plan": Plan,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the words after `anchor-jax`; None takes those of the process.

    Returns:
        The exit code: 0 if the output is complete, 2 for bad input, 130 after Ctrl-C or
        SIGTERM, 141 if the reader of standard output closed it.
    """
    if argv is None:
        # Tracing makes a million objects that stay, and at each collection all are looked at again:
        # with the default of 700 this took 1.5 seconds of `demo --fast`.
        gc.set_threshold(100_000, 20, 10)
    code = _run_to_pipe(argv)
    if argv is None:  # else the process goes on
        leave_with(code)
    return code


def _run_to_pipe(argv: Sequence[str] | None) -> int:
    """Run a command line whose output is perhaps no longer read; return the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # raises here, not when the interpreter ends
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _fail(error.strerror or str(error), _EXIT_BAD_INPUT)
        # Standard output is flushed again at the end of the process, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE


def _run(argv: Sequence[str] | None) -> int:
    """Run a command line and print its errors; return the exit code."""
    _use_whole_device()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if name in {"-h", "--help"}:
            print(_overview())
        elif name == "--version":
            print(f"anchor-jax {anchor_jax.__version__}")
        elif name not in _COMMANDS:
            raise AnchorError(f"unknown command {name}; expected one of {', '.join(_COMMANDS)}")
        else:
            with _interruptible():
                if name == "train":
                    run_training(rest)
                else:
                    _read_command(name, rest).run()
    except AnchorError as error:
        return _fail(str(error), _EXIT_BAD_INPUT)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, no permission
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", _EXIT_BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted; {str(interrupt) or 'nothing was written'}", EXIT_INTERRUPTED)
    return 0


def _use_whole_device() -> None:
    """Let JAX reserve most of a GPU's memory, unless the user has set a share."""
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(MEMORY_SHARE))


def _read_command(name: str, words: Sequence[str]) -> Any:
    """Parse the words of a command; `--help` and mistakes end the program."""
    command = _COMMANDS[name]
    text = help_text(command)
    return tyro.cli(command, prog=f"anchor-jax {name}", description=text, args=list(words))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, and on SIGTERM, at any moment.

    Only the first SIGTERM counts, because `timeout` sends two: the second must not end the removal
    of partial files.

    Python ignores exceptions in what the garbage collector calls: finalizers, callbacks of weak
    references, and those that JAX registers. An interrupt that is lost there, or that arrives while
    a worker process is started, is raised a little later.
    """

    def later() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        while frame is not None:
            if frame.f_code in STARTS_WORKERS:
                return later()
            frame = frame.f_back
        raise KeyboardInterrupt

    def ignored(error: Any) -> None:
        if issubclass(error.exc_type, KeyboardInterrupt):
            later()
        else:
            hook(error)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
    before = {number: signal.signal(number, interrupt) for number in numbers}
    hook, sys.unraisablehook = sys.unraisablehook, ignored
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # without a handler SIGALRM ends the process
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _overview() -> str:
    """Format the help of `anchor-jax`, with the first line of each command."""
    lines = [f"  {name:<10}{help_text(c).splitlines()[0]}" for name, c in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: anchor-jax COMMAND ...",
            "",
            "Make-Your-Anchor in JAX: body motion and a picture in, video out.",
            "",
            *lines,
            "",
            "anchor-jax COMMAND --help shows the options, with examples. anchor-jax --version",
        ]
    )


def _stdout_is_closed() -> bool:
    """Return whether the reader of standard output has closed its pipe or socket."""
    with suppress(OSError, ValueError):  # standard output has no file descriptor
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        closed = select.POLLERR | select.POLLHUP  # of a pipe, of a socket
        return any(event & closed for _, event in poll.poll(0))
    return False


def _fail(message: str, code: int) -> int:
    """Print an error and return `code`."""
    with suppress(BrokenPipeError):  # nobody reads standard error: the code still tells
        print(f"anchor-jax: error: {message}", file=sys.stderr)
    return code
