"""Progress of long work: one protocol, and bars and clocks on standard error.

A function that takes long has a parameter `progress: Progress` and opens a bar for each part of its
work; a part that only counts gets the opened bar, `advance: Advance`.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tqdm import tqdm

Advance = Callable[[int], None]  # called with the amount of work done since the last call
Progress = Callable[[str, int, str], AbstractContextManager[Advance]]  # what, total, unit of total

BYTES = "B"  # the unit of bars that count bytes; they show kB, MB and GB


def no_advance(count: int) -> None:
    """An `Advance` that shows nothing."""


@contextmanager
def silent(what: str, total: int, unit: str) -> Iterator[Advance]:
    """A `Progress` that shows nothing."""
    yield no_advance


def bars(show: bool | None = True, count: int | None = None, delay: int = 0) -> Progress:
    """Make a `Progress` that shows a bar with rate and time left.

    Args:
        show: False shows nothing, None shows bars on a terminal only.
        count: how many bars there will be; they are then numbered: `1/5 denoising`.
        delay: seconds before a bar appears.
    """
    numbers = itertools.count(1)

    def progress(what: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        label = what if count is None else f"{next(numbers)}/{count} {what}"
        return open_bar(label, total, unit, show=show, delay=delay)

    return progress


def within(advance: Advance) -> Progress:
    """Make a `Progress` for parts of a work whose bar is open: their counts go to that bar."""

    @contextmanager
    def progress(what: str, total: int, unit: str) -> Iterator[Advance]:
        yield advance

    return progress


class Bar:
    """An open bar; calling it with a count advances it."""

    def __init__(self, bar: tqdm):
        self._bar = bar

    def __call__(self, count: int) -> None:
        self._bar.update(count)

    def note(self, **values: str) -> None:
        """Show `values` behind the bar."""
        self._bar.set_postfix(values)


@contextmanager
def open_bar(
    what: str,
    total: int | None,
    unit: str,
    *,
    show: bool | None = True,
    done: int = 0,
    delay: int = 0,
    smoothing: float = 0.1,
) -> Iterator[Bar]:
    """Show one bar while the block runs.

    Args:
        what: label.
        total: amount of work; None if it is unknown.
        unit: of `total` and of the counts; `BYTES` for bytes.
        show: as for `bars`.
        done: work that an earlier run did, which the rate leaves out.
        delay: seconds before the bar appears.
        smoothing: weight of the latest step in the rate, 0 (average of all) to 1.
    """
    with tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == BYTES,
        delay=delay,
        smoothing=smoothing,
        disable=None if show is None else not show,
    ) as bar:
        yield Bar(bar)


@contextmanager
def open_clock(what: str, *, show: bool = True, delay: float = 2.0) -> Iterator[Callable[[], None]]:
    """Show how long work lasts that cannot be counted: `compiling: 00:12`.

    Args:
        what: label.
        show: False shows nothing.
        delay: seconds before the clock appears. It disappears when the block ends.

    Yields:
        A function that shows the time; call it about twice a second.
    """
    with tqdm(
        desc=what,
        bar_format="{desc}: {elapsed}",
        delay=delay,
        mininterval=0.0,
        miniters=0,
        leave=False,
        disable=not show,
    ) as bar:

        def tick() -> None:
            if bar.update(0):  # it was shown; a log gets a line every half minute
                bar.mininterval = 1.0 if sys.stderr.isatty() else 30.0

        yield tick
