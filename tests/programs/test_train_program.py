"""The loop of `anchor-jax train`: what overlaps, and the program that it compiles."""

import json
from dataclasses import replace

import jax
import pytest

from anchor_jax import checkpoint
from anchor_jax.compiling import Compilation
from anchor_jax.data.loader import Batches
from anchor_jax.train import loop, plan, program, stage
from anchor_jax.train.configs import PRESETS

from .training import logged, train


@pytest.fixture
def seen(monkeypatch) -> list[tuple[str, int]]:
    """What a run does, in order: batches that are read, steps that are looked at, and saved."""
    found = []
    read, check, save = Batches.__next__, loop._check_finite, loop.Checkpoints.save

    def reading(batches: Batches):
        found.append(("read", batches.get_state()["next_batch"] + 1))
        return read(batches)

    def checking(number: int, metrics):
        found.append(("look", number))
        check(number, metrics)

    def saving(checkpoints, number: int, *args):
        found.append(("save", number))
        save(checkpoints, number, *args)

    monkeypatch.setattr(Batches, "__next__", reading)
    monkeypatch.setattr(loop, "_check_finite", checking)
    monkeypatch.setattr(loop.Checkpoints, "save", saving)
    return found


def test_a_step_is_looked_at_when_the_next_has_begun(seen, finetuned, fresh, train_data, tmp_path):
    """Catches a loop that waits for every step before it reads the next batch, a state that is
    saved before it is known to be finite, and a last step that is not looked at."""
    settings = ("--accumulate", "2", "--save-every", "3", "--validate-every", "0")
    assert train("finetune", fresh, train_data, tmp_path / "run", *settings) == 0
    first = [("read", 1), ("read", 2), ("look", 1), ("read", 3), ("look", 2)]
    assert seen == [*first, ("look", 3), ("save", 3), ("read", 4), ("look", 4), ("save", 4)]
    losses = lambda run: [line["loss"] for line in logged(run) if "loss" in line]
    assert losses(tmp_path / "run") == losses(finetuned)


def test_what_is_encoded_in_a_step_stays_on_the_device(fresh, train_data, tmp_path, monkeypatch):
    """Catches encodings that go to the host and back, for which the host waits."""
    made, inputs_of = [], stage._step_inputs

    def spied(*args):
        made.append(inputs_of(*args))
        return made[-1]

    monkeypatch.setattr(stage, "_step_inputs", spied)
    assert train("face", fresh, train_data, tmp_path / "run", "--no-cached", "--steps", "1") == 0
    (inputs,) = made
    on_device = {name for name, value in inputs.items() if isinstance(value, jax.Array)}
    assert on_device == {"posterior", "tokens", "masked_posterior"}


@pytest.mark.parametrize("name", ["finetune", "face"])
def test_a_plan_is_of_the_program_that_runs(name, fresh, train_data, tmp_path, monkeypatch):
    """Catches a plan of other inputs, another optimizer or another loss than the run's, and a type
    that is left open in the settings of a run."""
    compiled = []

    def spied(jitted, *args):
        compiled.append(jitted.lower(*args).as_text())
        return Compilation(jitted, *args)

    monkeypatch.setattr(program, "Compilation", spied)
    settings = ("--accumulate", "2", "--steps", "1", "--validate-every", "0")
    assert train(name, fresh, train_data, tmp_path / "run", *settings) == 0
    job = replace(PRESETS[name]["debug"], accumulate=2, steps=1)
    header = checkpoint.load(fresh, networks=())
    step, arguments = plan.training_program(job, header, name, (32, 32))
    assert step.lower(*arguments).as_text() == compiled[0]
    content = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert content["settings"]["dtype"] == "float32"
