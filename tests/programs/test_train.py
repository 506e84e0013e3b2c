"""`anchor-jax train` from a data set to an anchor, stopped and gone on with."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from anchor_jax import checkpoint, cli


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve frames of 32x32 with poses, by way of the command."""
    folder = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        for name in ("target", "pose"):
            pixels = np.full((32, 32, 3), 20 * i, np.uint8)
            pixels[8:24, i : i + 12] = rng.integers(0, 256, 3)
            Image.fromarray(pixels).save(folder / f"{name}{i:02d}.png")

    for i in range(12):
        names = {"source": f"pose{i:02d}.png", "target": f"target{i:02d}.png"}
        names["reference"] = f"target{(i + 1) % 12:02d}.png"
        lines.append(json.dumps({key: str(folder / name) for key, name in names.items()}))
    (folder / "list.json").write_text("\n".join(lines) + "\n", "utf-8")
    out = folder / "data"
    assert cli.main(["prepare", "--list", str(folder / "list.json"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def anchor(data, tmp_path_factory) -> Path:
    """What four steps of the autoencoder make."""
    out = tmp_path_factory.mktemp("autoencoder") / "run"
    words = ["train", "autoencoder", "--preset", "debug", "--data", str(data), "--out", str(out)]
    assert cli.main(words) == 0
    return out / "anchor"


def finetune(anchor: Path, data: Path, out: Path, *more: str) -> int:
    words = ["train", "finetune", "--preset", "debug", "--anchor", str(anchor)]
    return cli.main([*words, "--data", str(data), "--out", str(out), *more])


@pytest.fixture(scope="module")
def run(anchor, data, tmp_path_factory) -> Path:
    """A whole run of four steps, with accumulation."""
    out = tmp_path_factory.mktemp("finetune") / "run"
    assert finetune(anchor, data, out, "--accumulate", "2") == 0
    return out


def trained(run: Path) -> list[np.ndarray]:
    names = ("body/unet", "body/control")
    return jax.tree.leaves(checkpoint.load(run / "anchor", networks=names).params)


def test_a_run_goes_on_bit_for_bit(run, anchor, data, tmp_path):
    """Catches data that begin again, and a state (moments, average, key) that is not restored."""
    again = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(again / "anchor")
    shutil.rmtree(again / "checkpoints" / "4")
    assert finetune(anchor, data, again, "--accumulate", "2") == 0
    for ours, theirs in zip(trained(again), trained(run), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again / "metrics.jsonl").read_text().count("\n") > 4


def test_other_settings_are_refused(run, anchor, data, capsys):
    """Catches a run that goes on as another one."""
    assert finetune(anchor, data, run, "--accumulate", "2", "--seed", "7") == 2
    assert "seed was 42 and is 7" in capsys.readouterr().err


def test_pretraining_needs_mattes(anchor, data, tmp_path, capsys):
    """Catches a stage one that learns backgrounds."""
    words = ["train", "pretrain", "--preset", "debug", "--anchor", str(anchor)]
    assert cli.main([*words, "--data", str(data), "--out", str(tmp_path / "run")]) == 2
    assert "has no matte, which pretrain needs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
