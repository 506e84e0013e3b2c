"""`anchor-jax bench settings` as a user runs it, on an anchor nobody trained."""

import json
import os
import shutil
from typing import Any

import pytest
from PIL import Image

import anchor_jax
from anchor_jax import cli
from anchor_jax.studies import settings as study
from anchor_jax.studies.clip import measure, read_clip

from .test_generate import one_error


@pytest.fixture
def bench(anchor, test_clip, tmp_path):
    """Run `anchor-jax bench settings` for four combinations of four frames; options replace."""

    def run(**options: object) -> int:
        given = {"clip": [test_clip], "out": [tmp_path / "out"], "frames": [4], "guidances": [3, 4]}
        given |= {"control-scales": [1], "step-counts": [1, 2], "seed": [5]} | options
        source = given.pop("anchor", [anchor])
        words = [w for name, values in given.items() for w in (f"--{name}", *map(str, values))]
        return cli.main(["bench", "settings", *map(str, source), *words])

    return run


def test_scores_are_those_of_videos_with_these_settings(bench, anchor, test_clip, tmp_path, capsys):
    """Catches a setting that is not passed on, scores of other frames than the middle ones, a
    combination that takes another's result, and a missing file."""
    assert bench() == 0
    names = [f"settings.{suffix}" for suffix in ("html", "json", "md", "png")]
    assert sorted(os.listdir(tmp_path / "out")) == names
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    rows = {(x["guidance"], x["control_scale"], x["steps"]): x["scores"] for x in told["rows"]}
    assert list(rows) == [(7.5, 2, 20), (3, 1, 1), (3, 1, 2), (4, 1, 1), (4, 1, 2)]
    clip = read_clip(test_clip)[3:7]
    keys = "guidance", "control_scale", "steps"
    for values in ((3.0, 1.0, 2), (4.0, 1.0, 1)):
        options: dict[str, Any] = dict(zip(keys, values, strict=True))
        loaded = anchor_jax.load(anchor)
        frames = anchor_jax.generate(loaded, clip.poses, clip.appearance, seed=5, **options)
        scores = measure(frames, clip)
        assert rows[values]["body/psnr"] == pytest.approx(scores["body/psnr"])
        assert rows[values]["temporal_error"] == pytest.approx(scores["temporal_error"])
    assert (tmp_path / "out" / "settings.md").read_text() in capsys.readouterr().out
    page = (tmp_path / "out" / "settings.html").read_text()
    assert "--guidance 3 --control-scale 1 --steps 2\n" in page
    with Image.open(tmp_path / "out" / "settings.png") as picture:
        assert picture.width > 4 * 256


BAD = {
    "no anchor": ({"anchor": ["nowhere"]}, "nowhere: no such folder"),
    "no clip": ({"clip": ["nowhere"]}, "nowhere"),
    "too many frames": ({"frames": [11]}, "frames is 11: expected 1 to 10"),
    "no frame": ({"frames": [0]}, "frames is 0: expected 1 to 10"),
    "no guidance": ({"guidances": []}, "there are no guidances"),
    "no scale": ({"control-scales": []}, "there are no control scales"),
    "no steps": ({"step-counts": []}, "there are no step counts"),
    "guidance": ({"guidances": [3, 101]}, "guidance is 101.0: expected 0 to 100"),
    "steps": ({"step-counts": [1, 1001]}, "steps is 1001: expected 1 to 1000"),
    "size": ({"size": ["wide"]}, "--size wide"),
    "seed": ({"seed": [-1]}, "seed is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_error_before_any_work(bench, tmp_path, capsys, monkeypatch, case):
    """Catches work before a mistake in the last combination is told, and a folder that stays."""
    options, message = BAD[case]
    monkeypatch.setattr(study, "generate_clip", None)
    assert bench(**options) == 2
    assert message in one_error(capsys)
    assert os.listdir(tmp_path) == []


def test_an_own_anchor_needs_a_clip_of_its_person(anchor, tmp_path, capsys):
    """Catches scores against the shipped clip, which shows somebody else."""
    assert cli.main(["bench", "settings", str(anchor), "--out", str(tmp_path / "out")]) == 2
    assert "--clip is missing" in one_error(capsys)


def test_a_damaged_truth_is_not_taken_for_none(bench, test_clip, tmp_path, capsys):
    """Catches a clip whose truth cannot be read and that therefore gets no scores."""
    clip = shutil.copytree(test_clip, tmp_path / "clip")
    (clip / "truth" / "000001.png").write_bytes(b"")
    assert bench(clip=[clip]) == 2
    assert "000001.png" in one_error(capsys)
