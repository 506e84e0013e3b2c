"""`anchor-jax train` refuses bad input with one line, and keeps what is there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.full_disk import largest_file

from .test_generate import one_error
from .test_prepare import digests
from .training import assert_same, logged, train, write_data


@pytest.fixture
def refuse(capsys, tmp_path):
    """Train, which has to fail with one line and to leave everything in `tmp_path` as it was; that
    line."""

    def run(stage: str, anchor: Path, data: Path, *more: object, out: Path | None = None) -> str:
        before = digests(tmp_path)
        capsys.readouterr()
        assert train(stage, anchor, data, out or tmp_path / "run", *more) == 2
        assert digests(tmp_path) == before
        assert not (tmp_path / "run").exists()
        return one_error(capsys)

    return run


@pytest.fixture
def half(finetuned, tmp_path) -> Path:
    """A run of which only the first two steps of four are kept, for a test to go on with."""
    run = shutil.copytree(finetuned, tmp_path / "half")
    shutil.rmtree(run / "anchor")
    shutil.rmtree(run / "checkpoints" / "4")
    return run


def with_sizes(data: Path, **sizes: tuple[int, int]) -> Path:
    """The data set, saying that its pictures have other sizes."""
    manifest = data / "dataset.json"
    content = json.loads(manifest.read_text("utf-8"))
    content["pictures"] |= {name: list(size) for name, size in sizes.items()}
    manifest.write_text(json.dumps(content), "utf-8")
    return data


def test_pictures_that_a_stage_needs(fresh, tmp_path, refuse):
    """Catches a stage that learns backgrounds for want of mattes, or fails in the loader."""
    data = write_data(tmp_path / "data", ("target", "pose"))
    told = refuse("pretrain", fresh, data)
    assert told.startswith(f"{data} has no matte, which pretrain needs; prepare it with mattes")
    assert f"{data} has no face, face_pose, face_mask" in refuse("face", fresh, data)
    told = refuse("finetune", fresh, tmp_path)
    assert f"{tmp_path} is not a data set" in told


def test_sizes(fresh, tmp_path, refuse):
    """Catches shapes that clash in the midst of the networks."""
    data = write_data(tmp_path / "data", ("target", "pose"), (33, 32))
    told = refuse("finetune", fresh, data)
    assert "target is 33x32, pose is 33x32: expected multiples of 2" in told
    told = refuse("finetune", fresh, with_sizes(data, target=(32, 32), pose=(16, 16)))
    assert "pictures of different sizes: target 32x32, pose 16x16" in told
    write_data(tmp_path / "short", ("target", "pose"), clips=(8, 1))
    assert "has 1 frames to draw from" in refuse("finetune", fresh, tmp_path / "short")


def test_other_architectures(half, fresh, anchor, weights, train_data, refuse):
    """Catches parameters of another network that go on with a run's moments, and a face that is
    trained where there is none."""
    told = refuse("finetune", anchor, train_data, "--accumulate", "2", out=half)
    assert f"{half} is a run with other settings: body/control." in told
    assert "give the same ones to go on, or a new --out" in told
    assert f"{anchor} has no face/unet" in refuse("face", anchor, train_data)
    assert "not an ANCHOR" in refuse("finetune", weights / "body", train_data)
    assert "no such folder" in refuse("finetune", weights / "gone", train_data)
    told = refuse("finetune", fresh, train_data, "--accumulate", "1", "--seed", "7", out=half)
    assert "accumulate was 2 and is 1; seed was 42 and is 7" in told


def test_a_damaged_checkpoint(half, fresh, train_data, capsys):
    """Catches a page of Orbax's messages, and a run that begins again over what is there."""
    for path in (half / "checkpoints" / "2" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    before = digests(half / "checkpoints")
    assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 2
    assert digests(half / "checkpoints") == before
    told = one_error(capsys)
    assert f"{half / 'checkpoints' / '2'}: cannot be read" in told
    assert "remove this checkpoint to go on from the one before" in told


def test_contradictions(fresh, train_data, refuse):
    """Catches settings that cannot all be meant, and problems that are told one by one."""
    told = refuse("finetune", fresh, train_data, "--accumulate", "3", "--flip", "0.5")
    assert "accumulate is 3: expected a divisor of batch_size, which is 2" in told
    assert "cached encodings cannot be mirrored" in told
    told = refuse("finetune", fresh, train_data, "--learning-rate", "10")
    assert "learning_rate is 10.0: expected 0 to 1" in told
    told = refuse("finetune", fresh, train_data, "--coordinator", "here")
    assert "--coordinator here: expected HOST:PORT,COUNT,INDEX" in told


def test_places_that_cannot_be_written(fresh, train_data, tmp_path, refuse, capsys):
    """Catches a user's file that is overwritten, and the work of hours that cannot be kept."""
    (tmp_path / "file").write_text("mine")
    mine, inside = tmp_path / "file", tmp_path / "file" / "run"
    told = refuse("finetune", fresh, train_data, out=mine)
    assert f"{mine}: exists and is no run; choose a new folder for --out" in told
    told = refuse("finetune", fresh, train_data, out=inside)
    assert f"cannot write {inside}: {mine} is not a folder" in told
    assert train("finetune", fresh, train_data, tmp_path / "run", "--encodings", inside) == 2
    told = one_error(capsys)
    assert told.startswith(f"cannot write {inside}") and f"{mine} is not a folder" in told
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_nan_names_step_and_frame(half, finetuned, fresh, train_data, tmp_path, capsys, step):
    """Catches weights that are spoilt by a damaged frame, one that is not found among the parts
    that a batch is computed in, and a run that cannot go on once it is repaired. Step 4 saves: also
    a state that is saved before it is looked at, and step 3: the name of step 4, which has begun by
    then."""
    settings = ("--accumulate", "2", "--encodings", tmp_path / "encodings")
    shutil.copytree(train_data / "encodings", tmp_path / "encodings")
    (frame, reference), _ = next(
        line["frames"] for line in logged(finetuned) if line["step"] == step and "loss" in line
    )
    kept = {}
    for path in (tmp_path / "encodings").glob(f"*/posterior-{frame // 8:05d}.npy"):
        kept[path] = np.load(path)
        spoilt = kept[path].copy()
        spoilt[frame % 8, 0, 0, 0] = np.nan
        np.save(path, spoilt)
    before = digests(half / "checkpoints")
    assert train("finetune", fresh, train_data, half, *settings) == 2
    told = one_error(capsys)
    what = (
        f"step {step}: the loss is not finite for frame {frame} with reference {reference} of the"
    )
    assert told.startswith(what) and "the last checkpoint is kept" in told
    assert digests(half / "checkpoints") == before
    for path, whole in kept.items():
        np.save(path, whole)
    assert train("finetune", fresh, train_data, half, *settings) == 0
    assert_same(half, finetuned, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax' threads
def test_a_disk_that_fills_keeps_the_last_checkpoint(half, finetuned, fresh, train_data, capsys):
    """Catches a traceback from a thread, half a checkpoint taken for a whole one, and the one
    before removed for it."""
    before = digests(half / "checkpoints")
    with largest_file(60_000):
        assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 2
    told = one_error(capsys)
    assert "cannot be written" in told and "that of step 2 is kept" in told
    assert before.items() <= digests(half / "checkpoints").items()
    assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 0
    assert_same(half, finetuned, 4)


def test_a_full_disk_keeps_the_last_checkpoint(
    half, finetuned, fresh, train_data, tmp_path, capsys, monkeypatch
):
    """Catches a disk that is filled to the brim where it is known to be too small, and steps that
    are done although their checkpoint has no place."""
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 2
        told = one_error(capsys)
        assert f"{half / 'checkpoints'}: no space left on the disk" in told and "needed" in told
        before_training = iter([usage.free])
        patch.setattr(
            shutil, "disk_usage", lambda path: usage._replace(free=next(before_training, 1000))
        )
        assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 2
    told = one_error(capsys)
    assert "the checkpoint of step 4 cannot be written: no space left on the disk" in told
    assert "that of step 2 is kept" in told
    assert train("finetune", fresh, train_data, half, "--accumulate", "2") == 0
    assert_same(half, finetuned, 4)
