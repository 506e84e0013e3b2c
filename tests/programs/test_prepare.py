"""`anchor-jax prepare` as a user runs it: what it makes, how it goes on, how it refuses."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from anchor_jax import cli
from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from tests.full_disk import largest_file
from tests.programs.interrupts import interrupt
from tests.programs.test_generate import one_error

NUM_FRAMES = 330  # of the first video: clips of 300 and 30 frames


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Two videos of 32x32 with their poses. Do not write here."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, (name, count) in enumerate({"a": NUM_FRAMES, "b": 40}.items()):
        video.write_video(folder / f"{name}.mp4", noise(count, seed), Fraction(30))
        video.write_frames(folder / f"{name}-poses", noise(count, seed + 10))
    return folder


def arguments(inputs: Path, out: Path, *more: str) -> list[str]:
    """The command line that prepares both videos."""
    names = ("a", "b")
    return [
        *("prepare", *(str(inputs / f"{name}.mp4") for name in names)),
        *("--poses", *(str(inputs / f"{name}-poses") for name in names)),
        *("--size", "32", "--processes", "1", "--out", str(out), *more),
    ]


def digests(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory) -> Path:
    """The data set of an uninterrupted run. Do not write here."""
    out = tmp_path_factory.mktemp("made") / "data"
    assert cli.main(arguments(inputs, out)) == 0
    return out


def test_videos_become_a_data_set_that_is_looked_at(inputs, tmp_path, capsys):
    """Catches frames that are lost, sheets or checks left out, and leftovers."""
    out = tmp_path / "data"
    assert cli.main(arguments(inputs, out, "--preview", "--verify")) == 0
    assert f"{out}: {NUM_FRAMES + 40} frames in 3 clips" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["data"]
    assert len(list((out / "preview").glob("*.png"))) == 3
    assert datasets.load(out).fps == 30


def test_the_bytes_are_the_same_with_more_processes(inputs, made, tmp_path):
    """Catches content or an order that depends on which process is ready first."""
    out = tmp_path / "data"
    command = arguments(inputs, out)
    command[command.index("--processes") + 1] = "2"
    run = subprocess.run([sys.executable, "-m", "anchor_jax.cli", *command], capture_output=True)
    assert run.returncode == 0, run.stderr
    assert digests(out) == digests(made)


def test_the_command_once_more_changes_nothing(inputs, made):
    """Catches a complete data set that is made anew, or refused."""
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert cli.main(arguments(inputs, made)) == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_a_killed_run_goes_on_to_the_same_bytes(inputs, made, tmp_path):
    """Catches half a clip taken for a whole one, a lock that outlives its process, and files that
    differ from those of a run that nothing interrupted."""
    command = [sys.executable, "-m", "anchor_jax.cli", *arguments(inputs, tmp_path / "data")]
    began = time.monotonic()
    subprocess.run([*command[:-1], str(tmp_path / "whole")], capture_output=True, check=True)
    whole = time.monotonic() - began
    delays = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            process.wait(whole * delays.uniform(0.4, 0.95))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert digests(tmp_path / "data") == digests(made)
    assert sorted(os.listdir(tmp_path)) == ["data", "whole"]


KILLED = """
import os, sys
from anchor_jax import cli
from anchor_jax.data import dataset
pictures, encode = iter(range(int(sys.argv[1]))), dataset.encode
def encode_or_die(pixels):
    if next(pictures, None) is None:
        os.kill(os.getpid(), int(sys.argv[2]))
    return encode(pixels)
dataset.encode = encode_or_die
sys.exit(cli.main(sys.argv[3:]))
"""


def stopped(pictures: int, number: int, *words: str) -> list[str]:
    """The command line that gets a signal once it has encoded so many pictures."""
    return [sys.executable, "-c", KILLED, str(pictures), str(int(number)), *words]


@pytest.mark.parametrize("pictures", [0, 599, 610, 700])
def test_what_is_complete_when_a_run_is_killed_is_kept(inputs, made, tmp_path, pictures):
    """Catches a second run that makes complete clips anew, or takes over one that is cut short.
    Two pictures a frame: the first clip is complete after 600, the second after 660."""
    words = arguments(inputs, tmp_path / "data")
    killed = stopped(pictures, signal.SIGKILL, *words)
    assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
    hidden = tmp_path / ".data.partial"
    assert os.listdir(tmp_path) == [hidden.name]
    kept = {path.name: path.stat().st_mtime_ns for path in (hidden / "data").glob("anchor*")}
    assert len(kept) == (pictures >= 600) + (pictures >= 660)
    assert cli.main(words) == 0
    assert {name: (tmp_path / "data" / name).stat().st_mtime_ns for name in kept} == kept
    assert digests(tmp_path / "data") == digests(made)
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("pictures", [10, 610])
def test_ctrl_c_keeps_what_is_complete_and_says_so(inputs, made, tmp_path, pictures):
    """Catches a traceback, a wrong exit code, complete clips thrown away, and half a clip or a
    folder that is left where nothing is complete."""
    words = arguments(inputs, tmp_path / "data")
    run = subprocess.run(stopped(pictures, signal.SIGINT, *words), capture_output=True, text=True)
    assert run.returncode == 130
    assert "Traceback" not in run.stderr
    hidden = tmp_path / ".data.partial"
    if pictures < 600:
        assert run.stderr.endswith("anchor-jax: error: interrupted; nothing was written\n")
        assert os.listdir(tmp_path) == []
    else:
        assert f"interrupted; complete clips are kept in {hidden}" in run.stderr.splitlines()[-1]
        assert os.listdir(tmp_path) == [hidden.name]
        assert len(list((hidden / "data").glob("anchor*"))) == 1
        assert not os.listdir(hidden / "scratch")
    assert cli.main(words) == 0
    assert digests(tmp_path / "data") == digests(made)


def test_ctrl_c_ends_every_process(inputs, tmp_path):
    """Catches processes that go on after Ctrl-C, and their tracebacks."""
    words = [*arguments(inputs, tmp_path / "data")[:6], "--out", str(tmp_path / "data")]
    words += ["--size", "256", "--processes", "2"]  # so large that it takes seconds
    scratch = tmp_path / ".data.partial" / "scratch"
    interrupt(words, lambda _: list(scratch.glob(".*")))


def test_a_full_disk_is_one_line_and_leaves_no_half_clip(inputs, made, tmp_path, capsys):
    """Catches a write error that is swallowed or becomes a traceback, half a clip taken for a whole
    one, and the clips before it thrown away."""
    sizes = [clip.bytes for clip in datasets.load(made).clips]
    words = arguments(inputs, tmp_path / "data")
    with largest_file(sizes[0] // 2):
        assert cli.main(words) == 2
    told = one_error(capsys)
    assert "cannot write" in told
    assert "kept in" not in told
    assert os.listdir(tmp_path) == []
    # The long video comes last: by then the short one is complete.
    names = ("b", "a")
    swapped = [
        *("prepare", *(str(inputs / f"{name}.mp4") for name in names)),
        *("--poses", *(str(inputs / f"{name}-poses") for name in names), *words[6:]),
    ]
    with largest_file(sizes[0] // 2):
        assert cli.main(swapped) == 2
    assert "complete clips are kept in" in one_error(capsys)
    hidden = tmp_path / ".data.partial"
    assert len(list((hidden / "data").glob("anchor*"))) == 1
    assert not os.listdir(hidden / "scratch")
    assert cli.main([*swapped, "--verify"]) == 0
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("other", [("--identity", "seth"), ("--end", "1.2")])
def test_a_beginning_is_not_mixed_with_other_inputs(inputs, tmp_path, capsys, other):
    """Catches clips of an earlier, other run that end up in this data set."""
    words = arguments(inputs, tmp_path / "data")
    killed = stopped(610, signal.SIGKILL, *words)
    assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
    told = refuse(capsys, tmp_path, *words[1:], *other)
    assert "the beginning of a data set of other inputs or options" in told
    assert cli.main(words) == 0


def refuse(capsys, folder: Path, *words: object) -> str:
    """Run the command, which has to fail with one line and to leave nothing; that line."""
    before = sorted(os.listdir(folder))
    assert cli.main(["prepare", *map(str, words)]) == 2
    assert sorted(os.listdir(folder)) == before
    return one_error(capsys)


def test_bad_input_is_refused_with_one_line(inputs, tmp_path, capsys):
    """Catches tracebacks, work begun for nothing, and a hidden folder left behind."""
    a, poses, out = inputs / "a.mp4", inputs / "a-poses", tmp_path / "data"
    to = ("--out", out, "--size", "32", "--processes", "1")
    assert "--poses is missing" in refuse(capsys, tmp_path, a, *to)
    told = refuse(capsys, tmp_path, a, "--poses", inputs / "b-poses", *to)
    assert "has 40 pose images" in told and "330 frames" in told
    told = refuse(capsys, tmp_path, a, "--poses", tmp_path / "gone", *to)
    assert f"{tmp_path / 'gone'} does not exist" in told
    assert "does not exist" in refuse(capsys, tmp_path, "gone.mp4", "--poses", poses, *to)
    assert "nothing to prepare" in refuse(capsys, tmp_path, *to)
    told = refuse(capsys, tmp_path, a, "--poses", poses, "--crop", "9,9,99", *to)
    assert "is not inside the frames" in told
    (tmp_path / "talk.npy").write_bytes(b"\x93NUMPY")
    for words in ((a, "--poses", tmp_path / "talk.npy"), (tmp_path / "talk.npy", "--poses", poses)):
        told = refuse(capsys, tmp_path, *words, *to)
        assert "talk.npy is a motion file; expected a video" in told
        assert f"anchor-jax render {tmp_path / 'talk.npy'}" in told
    (tmp_path / "broken.mp4").write_bytes(a.read_bytes()[:2000])
    refuse(capsys, tmp_path, tmp_path / "broken.mp4", "--poses", poses, *to)
    (tmp_path / "empty").mkdir()
    refuse(capsys, tmp_path, a, "--poses", tmp_path / "empty", *to)
    refuse(capsys, tmp_path, a, "--poses", poses, "--out", tmp_path / "broken.mp4" / "data")


def test_what_lies_at_the_place_is_left_alone(inputs, made, tmp_path, capsys):
    """Catches a user's folder, or a data set of other videos, that is overwritten."""
    out = tmp_path / "data"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    words = (inputs / "b.mp4", "--poses", inputs / "b-poses", "--size", "32", "--processes", "1")
    assert "it exists and is no data set" in refuse(capsys, tmp_path, *words, "--out", out)
    assert os.listdir(out) == ["notes.txt"]
    before = digests(made)
    told = refuse(capsys, made.parent, *words, "--out", made)
    assert "a data set of other inputs or options is there" in told
    assert digests(made) == before


def test_damage_is_found_by_verify(made, inputs, tmp_path, capsys):
    """Catches --verify that looks at nothing, and a data set that cannot be moved."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in made.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    assert cli.main(["prepare", "--out", str(copy), "--verify"]) == 0
    shard = next(copy.glob("*00002-of-00003"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    capsys.readouterr()
    assert cli.main(["prepare", "--out", str(copy), "--verify"]) == 2
    assert shard.name in one_error(capsys)
