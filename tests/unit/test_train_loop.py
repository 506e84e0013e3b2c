"""When the training loop saves, without networks: the clock and the checkpoints are stand-ins."""

from dataclasses import replace
from typing import Any

import pytest

from anchor_jax.data.loader import Batches
from anchor_jax.errors import AnchorError
from anchor_jax.train import loop
from anchor_jax.train.configs import FREE, PRESETS, LoopConfig
from anchor_jax.training.checkpoints import Checkpoints
from anchor_jax.training.step import State

JOB = replace(PRESETS["finetune"]["small"], steps=100, save_every=40)  # every 5 minutes


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Saved(Checkpoints):
    """Remembers the steps that are saved, and writes nothing."""

    def __init__(self):
        self.steps: list[int] = []

    def latest(self) -> int | None:
        return None

    def save(self, step: int, state: State, data: dict[str, Any], score: float | None) -> None:
        self.steps.append(step)


class Data(Batches):
    """Data without a position."""

    def __init__(self):
        pass

    def get_state(self) -> dict[str, Any]:
        return {}


def run(job: LoopConfig, seconds: float, steps: int = 100) -> list[int]:
    """The steps that are saved, if each step takes `seconds`."""
    clock, saved = Clock(), Saved()
    saver = loop._Saver(job, saved, Data(), clock)
    for number in range(1, steps + 1):
        clock.now += seconds
        if saver.due(number):
            saver.save(number, State(number, 0, {}, {}, None), None)
    assert saver.last == (saved.steps or [None])[-1]
    return saved.steps


def test_a_checkpoint_at_least_every_five_minutes():
    """Catches slow steps of which a kill costs more than five minutes, fast ones that are saved
    more often than by their number, a clock that a checkpoint by steps does not restart, and an
    interval that cannot be changed or turned off."""
    assert run(JOB, 1) == [40, 80, 100]
    assert run(JOB, 20) == [15, 30, 40, 55, 70, 80, 95, 100]
    assert run(replace(JOB, save_minutes=10.0), 20) == [30, 40, 70, 80, 100]
    assert run(replace(JOB, save_minutes=0.0), 1000) == [40, 80, 100]
    assert "save_minutes" in FREE  # it may change when a run continues
    with pytest.raises(AnchorError, match=r"save_minutes is -1.0: expected at least 0"):
        replace(JOB, save_minutes=-1.0)


def test_several_processes_save_the_same_step(monkeypatch):
    """Catches a process that saves by its own clock, which leaves the others waiting for ever, and
    processes that wait for each other in every step."""
    asked = []

    def any_process(flag: bool) -> bool:
        asked.append(flag)
        return len(asked) == 3  # another process's clock is ahead

    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)
    monkeypatch.setattr(loop, "any_process", any_process)
    assert run(JOB, 1, 30) == [15]
    assert asked == [False] * 6
