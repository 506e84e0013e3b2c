"""A run that was stopped and goes on ends as one that was not, to the bit."""

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import psutil
import pytest

from anchor_jax.train.configs import PRESETS
from anchor_jax.train.plan import training_program

from .training import assert_same, changed, train, words

STOPPED = """
import os, sys, time
from anchor_jax import cli
from anchor_jax.data.loader import Batches
read = Batches.__next__
def stop_and_read(batches):
    if batches.get_state()["next_batch"] == int(sys.argv[1]):
        os.killpg(0, int(sys.argv[2]))
        time.sleep(1)  # for those who heard it
    return read(batches)
if __name__ == "__main__":
    Batches.__next__ = stop_and_read
    sys.exit(cli.main(sys.argv[3:]))
"""

COMPILING = """
import sys
from dataclasses import replace
import jax
from anchor_jax import cli
from anchor_jax.train import program
class Endless:
    def lower(self, *args):
        return self
    def compile(self):
        print("compiling", flush=True)
        for i in range(1000000):
            new = lambda x: sum(jax.numpy.sin(x * n) for n in range(i, i + 300))
            jax.jit(new).lower(1.0).compile()
make = program.make_program
if __name__ == "__main__":
    endless = sys.argv.pop(1)
    program.make_program = lambda *args: replace(make(*args), **{endless: Endless()})
    sys.exit(cli.main())
"""


def living(group: int) -> list[psutil.Process]:
    """The processes of a group that has lost its first one, once all had time to end."""
    for _ in range(100):
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                if os.getpgid(process.pid) == group:
                    found.append(process)
            except ProcessLookupError:
                continue
        found = [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]
        if not found:
            break
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(
    ("number", "before", "workers"), [(signal.SIGTERM, 1, 0), (signal.SIGINT, 2, 2)]
)
def test_a_signal_saves_and_leaves(finetuned, fresh, train_data, tmp_path, number, before, workers):
    """Catches a stop that loses its step, data workers that end at Ctrl-C with a traceback and take
    the batch with them, one that lives on, and a run that goes on with other frames, noise or
    moments, or only with as many workers. The signal goes to all processes, as a terminal sends
    it, after `before` steps and before the batch of the next."""
    run, settings = tmp_path / "run", ("--accumulate", "2")
    program = tmp_path / "stopped.py"  # a file: workers import the main module
    program.write_text(STOPPED)
    command = words("finetune", fresh, train_data, run, *settings, "--workers", workers)
    process = subprocess.Popen(
        [sys.executable, program, str(before), str(int(number)), *command],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, told = process.communicate()
    assert process.returncode == 130, told
    assert "Traceback" not in told
    step = before + 1
    last = f"interrupted; step {step} of 4 is saved; repeat the command to continue"
    assert told.splitlines()[-1] == f"anchor-jax: error: {last}"
    assert (run / "checkpoints" / str(step)).is_dir()
    assert not living(process.pid)
    assert train("finetune", fresh, train_data, run, *settings) == 0
    assert_same(run, finetuned, 4)


@pytest.mark.parametrize(
    ("number", "program", "moment", "told"),
    [
        (signal.SIGTERM, "step", "finetune:", "no step was done; repeat the command to continue"),
        (signal.SIGINT, "step", "finetune:", "no step was done; repeat the command to continue"),
        (signal.SIGTERM, "step", "compiling", "is kept; repeat the command to continue"),
        (signal.SIGTERM, "begin", "compiling", "is kept; repeat the command to continue"),
    ],
)
def test_a_signal_ends_a_run_that_compiles(
    fresh, train_data, tmp_path, number, program, moment, told
):
    """Catches a signal that waits for the compiler, one that XLA answers with an abort, another
    exit code than that of a stopped run, a checkpoint of a state that no step has changed, and a
    run of which it is said that nothing was written. The compiler goes on for ever; the signal
    comes while frames are encoded, or when they are."""
    script, seen = tmp_path / "compiling.py", tmp_path / "seen"
    script.write_text(COMPILING)
    run = words("finetune", fresh, train_data, tmp_path / "run")
    with seen.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, script, program, *run], stdout=file, stderr=file
        )
    try:
        while moment not in seen.read_text():
            assert process.poll() is None, seen.read_text()
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    err = seen.read_text()
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("anchor-jax: error: interrupted; ") and last.endswith(told)
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_a_run_goes_on_from_its_last_checkpoint(finetuned, fresh, train_data, tmp_path):
    """Catches data that begin again, a state (moments, average, key) that is not restored, logs
    that keep what was forgotten, and what a killed process left that stays."""
    run = shutil.copytree(finetuned, tmp_path / "run")
    shutil.rmtree(run / "anchor")
    left = run / "checkpoints" / "4.orbax-checkpoint-tmp"
    (run / "checkpoints" / "4").rename(left)  # as Orbax names one that is not complete
    (run / ".anchor.partial-0123").mkdir()
    assert train("finetune", fresh, train_data, run, "--accumulate", "2") == 0
    assert_same(run, finetuned, 4)
    names = lambda folder: {path.name for path in folder.iterdir()}
    assert names(run) == names(finetuned)
    assert names(run / "checkpoints") == names(finetuned / "checkpoints")
    assert not changed(run / "anchor", finetuned / "anchor")


def test_a_moving_average_in_the_memory_of_the_host(finetuned, fresh, train_data, tmp_path):
    """Catches an average that changes with its place, a checkpoint that can be read into one memory
    only, and an option that is ignored."""
    run = shutil.copytree(finetuned, tmp_path / "run")
    shutil.rmtree(run / "anchor")
    shutil.rmtree(run / "checkpoints" / "4")
    settings = ("--accumulate", "2", "--ema-memory", "host")
    assert train("finetune", fresh, train_data, run, *settings) == 0
    assert_same(run, finetuned, 4)
    assert not changed(run / "anchor", finetuned / "anchor")
    _, (kept, _) = training_program(replace(PRESETS["finetune"]["debug"], ema_memory="host"))
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(kept.average)} == {"pinned_host"}
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(kept.params)} == {"device"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(fresh, train_data, tmp_path, workers):
    """Catches half a checkpoint, clip, log or anchor that is taken for a whole one, data that begin
    again or skip what was read ahead, what a killed run leaves behind, and its data workers that
    live on."""
    seed = secrets.randbits(32)
    print(f"seed {seed}, {workers} workers")
    moments = random.Random(seed)

    def start(name: str) -> subprocess.Popen:
        """Start the run; it has just written its config when this returns."""
        more = ("--accumulate", "2", "--steps", 12, "--save-every", 1, "--validate-every", 5)
        more += ("--workers", workers, "--encodings", tmp_path / f"{name}-encodings")
        config = tmp_path / name / "config.json"
        before = config.stat().st_mtime_ns if config.exists() else 0
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "anchor_jax.cli"),
                *words("finetune", fresh, train_data, tmp_path / name, *more),
            ],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not config.exists() or config.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.01)
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert start("whole").wait() == 0
    lasts = time.monotonic() - began
    kills, reached = 0, []
    while kills < 10:
        process = start("killed")
        try:
            process.wait(moments.uniform(0, lasts))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        assert not living(process.pid)
        steps = [int(p.name) for p in killed.glob("checkpoints/*") if p.name.isdigit()]
        reached.append(max(steps, default=0))
        if kills < 10 and not (killed / "anchor").exists():
            continue
        assert start("killed").wait() == 0
        assert_same(killed, whole, 12)
        assert not changed(killed / "anchor", whole / "anchor")
        for folder in ("", "checkpoints"):
            assert set(os.listdir(killed / folder)) == set(os.listdir(whole / folder))
        shutil.rmtree(killed)
        shutil.rmtree(tmp_path / "killed-encodings")
    print(f"checkpoints when it was killed or done: {reached}")
