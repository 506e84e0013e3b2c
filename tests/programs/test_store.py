"""`anchor-jax store` as a user runs it: what it changes in an anchor, and how it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from anchor_jax import cli

from .test_generate import one_error


@pytest.fixture
def own(anchor, tmp_path) -> Path:
    """A copy of the anchor for a test to write to."""
    return shutil.copytree(anchor, tmp_path / "anchor")


def test_stored_settings_are_those_of_later_videos(own, poses, person, tmp_path, capsys):
    """Catches an option that is not stored, and one that is stored as another setting: the video
    without options has other bytes than the one with them."""
    options = ["--guidance", 3, "--control-scale", 1.5, "--steps", 2, "--window", 3]
    options += ["--overlap", 1, "--seed", 7, "--crossfade"]

    def generate(name: str, *options: object) -> bytes:
        out = tmp_path / name
        words = ["generate", own, "--poses", poses, "--appearance", person, "--out", out, *options]
        assert cli.main(list(map(str, words))) == 0
        return out.read_bytes()

    expected = generate("with.mp4", *options)
    capsys.readouterr()
    assert cli.main(list(map(str, ["store", own, *options]))) == 0
    told = capsys.readouterr().out
    assert "guidance: 7.5 -> 3.0\n" in told and "seed: 42 -> 7\n" in told
    assert generate("without.mp4") == expected


BAD = {
    "nothing": ([], "no setting is given"),
    "guidance": (["--guidance=-1"], "guidance is -1.0"),
    "steps": (["--steps=1001"], "steps is 1001: expected 1 to 1000"),
    "overlap": (["--window=4", "--overlap=4"], "overlap is 4"),
    "face size": (["--face-size=30"], "the face's size is 30"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_error(anchor, capsys, case):
    """Catches a value that `generate` would refuse, but that is in the anchor by then."""
    before = (anchor / "anchor.json").read_bytes()
    options, message = BAD[case]
    assert cli.main(["store", str(anchor), *options]) == 2
    assert message in one_error(capsys)
    assert (anchor / "anchor.json").read_bytes() == before


def test_the_shipped_anchor_is_refused(capsys, monkeypatch):
    """Catches assets that no longer are what their manifest says, so that no command opens them."""
    monkeypatch.setattr("anchor_jax.checkpoint.folder.write_text", None)
    assert cli.main(["store", "shipped", "--steps=4"]) == 2
    assert "keeps its settings" in one_error(capsys)


def test_face_settings_and_the_preset_are_stored(own, capsys):
    """Catches options of the face that go to the body, and `--fast` that is ignored."""
    assert cli.main(["store", str(own), "--face-guidance=2", "--fast"]) == 0
    content = json.loads((own / "anchor.json").read_text())
    assert content["face_sampling"]["guidance"] == 2.0 and content["sampling"]["guidance"] == 7.5
    assert content["sampling"]["solver"] == "unipc" and content["sampling"]["steps"] == 5
    assert "face guidance: 3.5 -> 2.0\n" in capsys.readouterr().out
