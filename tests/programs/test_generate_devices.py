"""A video that several devices or processes generate together is that of one device."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from anchor_jax.data import video

POSES = np.random.default_rng(1).integers(0, 256, (19, 32, 32, 3), np.uint8)
SETTINGS = ("--steps", "2", "--window", "4", "--overlap", "1", "--guidance", "7.5")  # 7 windows

# Generates with one and with eight devices, and counts the collectives of the networks' programs.
EIGHT = """
import importlib, re, sys
import jax, numpy as np
import anchor_jax
from anchor_jax.generation import autoencoder

sample = importlib.import_module("anchor_jax.diffusion.sample")
anchor, poses, out = sys.argv[1:]
assert jax.device_count() == 8
calls = []
def recorded(program):
    def call(*args):
        calls.append((call, args))
        return program(*args)
    call.lower = program.lower
    return call
sample.predict_windows = recorded(sample.predict_windows)
autoencoder.decode_pixels = recorded(autoencoder.decode_pixels)

anchor, poses = anchor_jax.load(anchor), np.load(poses)
picture = poses[0]
settings = {"steps": 2, "window": 4, "overlap": 1, "guidance": 7.5}
one = anchor_jax.generate(anchor, poses, picture, devices=1, **settings)
calls.clear()
all_of_them = np.stack(list(anchor_jax.stream(anchor, poses, picture, **settings)))
np.savez(out, one=one, all=all_of_them)

windows = [program for program, args in calls if program is sample.predict_windows]
assert len(windows) == 2, "seven windows on eight devices are one call a step"
for program, args in (calls[0], calls[-1]):
    text = program.lower(*args).compile().as_text()
    names = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    print(len(re.findall(rf" (?:{names})(?:-start)?[(]", text)))
"""


def start(devices: int, words: Sequence[str]) -> subprocess.Popen:
    """A Python process that sees so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_eight_devices_make_the_video_of_one(anchor, tmp_path):
    """Catches windows that change places, a repeated window that counts, devices that each predict
    all windows, rows that are missing in a batch of the decoder, and a collective more than the
    one that gathers the results."""
    np.save(tmp_path / "poses.npy", POSES)
    out = tmp_path / "frames.npz"
    process = start(8, ["-c", EIGHT, str(anchor), str(tmp_path / "poses.npy"), str(out)])
    collectives, told = process.communicate()
    assert process.returncode == 0, told
    assert collectives.split() == ["1", "1"]
    frames = np.load(out)
    np.testing.assert_allclose(frames["all"].astype(int), frames["one"], atol=1)
    assert frames["one"].std() > 10


def test_two_processes_make_the_video_of_one(anchor, person, tmp_path):
    """Catches processes that take each other's windows, and a second one that writes too."""
    video.write_frames(tmp_path / "poses", POSES)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"

    def words(name: str, *more: str) -> list[str]:
        places = ["--poses", tmp_path / "poses", "--appearance", person]
        places += ["--out", tmp_path / f"{name}.mp4", "--frames-dir", tmp_path / name]
        return ["-m", "anchor_jax.cli", "generate", *map(str, [anchor, *places]), *SETTINGS, *more]

    runs = [
        start(1, words("one")),
        start(1, words("two", "--coordinator", f"{address},2,0")),
        start(1, words("second", "--coordinator", f"{address},2,1")),
    ]
    told = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(told)
    one, two = (video.read_frames(tmp_path / name)[0] for name in ("one", "two"))
    np.testing.assert_allclose(two.astype(int), one, atol=1)
    assert not any(Path(tmp_path).glob("second*"))


@pytest.mark.parametrize(("devices", "expected"), [(0, "at least 1"), (99, "1 to 1, which JAX")])
def test_devices_that_are_not_there(generate, capsys, devices, expected):
    """Catches a traceback."""
    assert generate(devices=devices) == 2
    assert f"devices is {devices}: expected {expected}" in capsys.readouterr().err
