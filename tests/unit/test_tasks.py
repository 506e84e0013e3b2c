"""The order of tasks: what a window needs is there, nothing is computed twice or for nothing."""

import itertools

import pytest

from anchor_jax.diffusion.tasks import Line, Task, group_size, plan_groups

LENGTHS = [*range(1, 40), 100]  # in windows


def plan(line: Line, windows: int, order) -> list[list[Task]]:
    return list(plan_groups(line, lambda window: window < windows, order))


def short(line: Line, windows: int) -> bool:
    """Whether sampling takes groups of one window, since so few windows cannot fill others."""
    return windows < line.group + max(line.reach, 1)


@pytest.mark.parametrize("order", ["steps", "wave"])
@pytest.mark.parametrize("reach", [0, 1, 2, 5])
@pytest.mark.parametrize(("steps", "group"), [(1, 1), (2, 2), (5, 1), (6, 3), (10, 2), (20, 4)])
def test_every_task_is_done_once_after_what_it_needs(steps, group, reach, order):
    """Catches a window that reads frames of an earlier or a later step, sums that are added in
    another order, a task that is left out or done twice, a ring that is too small, and groups with
    room left."""
    line = Line(steps, reach, group)
    for windows in LENGTHS:
        if short(line, windows):
            line = line._replace(group=1)
        done = [0] * steps
        groups = plan(line, windows, order)
        for tasks in groups:
            before = list(done)
            for window, step in tasks:
                assert window == done[step], "windows of a step come in their order"
                if step:
                    assert before[step - 1] >= min(window + reach + 1, windows)
                done[step] += 1
            if order == "wave":
                assert min(done[0] + reach, windows) - before[-1] <= line.capacity
        assert done == [windows] * steps
        empty = sum(line.group - len(tasks) for tasks in groups)
        assert empty == 0 if reach <= 1 else empty <= line.group
        line = Line(steps, reach, group)


def test_the_steps_are_those_of_algorithm_1():
    """Catches another order of "steps". Nine windows of three steps are nine groups of three."""
    groups = plan(Line(3, 1, 3), 9, "steps")
    assert [len(tasks) for tasks in groups] == [3] * 9
    assert [task for tasks in groups for task in tasks] == [
        Task(window, step) for step, window in itertools.product(range(3), range(9))
    ]


def test_a_wave_finishes_frames_while_others_enter():
    """Catches a wave that waits for the end of the video, and one that asks for frames before it
    needs them."""
    asked = []

    def has_window(window: int) -> bool:
        asked.append(window)
        return True

    line = Line(steps=4, reach=1, group=2)
    groups = plan_groups(line, has_window)
    tasks = itertools.chain.from_iterable(groups)
    first = next(count for count, task in enumerate(tasks, 1) if task.step == 3)
    assert first <= 4 * line.capacity
    assert max(asked) <= line.capacity


def test_group_sizes_divide_the_steps():
    """Catches a size that leaves the last group of a step with room."""
    for steps in range(1, 60):
        size = group_size(steps, 4)
        assert steps % size == 0 and size <= 4
        assert all(steps % larger for larger in range(size + 1, 5))
