"""`anchor-jax train` from a data set to an anchor that `generate` takes."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from anchor_jax import checkpoint, cli
from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from train.autoencoder import _CUT, _remove_backgrounds

from .test_generate import probe
from .test_generate_face import SMALL, landmarks
from .training import changed, logged, state, train

RESULTS = {
    "config.json",
    "metrics.jsonl",
    "events",
    "grids",
    "checkpoints",
    "anchor",
    "report.html",
}


def two(poses: Path, folder: Path) -> Path:
    """The first two pose images."""
    folder.mkdir()
    for path in sorted(poses.iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def test_an_autoencoder_becomes_an_anchor(autoencoder, train_data):
    """Catches an autoencoder that does not learn, latents that are not of unit scale, and a run
    whose parts are missing."""
    assert {path.name for path in autoencoder.iterdir() if path.name[0] != "."} == RESULTS
    losses = [line["loss"] for line in logged(autoencoder) if "loss" in line]
    assert len(losses) == 4 and losses[-1] < losses[0]
    anchor = checkpoint.load(autoencoder / "anchor", networks=["body/control"])
    assert 0.01 < anchor.vae.config.scaling_factor < 100
    zeros = anchor.body.control.params["controlnet_mid_block"]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(zeros))
    (run,) = anchor.provenance["training"]
    assert (run["stage"], run["data"], run["steps"]) == ("autoencoder", train_data.name, 4)


def test_an_autoencoder_learns_further(autoencoder, train_data, tmp_path, capsys):
    """Catches an autoencoder that begins anew, one of another architecture that is taken, people
    without background that are never shown, and silence after the last step."""
    words = ["train", "autoencoder", "--preset", "debug", "--data", str(train_data)]
    words += ["--anchor", str(autoencoder / "anchor"), "--out"]
    assert cli.main([*words, str(tmp_path / "run")]) == 0
    err = capsys.readouterr().err
    ends = "now=validating", "now=saving", "the report", "latents", "making networks", "the anchor"
    places = [err.rindex(end) for end in ends]
    assert places == sorted(places)
    first, further = (
        [line for line in logged(run) if "loss" in line] for run in (autoencoder, tmp_path / "run")
    )
    assert first[0]["frames"] == further[0]["frames"]
    assert further[0]["loss"] < first[-1]["loss"]
    runs = checkpoint.load(tmp_path / "run" / "anchor", networks=()).provenance["training"]
    assert [run["stage"] for run in runs] == ["autoencoder", "autoencoder"]
    assert "validation/psnr_cut" in logged(tmp_path / "run")[-1]
    with Image.open(tmp_path / "run" / "grids" / "00000004.png") as grid:
        assert grid.size == (4 * 32, 2 * 32)
    assert cli.main([*words, str(tmp_path / "other"), "--channels", "8", "24"]) == 2
    assert not (tmp_path / "other").exists()


def test_autoencoders_see_people_as_pretraining_does():
    """Catches mattes that are not shares of one, and examples that are all cut or none."""
    rng = np.random.default_rng(0)
    batch = {
        "target": rng.integers(0, 256, (16, 8, 8, 3), np.uint8),
        "matte": rng.integers(0, 256, (16, 8, 8), np.uint8),
        "position": np.arange(16),
    }
    shown = np.asarray(_remove_backgrounds(0.5, jax.random.key(0), batch))
    cut = np.array([(a != b).any() for a, b in zip(shown, batch["target"], strict=True)])
    assert 4 <= cut.sum() <= 12
    pairs = zip(batch["target"][cut], batch["matte"][cut], strict=True)
    expected = np.stack([_CUT.composed(*pair) for pair in pairs])
    np.testing.assert_allclose(shown[cut], expected, atol=0.51)


def test_finetuning_changes_the_body_alone(finetuned, fresh):
    """Catches a frozen network that is trained, a trained one that is not saved, and a grid or a
    report that is missing, and an anchor that forgets what it was made from."""
    assert {path.name for path in finetuned.iterdir() if path.name[0] != "."} == RESULTS
    assert changed(finetuned / "anchor", fresh) == {"body/unet", "body/control"}
    before, after = (
        checkpoint.load(path, networks=()).provenance for path in (fresh, finetuned / "anchor")
    )
    *earlier, last = after.pop("training")
    assert earlier and before == after | {"training": earlier}
    assert last["stage"] == "finetune" and last["versions"]["jax"]
    assert not any("/" in str(value) for value in last.values())  # no place of a machine
    with Image.open(finetuned / "grids" / "00000004.png") as grid:
        assert grid.size == (3 * 32, 2 * 32)
    lines = logged(finetuned)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "validation/psnr" in line] == [2, 4]


def test_the_anchor_knows_where_training_had_the_person(finetuned, fresh, train_data):
    """Catches a framing that is not stored, one of another picture or another size, a place
    measured in other units, and an anchor without a picture of its person."""
    assert checkpoint.load(fresh, networks=()).framing is None
    anchor = checkpoint.load(finetuned / "anchor", networks=())
    source = datasets.load(train_data).source()
    expected = datasets.decode("target", source[0]["target"])
    np.testing.assert_array_equal(anchor.appearance, expected)
    framing = anchor.framing
    assert framing is not None and framing.size == (32, 32) and not framing.shape
    place = framing.middle
    assert (place.crown, place.neck, place.head, place.bottom) == (4 / 32, 10 / 32, 8 / 32, 24 / 32)
    assert place.column == pytest.approx((3.5 + 8 - 16) / 32, abs=1e-4)
    assert framing.low.column < place.column < framing.high.column


def test_the_anchor_gets_the_moving_average(finetuned):
    """Catches an average that is kept and then not used."""
    kept = state(finetuned, 4)
    params = checkpoint.load(finetuned / "anchor", networks=["body/unet"]).body.unet.params
    ours = np.asarray(params["conv_in"]["kernel"])
    path = "['unet']['conv_in']['kernel']"
    np.testing.assert_array_equal(ours, kept[f"['average']{path}"])
    assert (ours != kept[f"['params']{path}"]).any()


def test_pretraining_cuts_backgrounds_away(fresh, train_data, generate, poses, tmp_path):
    """Catches a stage that learns backgrounds, and a result that does not generate."""
    run = tmp_path / "run"
    settings = ("--accumulate", "2", "--background", "77")  # the program of `finetuned`
    assert train("pretrain", fresh, train_data, run, *settings) == 0
    assert changed(run / "anchor", fresh) == {"body/unet", "body/control"}
    pretrained = checkpoint.load(run / "anchor", networks=())
    assert pretrained.framing is not None and pretrained.appearance is None
    with Image.open(run / "grids" / "00000004.png") as grid:
        truth = np.asarray(grid)[:32, 64:]
    assert (truth[-8:] == 77).all() and (truth[:4] == 77).all()
    assert (truth[4:-8] != 77).any()
    assert generate("--no-face", anchor=run / "anchor", poses=two(poses, tmp_path / "two")) == 0
    assert probe(tmp_path / "out.mp4")[:2] == (2, (64, 64))


def test_the_face_is_trained_and_repaints(finetuned, train_data, generate, poses, tmp_path):
    """Catches a face stage that trains the body, reads other pictures, or makes an anchor whose
    face `generate` cannot use."""
    run, before = tmp_path / "run", finetuned / "anchor"
    assert train("face", before, train_data, run) == 0
    assert changed(run / "anchor", before) == {"face/unet", "face/control"}
    face = checkpoint.load(run / "anchor", networks=()).settings.face
    assert (face.size, face.fit, face.guidance) == (32, "crop", 1.0)
    ours, theirs = (checkpoint.load(x, networks=()).framing for x in (run / "anchor", before))
    assert ours is not None and ours == theirs
    options = {
        "anchor": run / "anchor",
        "poses": two(poses, tmp_path / "two"),
        "face_landmarks": landmarks(tmp_path / "points.json", [SMALL] * 2),
        "face_size": 16,
        "frames_dir": tmp_path / "frames",
    }
    assert generate(**options) == 0
    assert len(video.read_frames(tmp_path / "frames")[0]) == 2


def test_a_complete_run_is_left_alone(finetuned, fresh, train_data, capsys):
    """Catches a result that is made anew."""
    before = {path: path.stat().st_mtime_ns for path in finetuned.glob("anchor/**/*")}
    assert train("finetune", fresh, train_data, finetuned, "--accumulate", "2") == 0
    assert "is complete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finetuned.glob("anchor/**/*")} == before


def test_what_is_cached_gives_the_same_losses(finetuned, fresh, train_data, tmp_path):
    """Catches encodings of other frames, another reference, or pictures prepared otherwise."""
    run = tmp_path / "run"
    assert train("finetune", fresh, train_data, run, "--accumulate", "2", "--no-cached") == 0
    ours, theirs = logged(run), logged(finetuned)
    assert [line.get("frames") for line in ours] == [line.get("frames") for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        if "loss" in line:
            np.testing.assert_allclose(line["loss"], expected["loss"], rtol=1e-5)


def test_the_published_list_trains(fresh, tmp_path):
    """Catches a data set of the published lists that lacks what a stage needs."""
    lines = []
    for i in range(4):
        for name in ("target", "pose"):
            pixels = np.full((32, 32, 3), 50 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{i}.png")
        names = {"source": f"pose{i}.png", "target": f"target{i}.png", "reference": "target0.png"}
        lines.append(json.dumps(names))
    (tmp_path / "list.json").write_text("\n".join(lines) + "\n", "utf-8")
    data = tmp_path / "data"
    assert cli.main(["prepare", "--list", str(tmp_path / "list.json"), "--out", str(data)]) == 0
    assert train("finetune", fresh, data, tmp_path / "run", "--accumulate", "2") == 0
