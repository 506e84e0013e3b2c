"""A tiny checkpoint, the anchor made of it, and a short video's worth of poses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchor_jax import cli
from benchmarks.random_checkpoint import write_checkpoint
from benchmarks.synthetic.assets import main as make_assets

from .clips import write_clip
from .training import train, write_data


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Random weights in the published layout, with a UNet in the base too. Do not write here."""
    folder = tmp_path_factory.mktemp("weights")
    write_checkpoint(folder, "tiny")
    shutil.copytree(folder / "body" / "unet", folder / "sd" / "unet")
    return folder


@pytest.fixture
def broken(weights, tmp_path) -> Path:
    """A copy of the weights for a test to spoil."""
    return shutil.copytree(weights, tmp_path / "weights")


def convert_arguments(weights: Path, out: Path) -> list[str]:
    """The command line that converts `weights`."""
    return [
        *("convert", "--body", str(weights / "body"), "--base", str(weights / "sd")),
        *("--image-encoder", str(weights / "clip-vision"), "--out", str(out)),
    ]


@pytest.fixture(scope="session")
def anchor(weights, tmp_path_factory) -> Path:
    """The weights, converted. Do not write here."""
    out = tmp_path_factory.mktemp("anchor") / "anchor"
    assert cli.main(convert_arguments(weights, out)) == 0
    return out


@pytest.fixture(scope="session")
def poses(tmp_path_factory) -> Path:
    """Five pose images of 64x64: a grey square that moves over black. Do not write here."""
    folder = tmp_path_factory.mktemp("poses")
    for index in range(5):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[16:48, 8 * index : 8 * index + 24] = (118, 146, 152)
        Image.fromarray(pixels).save(folder / f"{index + 1:06d}.png")
    return folder


@pytest.fixture(scope="session")
def person(tmp_path_factory) -> Path:
    """A picture of somebody, 96x72."""
    path = tmp_path_factory.mktemp("person") / "person.png"
    pixels = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def generate(anchor, poses, person, tmp_path):
    """Run `anchor-jax generate` in 2 steps into `tmp_path/out.mp4`; options replace or add."""

    def run(*flags: str, **options: object) -> int:
        words = {"poses": poses, "appearance": person, "out": tmp_path / "out.mp4"}
        words |= {"steps": 2, "window": 3, "overlap": 1} | options
        source = str(words.pop("anchor", anchor))
        named = (f"--{name.replace('_', '-')}={value}" for name, value in words.items())
        return cli.main(["generate", source, *flags, *named])

    return run


@pytest.fixture(scope="session")
def published(tiny_dir, tmp_path_factory) -> Path:
    """The published system's folder layout (tiny random weights), converted, face part included."""
    out = tmp_path_factory.mktemp("published") / "anchor"
    words = ["convert", "--body", tiny_dir / "body", "--face", tiny_dir / "head"]
    words += ["--base", tiny_dir / "sd", "--image-encoder", tiny_dir / "clip-vision", "--out", out]
    assert cli.main(list(map(str, words))) == 0
    return out


@pytest.fixture(scope="session")
def train_data(tmp_path_factory) -> Path:
    """Two clips of eight frames of 32x32 with all pictures there are. Do not write here, but for
    what is cached."""
    return write_data(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture(scope="session")
def autoencoder(train_data, tmp_path_factory) -> Path:
    """The run of four steps of an autoencoder. Do not write here."""
    out = tmp_path_factory.mktemp("autoencoder") / "run"
    words = ["--preset", "debug", "--data", str(train_data), "--out", str(out)]
    assert cli.main(["train", "autoencoder", *words]) == 0
    return out


@pytest.fixture(scope="session")
def fresh(autoencoder) -> Path:
    """The anchor that it made: the other networks are fresh. Do not write here."""
    return autoencoder / "anchor"


@pytest.fixture(scope="session")
def drawn(fresh, tmp_path_factory) -> Path:
    """A copy of it whose parts are marked as trained, so that videos can be generated from it. Do
    not write here."""
    out = shutil.copytree(fresh, tmp_path_factory.mktemp("drawn") / "anchor")
    content = json.loads((out / "anchor.json").read_text())
    content["trained"] = {"body": True, "face": True}
    content["face_sampling"]["size"] = 64
    (out / "anchor.json").write_text(json.dumps(content))
    return out


@pytest.fixture(scope="session")
def test_clip(tmp_path_factory) -> Path:
    """A test clip of ten frames of 32x32, as files with their truth. Do not write here."""
    return write_clip(tmp_path_factory.mktemp("clip") / "test")


@pytest.fixture(scope="session")
def assets(drawn, test_clip, train_data, tmp_path_factory) -> Path:
    """Assets of eight frames, made of an anchor that nobody trained. Do not write here."""
    out = tmp_path_factory.mktemp("assets") / "assets"
    words = ["--anchor", drawn.parent, "--pretrained", drawn, "--test", test_clip, "--frames", 8]
    words += ["--train", train_data, "--train-frames", 16, "--out", out]
    assert make_assets(list(map(str, words))) == 0
    return out


@pytest.fixture(scope="session")
def finetuned(fresh, train_data, tmp_path_factory) -> Path:
    """A run of four steps, with accumulation and a moving average. Do not write here."""
    out = tmp_path_factory.mktemp("finetune") / "run"
    assert train("finetune", fresh, train_data, out, "--accumulate", "2") == 0
    return out
