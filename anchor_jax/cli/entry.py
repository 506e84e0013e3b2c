"""The entry point: the table of commands, errors as one line, Ctrl-C.

Every command is a dataclass whose fields are its options, read by tyro, and whose `run` does it.
Heavy imports happen inside `run`, so that `--help` answers at once.
"""

import gc
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import tyro

import anchor_jax
from anchor_jax.cli.bench import Bench
from anchor_jax.cli.convert import Convert
from anchor_jax.cli.demo import Demo
from anchor_jax.cli.export import Export
from anchor_jax.cli.generate import Generate
from anchor_jax.cli.inspect import Inspect
from anchor_jax.cli.options import help_text
from anchor_jax.cli.prepare import Prepare
from anchor_jax.cli.render import Render
from anchor_jax.cli.train import Train, run_training
from anchor_jax.errors import AnchorError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "convert": Convert,
    "export": Export,
    "inspect": Inspect,
    "render": Render,
    "prepare": Prepare,
    "train": Train,
    "generate": Generate,
    "bench": Bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only when the output is complete."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if name in {"-h", "--help"}:
            print(_overview())
        elif name == "--version":
            print(f"anchor-jax {anchor_jax.__version__}")
        elif name not in COMMANDS:
            raise AnchorError(f"unknown command {name}; expected one of {', '.join(COMMANDS)}")
        else:
            with _interruptible():
                if name == "train":
                    run_training(rest)
                else:
                    read_command(name, rest).run()
    except AnchorError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:  # a full disk, no permission
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", EXIT_BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted; {str(interrupt) or 'nothing was written'}", EXIT_INTERRUPTED)
    return 0


def read_command(name: str, words: Sequence[str]) -> Any:
    """The dataclass of a command, of its command line; `--help` and mistakes end the program."""
    command = COMMANDS[name]
    text = help_text(command)
    return tyro.cli(command, prog=f"anchor-jax {name}", description=text, args=list(words))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through at any moment. Jax calls back from the garbage collector, where Python
    drops exceptions: one that arrives there is raised a little later."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        collectors = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        while frame is not None:
            if frame.f_code in collectors:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _overview() -> str:
    lines = [f"  {name:<10}{help_text(c).splitlines()[0]}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: anchor-jax COMMAND ...",
            "",
            "Make-Your-Anchor in JAX: body motion and a picture in, video out.",
            "",
            *lines,
            "",
            "anchor-jax COMMAND --help tells more, with examples. anchor-jax --version",
        ]
    )


def _fail(message: str, code: int) -> int:
    print(f"anchor-jax: error: {message}", file=sys.stderr)
    return code
