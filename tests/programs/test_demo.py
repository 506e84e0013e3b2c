"""`anchor-jax demo` and the assets it shows."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from anchor_jax import checkpoint, cli
from anchor_jax.assets import open_assets
from anchor_jax.body.formats import save_motion
from anchor_jax.cli import options
from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from anchor_jax.demo import report as demo_report
from anchor_jax.studies.clip import read_clip
from anchor_jax.studies.sheet import _LABEL_WIDTH
from benchmarks.synthetic.assets import main as make_assets
from benchmarks.synthetic.assets import write_train
from benchmarks.synthetic.gesture import gesture

from .test_generate import one_error, probe
from .training import write_data

pytestmark = pytest.mark.slow  # its assets alone take a minute to compile for

FILES = ["metrics.json", "report.html", "sheet.png", "video.mp4"]


@pytest.fixture
def demo(assets, tmp_path):
    """Run `anchor-jax demo` in one step into `tmp_path/demo`; options replace or add."""

    def run(*flags: str, **options: object) -> int:
        words = {"assets": assets, "out": tmp_path / "demo", "steps": 1} | options
        return cli.main(
            ["demo", *flags, *(f"--{k.replace('_', '-')}={v}" for k, v in words.items())]
        )

    return run


def test_assets_hold_the_anchors_and_the_clip_without_loss(assets, fresh, test_clip):
    """Catches pictures that are compressed with loss, frames or conditions of another number,
    weights that are large or another network's, and an optimizer's state."""
    opened = open_assets(assets)
    ours, theirs = read_clip(opened.test), read_clip(test_clip)[:8]
    for name in ("poses", "truth", "masks", "appearance"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.track is not None and theirs.track is not None
    np.testing.assert_array_equal(ours.track.landmarks, theirs.track.landmarks)
    whole, before = (checkpoint.load(p, dtype=None) for p in (opened.anchor, opened.pretrained))
    assert set(whole.networks()) - set(before.networks()) == {"face/unet", "face/control"}
    kernel = lambda anchor: np.asarray(anchor.body.unet.params["conv_in"]["kernel"])
    source = kernel(checkpoint.load(fresh))
    for anchor in (whole, before):
        assert kernel(anchor).dtype == np.float16
        np.testing.assert_allclose(kernel(anchor), source, rtol=1e-3, atol=1e-7)
    assert sorted(os.listdir(assets)) == [
        *("LICENSE.md", "anchor", "manifest.json", "pretrained", "test", "train"),
    ]


def test_frames_of_training_are_spread_over_the_data_set(tmp_path):
    """Catches frames of its beginning alone, poses of other frames, and colours that are lost."""
    source = datasets.load(write_data(tmp_path / "data", clips=(16, 16, 16))).source()
    write_train(tmp_path / "data", tmp_path / "train", 20)
    for name, picture in (("target", "target"), ("poses", "pose")):
        frames, rate = video.read_frames(tmp_path / "train" / f"{name}.mp4")
        truth = np.stack([datasets.decode(picture, source[2 * i][picture]) for i in range(20)])
        assert rate == 15
        assert np.abs(frames.astype(int) - truth).mean() < 6, name


def test_assets_that_are_too_large_are_refused(drawn, test_clip, tmp_path, capsys):
    """Catches a package that grows, and old assets that are lost for it."""
    out = tmp_path / "assets"
    words = ["--anchor", drawn, "--pretrained", drawn, "--test", test_clip, "--frames", 2]
    assert make_assets([*map(str, words), "--out", str(out), "--most", "1000"]) == 2
    printed = capsys.readouterr()
    assert "expected at most 1,000" in printed.err and "pretrained" in printed.out
    assert os.listdir(tmp_path) == []


def test_the_demo_shows_the_clip_and_its_scores(demo, assets, tmp_path, capfd):
    """Catches a file that is missing, sides in another order, scores without the ceiling, a report
    that needs other files, and a run without progress."""
    assert demo() == 0
    printed = capfd.readouterr()
    assert "generating" in printed.err and "report.html: complete; PSNR of body" in printed.out
    out = tmp_path / "demo"
    assert sorted(os.listdir(tmp_path)) == ["demo"] and sorted(os.listdir(out)) == FILES
    assert probe(out / "video.mp4") == (8, (3 * 256, 256), 30, "yuv420p")
    told = json.loads((out / "metrics.json").read_text())
    assert (
        told["frames"] == 8
        and told["settings"]["sampling"]["seed"] == 42
        and told["versions"]["jax"]
    )
    scores = told["scores"]
    regions = [f"{part}/{score}" for part in ("body", "face", "hands") for score in ("psnr", "l1")]
    for name in (*regions, "body/ssim", "face/ssim", "hands/ssim", "flicker", "temporal_error"):
        assert set(scores[name]) == {"generated", "autoencoder"}, name
        assert all(isinstance(value, float) for value in scores[name].values()), name
    assert scores["body/psnr"]["autoencoder"] > scores["body/psnr"]["generated"]
    shown, _ = video.read_frames(out / "video.mp4")
    clip = read_clip(assets / "test")
    assert clip.truth is not None
    for place, expected in ((0, clip.poses), (2, clip.truth)):
        part = shown[:, :, 256 * place : 256 * (place + 1)]
        means = part.reshape(8, 32, 8, 32, 8, 3).mean((2, 4))
        assert np.abs(means - expected).mean() < 6
    report = (out / "report.html").read_text()
    assert report.count('src="data:') == report.count("src=") == 2
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (_LABEL_WIDTH + 8 * 32, 6 * 32)


def test_an_older_demo_is_replaced_and_seeds_differ(demo, tmp_path):
    """Catches a folder that can be written once only, and a seed without effect."""
    made = []
    for seed in (1, 1, 2):
        assert demo(seed=seed) == 0
        made.append((tmp_path / "demo" / "sheet.png").read_bytes())
    assert made[0] == made[1] != made[2]
    assert sorted(os.listdir(tmp_path / "demo")) == FILES


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


BAD_ASSETS = {
    "none": (shutil.rmtree, "holds no assets (no manifest.json)"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "holds no assets"),
    "no JSON": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json: cannot be read"),
    "no object": (lambda p: (p / "manifest.json").write_text("[]"), "cannot be read"),
    "deleted": (lambda p: (p / "test" / "truth.mp4").unlink(), "test/truth.mp4 missing"),
    "no weights": (lambda p: shutil.rmtree(p / "anchor"), "more missing"),
    "corrupted": (lambda p: spoil(p / "test" / "poses.mp4"), "test/poses.mp4 not what was shipped"),
    "corrupted weights": (lambda p: spoil(largest(p / "anchor")), "not what was shipped"),
    "cut short": (lambda p: os.truncate(p / "test" / "appearance.png", 40), "appearance.png not"),
}


@pytest.mark.parametrize("case", BAD_ASSETS)
def test_bad_assets_are_one_error(demo, assets, tmp_path, capsys, case):
    """Catches a traceback, a damaged asset that is used, and a folder that is half written."""
    damage, message = BAD_ASSETS[case]
    copy = shutil.copytree(assets, tmp_path / "assets")
    damage(copy)
    assert demo(assets=copy) == 2
    told = one_error(capsys)
    assert message in told and str(copy) in told and "again" in told
    assert set(os.listdir(tmp_path)) <= {"assets"}


def test_what_is_missing_from_the_package_says_to_install_it(tmp_path, capsys, monkeypatch):
    """Catches a newcomer who is told to make the assets that should have come with the package."""
    monkeypatch.setattr("anchor_jax.assets.SHIPPED", tmp_path)
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "install anchor-jax again" in one_error(capsys)


def test_a_place_that_cannot_be_written_is_one_error(demo, tmp_path, capsys):
    """Catches minutes of work for nothing, and files of others that are replaced."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for out, message in (
        ("file", "it is not a folder"),
        ("file/demo", "file is not a folder"),
        ("full", "holds other files, such as mine.txt"),
    ):
        assert demo(out=tmp_path / out) == 2
        assert message in one_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_one_error(demo, tmp_path, capsys, monkeypatch):
    """Catches a traceback, a demo that is half there, and an older one that is lost."""
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        assert demo() == 2
        assert "no space left on the disk" in one_error(capsys)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "sheet.png").write_text("older")

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_report, "_report", full)
    assert demo() == 2
    assert "no space left on the disk" in one_error(capsys)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "demo",
        "demo/sheet.png",
    ]


BAD_OPTIONS = {
    "frames": ({"frames": 0}, "--frames 0"),
    "steps": ({"steps": 0}, "steps is 0"),
    "seed": ({"seed": -1}, "--seed -1"),
    "data": ({"data": "data"}, "only --finetune uses a data set"),
    "motion": ({"motion": "none.npy"}, "none.npy"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_one_error(demo, tmp_path, capsys, case):
    """Catches an option that fails with a traceback, or leaves something behind."""
    options, message = BAD_OPTIONS[case]
    assert demo(**options) == 2
    assert message in one_error(capsys)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def motion(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("motion") / "gesture.npz"
    save_motion(path, gesture(12))
    return path


def test_a_motion_drives_the_anchor(demo, motion, opengl, tmp_path, capsys):
    """Catches the clip's own poses, another number of frames, and scores without a truth."""
    assert demo(motion=motion, frames=8) == 0  # as many as elsewhere: nothing new is compiled
    out = tmp_path / "demo"
    assert probe(out / "video.mp4") == (8, (2 * 256, 256), 30, "yuv420p")
    told = json.loads((out / "metrics.json").read_text())
    assert told["motion"] == "gesture.npz" and told["scores"] == {}
    assert capsys.readouterr().out.endswith("report.html: complete\n")


def test_a_motion_without_the_renderer_says_what_to_install(
    demo, motion, tmp_path, capsys, monkeypatch
):
    """Catches a traceback of an import."""
    monkeypatch.setitem(sys.modules, "pyrender", None)
    assert demo(motion=motion) == 2
    assert "pip install 'anchor-jax[render]'" in one_error(capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_finetuning_goes_on_and_is_shown(demo, assets, tmp_path, capsys):
    """Catches another program than the project's own, a report without the course of training, a
    second run that begins anew, and a face that nothing repaints."""
    assert demo("--finetune", finetune_steps=2) == 0
    assert "PSNR to expect" in capsys.readouterr().out
    run = tmp_path / "demo-finetune" / "run"
    face = checkpoint.load(run / "anchor", networks=["face/unet"]).trained_face
    whole = checkpoint.load(open_assets(assets).anchor, networks=["face/unet"]).trained_face
    assert face is not None and whole is not None
    jax.tree.map(np.testing.assert_array_equal, face.unet.params, whole.unet.params)
    assert (run / "anchor" / "anchor.json").is_file() and (run / "report.html").is_file()
    scores = json.loads((tmp_path / "demo" / "metrics.json").read_text())["scores"]
    assert list(scores["body/psnr"]) == ["before", "generated", "autoencoder"]
    assert '"PSNR of held-out frames by step"' in (tmp_path / "demo" / "metrics.json").read_text()
    assert "step 2" in (tmp_path / "demo" / "report.html").read_text()
    written = (run / "metrics.jsonl").stat().st_mtime_ns
    assert demo("--finetune", finetune_steps=2) == 0
    assert "is complete" in capsys.readouterr().err
    assert (run / "metrics.jsonl").stat().st_mtime_ns == written
    assert demo("--finetune", finetune_steps=0) == 2
    assert "--finetune-steps 0" in one_error(capsys)


def test_finetuning_says_what_it_needs(demo, assets, tmp_path, capsys, monkeypatch):
    """Catches a traceback where the package has no frames of training or no training code."""
    copy = shutil.copytree(assets, tmp_path / "assets")
    shutil.rmtree(copy / "train")
    manifest = json.loads((copy / "manifest.json").read_text())
    files = {name: file for name, file in manifest["files"].items() if name[:5] != "train"}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    assert demo("--finetune", assets=copy) == 2
    assert "name a data set with --data" in one_error(capsys)
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert demo("--finetune") == 2
    assert "pip install 'anchor-jax[train]'" in one_error(capsys)
    assert os.listdir(tmp_path) == ["assets"]
