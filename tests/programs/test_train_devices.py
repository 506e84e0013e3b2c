"""A run on several devices or in several processes has the losses of a run on one."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from .training import logged, train, words

pytestmark = pytest.mark.slow  # each compiles the networks anew

SETTINGS = ("--steps", 5, "--batch-size", 16, "--accumulate", 2, "--validate-every", 0)


def start(devices: int, command: Sequence[str]) -> subprocess.Popen:
    """The command in a process that sees so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "anchor_jax.cli", *command],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def one(fresh, train_data, tmp_path_factory) -> Path:
    """The run on one device. Do not write here."""
    out = tmp_path_factory.mktemp("one") / "run"
    assert train("finetune", fresh, train_data, out, *SETTINGS) == 0
    return out


def assert_same_losses(ours: Path, theirs: Path, *, in_order: bool = True) -> None:
    """And gradient norms, and the same frames, perhaps at other places in the batch."""
    found, expected = ([line for line in logged(run) if "loss" in line] for run in (ours, theirs))
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    for line, other in zip(found, expected, strict=True):
        frames = [line["frames"], other["frames"]]
        first, second = frames if in_order else map(sorted, frames)
        assert first == second
        assert line.keys() == other.keys()
        for name in line:
            if name != "frames":
                np.testing.assert_allclose(line[name], other[name], rtol=1e-5, err_msg=name)


HOST = "--ema-memory", "host"


@pytest.mark.parametrize("more", [(), ("--fsdp", *HOST)], ids=["whole", "fsdp"])
def test_eight_devices_have_the_losses_of_one(one, fresh, train_data, tmp_path, more):
    """Catches a mean over means of unequal parts, noise that hangs on the device, gradients that
    are not summed over devices, and parameters that are put together wrongly, also if the moving
    average is in the memory of the host."""
    run = tmp_path / "run"
    process = start(8, words("finetune", fresh, train_data, run, *SETTINGS, *more))
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert_same_losses(run, one)


def test_two_processes_have_the_losses_of_one(one, fresh, train_data, tmp_path):
    """Catches processes that read the same frames, a second one that writes over the first one's
    logs, a checkpoint or an anchor with half of the parameters, and what a process encodes in the
    step taken for the rows of all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    run = tmp_path / "run"
    command = words("finetune", fresh, train_data, run, *SETTINGS, "--fsdp", "--no-cached")
    processes = [start(1, [*command, "--coordinator", f"{address},2,{i}"]) for i in range(2)]
    told = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    assert_same_losses(run, one, in_order=False)
