"""`anchor-jax bench windows` and `python -m benchmarks.ablations` on an anchor nobody trained."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anchor_jax import checkpoint, cli
from anchor_jax.studies import run as studies
from anchor_jax.studies.results import SCORES, Result
from anchor_jax.studies.run import Row, Study, _measure_row
from anchor_jax.studies.sheet import _LABEL_WIDTH
from benchmarks import ablations

from .test_generate import one_error

pytestmark = pytest.mark.slow  # a process for each setting

SUFFIXES = "json", "md", "png", "svg"
# Measured if their weights are there.
WITH_WEIGHTS = {"fvd", "lmd_body", "lmd_face", "lmd_hands", "identity", "stlpips"}


@pytest.fixture
def windows(drawn, test_clip, tmp_path):
    """Run `anchor-jax bench windows` in one step on eight frames, as the demo's tests do; options
    replace or add."""

    def run(**options: object) -> int:
        given = {"clip": [test_clip], "out": [tmp_path / "out"], "frames": [8], "steps": [1]}
        given |= {"seeds": [0, 1], "pairs": ["16/4"]} | options
        words = [w for name, values in given.items() for w in (f"--{name}", *map(str, values))]
        return cli.main(["bench", "windows", str(drawn), *words])

    return run


def test_windows_are_measured_in_a_process_of_their_own(windows, tmp_path, capfd):
    """Catches a score that is missing, seeds that are one, and files that do not appear."""
    assert windows() == 0
    assert sorted(os.listdir(tmp_path / "out")) == [f"windows.{suffix}" for suffix in SUFFIXES]
    told = json.loads((tmp_path / "out" / "windows.json").read_text())
    row = told["rows"]["16/4"]
    assert (row["sampling"]["window"], row["sampling"]["overlap"], told["seeds"]) == (16, 4, [0, 1])
    first, second = row["scores"]
    assert {*first, *row["once"]} - WITH_WEIGHTS == set(SCORES) - WITH_WEIGHTS
    assert first["body/psnr"] != second["body/psnr"]
    assert row["once"]["memory_mb"] > 50 and row["once"]["gflops_per_frame"] > 0
    assert row["autoencoder"]["body/psnr"] > 0
    with Image.open(tmp_path / "out" / "windows.png") as sheet:
        assert sheet.size == (_LABEL_WIDTH + 8 * 32, 3 * 32)
    table = (tmp_path / "out" / "windows.md").read_text()
    assert table in capfd.readouterr().out and "| 16/4 |" in table and "±" in table


def test_faces_are_repainted_in_three_ways(drawn, test_clip, tmp_path, monkeypatch):
    """Catches rows that are the same."""
    seen: list[tuple[bool, bool]] = []

    def measure(row: Row, study: Study) -> Result:
        seen.append((row.variant.faces, row.variant.settings.face.windows))
        return Result([{"face/flicker": 1.0}], {}, {}, np.zeros((8, 32, 32, 3), np.uint8))

    monkeypatch.setattr(studies, "_measure_alone", measure)
    words = ["bench", "faces", drawn, "--clip", test_clip, "--frames", 8, "--out", tmp_path]
    assert cli.main(list(map(str, words))) == 0
    assert seen == [(False, False), (True, False), (True, True)]
    assert "face flicker" in (tmp_path / "faces.md").read_text()


BAD = {
    "pair": ({"pairs": ["16"]}, "16: expected window/overlap"),
    "overlap": ({"pairs": ["4/1", "4/4"]}, "overlap is 4"),
    "no seed": ({"seeds": [3, 3]}, "expected at least one, each once"),
    "seed": ({"seeds": [-1]}, "seed is -1"),
    "frames": ({"frames": [0]}, "frames is 0"),
    "clip": ({"clip": ["nowhere"]}, "nowhere"),
    "steps": ({"steps": [0]}, "steps is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_error_before_any_work(windows, tmp_path, capsys, monkeypatch, case):
    """Catches hours of work before a mistake in the last row is told."""
    options, message = BAD[case]
    monkeypatch.setattr(studies, "_measure_alone", None)
    assert windows(**options) == 2
    assert message in one_error(capsys)
    assert os.listdir(tmp_path) == []


def test_the_ablations_leave_out_one_thing_each(drawn, test_clip, tmp_path, monkeypatch):
    """Catches a row that leaves out nothing or something else, an anchor that is not used, and
    results that tell a path of the machine they were measured on."""
    seen: list[Row] = []

    def measure(row: Row, study: Study) -> Result:
        seen.append(row)
        frames = np.full((8, 32, 32, 3), 20 + len(seen), np.uint8)
        return Result([{"body/psnr": 20.0 + len(seen)}], {}, {}, frames)

    monkeypatch.setattr(studies, "_measure_alone", measure)
    monkeypatch.chdir(drawn.parent)
    words = ["--anchor", drawn, "--clip", test_clip, "--setting-two", drawn.parent / "anchor"]
    words += ["--seeds", 5, "--steps", 2, "--frames", 8, "--out", tmp_path]
    assert ablations.main(list(map(str, words))) == 0
    rows = json.loads((tmp_path / "ablations.json").read_text())["rows"]
    names = ("window", "overlap", "crossfade", "fresh_noise", "faces")
    flat = {title: row | row["sampling"] for title, row in rows.items()}
    assert {title: tuple(row[name] for name in names) for title, row in flat.items()} == {
        "full": (16, 4, False, False, True),
        "full, windows cross-faded": (16, 4, True, False, True),
        "without temporal denoising, fresh noise": (1, 0, False, True, True),
        "without temporal denoising, shared noise": (1, 0, False, False, True),
        "without face enhancement": (16, 4, False, False, False),
        "without two stages, setting II": (16, 4, False, False, True),
    }
    assert rows["full"]["anchor"] == drawn.name
    (run,) = rows["full"]["training"]
    assert run.startswith("autoencoder on ")
    with Image.open(tmp_path / "ablations.png") as sheet:
        pixels = np.asarray(sheet).reshape(8, 32, -1, 3)
    np.testing.assert_array_equal(pixels[2:, 0, _LABEL_WIDTH, 0], range(21, 27))
    assert len(seen) == 6 and all(row.variant.settings.sampling.steps == 2 for row in seen)


def test_settings_change_what_they_say(drawn, test_clip):
    """Catches fresh noise that all frames share, a face that is repainted all the same, and a
    ceiling that depends on the noise."""
    from anchor_jax.studies.clip import Variant

    full = Variant(checkpoint.load(drawn, networks=()).settings).with_sampling(steps=1)
    study = Study(test_clip, 8, (0,))
    made = {
        name: _measure_row(Row(drawn, variant), study)
        for name, variant in {
            "full": full,
            "fresh": replace(full, fresh_noise=True),
            "no face": replace(full, faces=False),
        }.items()
    }
    score = {name: result.scores[0] for name, result in made.items()}
    assert score["fresh"]["flicker"] > 1.5 * score["full"]["flicker"]
    assert score["no face"]["face/psnr"] != score["full"]["face/psnr"]
    limits = made["fresh"].autoencoder
    assert made["full"].autoencoder == pytest.approx(limits, rel=0, abs=0, nan_ok=True)
    assert made["no face"].autoencoder["body/psnr"] != made["full"].autoencoder["body/psnr"]


def test_a_process_that_dies_is_one_error(windows, monkeypatch, capsys):
    """Catches a wait without end, or a traceback, where the system kills for want of memory."""
    monkeypatch.setattr(studies, "_measure_row", _die)
    assert windows() == 2
    assert "a worker process ended too early" in one_error(capsys)


def _die(*_: object) -> None:
    os._exit(9)
