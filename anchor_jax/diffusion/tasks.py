"""Which window is predicted when. A task is one denoising step of one window.

The windows of a step do not depend on each other. A window at step s needs its frames after step
s - 1, that is, its own prediction and those of the windows that start inside it, one step earlier:

    (window i, step s) needs (windows i to i + reach, step s - 1)

with `reach` 1 if windows overlap by at most half. The windows before window i have the same frames
too, but the windows of a step always come in their order. Within these limits tasks may have any
order. Two are built in. "steps" is the order of algorithm 1 of the paper: all windows at a step,
then the next step. "wave" takes each window as far as its neighbours allow: finished frames leave
at one end while new ones enter at the other, and only a fixed number of windows is in work.
"""

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal, NamedTuple

Order = Literal["steps", "wave"]


class Task(NamedTuple):
    """The prediction of a window at a step; both count from 0."""

    window: int
    step: int


class Line(NamedTuple):
    """What the plan of a video of any length depends on.

    Attributes:
        steps: denoising steps.
        reach: how many of the next windows start inside a window.
        group: most tasks of a group.
    """

    steps: int
    reach: int
    group: int

    @property
    def capacity(self) -> int:
        """Windows that are in work at once at most, in the order "wave"."""
        return 2 * self.group + self.steps * self.reach


def group_size(steps: int, largest: int) -> int:
    """Return the size of groups, at most `largest`. It divides the number of steps, and so the
    number of tasks, whatever the number of windows is.

    >>> group_size(20, 4), group_size(10, 4), group_size(7, 4)
    (4, 2, 1)
    """
    return max(size for size in range(1, largest + 1) if steps % size == 0)


def plan_groups(
    line: Line,
    has_window: Callable[[int], bool],
    order: Order = "wave",
    done: list[int] | None = None,
) -> Iterator[list[Task]]:
    """List the tasks in groups. The tasks of a group do not depend on each other; those of a step
    come in the order of the windows.

    Groups are full, unless the video is too short for that, or windows overlap by more than half:
    then up to one group in all is missing.

    Args:
        line: steps, reach and size of a group.
        has_window: whether the video has window i. It is asked for 0, 1, ... as late as possible,
            since it may have to wait for the frames.
        order: see the module.
        done: how many windows of each step are done. If it is given, the plan goes on from there,
            and the list is kept up to date: it includes the tasks of the group that is yielded.
    """
    done = [0] * line.steps if done is None else done
    if not line.reach and order == "wave":
        yield from _plan_alone(line, has_window, done)
        return
    reach = line.reach
    total: int | None = None  # windows of the video, once known
    while total is None or done[-1] < total:
        taken, group = list(done), []
        while len(group) < line.group:
            if total is None and not has_window(taken[0]):
                total = taken[0]
            end = math.inf if total is None else total
            ready = [
                step
                for step, window in enumerate(taken)
                if window < end and (step == 0 or done[step - 1] >= min(window + reach + 1, end))
            ]
            if not ready:
                break
            step = max(ready) if order == "wave" and done[0] < end else min(ready)
            group.append(Task(taken[step], step))
            taken[step] += 1
        done[:] = taken
        if group:
            yield group


def _plan_alone(
    line: Line, has_window: Callable[[int], bool], done: list[int]
) -> Iterator[list[Task]]:
    """List the tasks of windows that do not overlap. Each could go through all steps alone; they do
    so side by side, as many as a group has. The last ones, fewer than two groups, leave together,
    so that no group is missing tasks."""
    while True:
        start = done[-1] // line.group * line.group
        if has_window(start + 2 * line.group - 1):
            end = start + line.group
        else:
            end = next(i for i in count(start) if not has_window(i))
            start = max(0, end // line.group - 1) * line.group
        tasks = [Task(window, step) for step in range(line.steps) for window in range(start, end)]
        left = [task for task in tasks if task.window >= done[task.step]]
        if not left:
            return
        for first in range(0, len(left), line.group):
            group = left[first : first + line.group]
            for task in group:
                done[task.step] += 1
            yield group
