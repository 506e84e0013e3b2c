"""The embedded default as it is shipped: complete, small, and as good as the pages say; and that
every command drives an anchor at its own settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anchor_jax import checkpoint, cli, load
from anchor_jax.assets import MANIFEST, SHIPPED, open_assets
from anchor_jax.data import video
from anchor_jax.data.pictures import read_image
from anchor_jax.demo import demo
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.studies import run as studies
from anchor_jax.studies.clip import Variant, generate_and_measure, read_clip
from anchor_jax.studies.results import Result
from anchor_jax.studies.run import Row, Study

# One window, of a gesture that is harder than most: the whole clip has 29.3, 29.1 and 21.3 dB.
FRAMES = 16
MEASURED = {"body/psnr": 28.5, "face/psnr": 28.4, "hands/psnr": 18.1}


@pytest.fixture(scope="module")
def shipped():
    return open_assets()


def test_what_is_shipped_is_all_there_and_small(shipped):
    """Catches files that were not committed or are left over, a package that grows, and anchors
    without the part that the demo needs."""
    files = [path for path in SHIPPED.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < 17_000_000  # the free body is one of them
    names = {str(path.relative_to(SHIPPED)) for path in files} - {"__init__.py", MANIFEST}
    names = {name for name in names if not name.startswith("body/")}  # has a hash of its own
    assert names == set(json.loads((SHIPPED / MANIFEST).read_text())["files"])
    assert checkpoint.load(shipped.anchor, networks=()).trained_face is not None
    assert checkpoint.load(shipped.pretrained, networks=()).face is None
    assert shipped.train is not None


def test_the_shipped_anchor_has_a_name(shipped, tmp_path, monkeypatch, capsys):
    """Catches a command or a function that does not know the name, a picture of somebody else, and
    a user's own anchor that is passed over."""
    monkeypatch.chdir(tmp_path)
    anchor = load("shipped", networks=())
    np.testing.assert_array_equal(anchor.appearance, read_image(shipped.test / "appearance.png"))
    checkpoint.check_stored(Path("shipped"), ["vae"])
    assert cli.main(["inspect", "shipped"]) == 0
    assert f"{shipped.anchor}: ANCHOR" in capsys.readouterr().out
    assert cli.main(["export", "shipped", "--out", "exported"]) == 0
    assert (tmp_path / "exported" / "head").is_dir()
    shutil.copytree(shipped.pretrained, tmp_path / "shipped")
    assert load("shipped", networks=()).face is None


def test_the_shipped_anchor_follows_unseen_motion(shipped):
    """Catches weights of another training, a face that is not repainted, and a change anywhere in
    the generation that costs quality."""
    anchor, clip = checkpoint.load(shipped.anchor), read_clip(shipped.test, FRAMES)
    variant = Variant(anchor.settings).with_sampling(crossfade=False, seed=0)
    _, scores = generate_and_measure(anchor, clip, variant)
    assert {name: scores[name] for name in MEASURED} == pytest.approx(MEASURED, abs=0.3)
    _, without = generate_and_measure(anchor, clip, replace(variant, faces=False))
    assert scores["face/psnr"] > without["face/psnr"] + 2


def test_generate_without_options_gives_the_demos_frames(shipped, tmp_path, monkeypatch):
    """Catches a command that drives the shipped anchor otherwise than it was trained (`generate`
    took the published settings for it), and a name or a picture of another anchor."""
    clip, count = read_clip(shipped.test, 3), 3
    poses, beside = tmp_path / "poses", tmp_path / "poses-conditions"
    video.write_frames(poses, clip.poses)
    source = conditions_beside(shipped.test / "poses")
    with np.load(source / TABLE, allow_pickle=False) as table:
        cut = {name: table[name][:count] for name in ("landmarks", "visible")}
        kept = {name: table[name] for name in table.files} | cut
    (beside / "face").mkdir(parents=True)
    np.savez(beside / TABLE, **kept)
    for path in sorted((source / "face").iterdir())[:count]:
        shutil.copy(path, beside / "face")
    made = []

    def keep(out, shown):
        made.append(shown.frames)

    monkeypatch.setattr(demo, "write_demo", keep)
    assert cli.main(["demo", "--frames", str(count), "--out", str(tmp_path / "demo")]) == 0
    words = ["generate", "shipped", "--poses", poses, "--out", tmp_path / "out.mp4"]
    words += ["--frames-dir", tmp_path / "frames"]
    assert cli.main(list(map(str, words))) == 0
    frames, _ = video.read_frames(tmp_path / "frames")
    np.testing.assert_array_equal(frames, made[0])


def test_windows_are_measured_at_the_anchors_own_settings(
    published, test_clip, tmp_path, monkeypatch
):
    """Catches published anchors that are measured as small ones, and options that are ignored."""
    seen = []

    def measure(row: Row, study: Study) -> Result:
        seen.append(row.variant.settings)
        return Result([{"body/psnr": 20.0}], {}, {}, np.zeros((8, 32, 32, 3), np.uint8))

    monkeypatch.setattr(studies, "_measure_alone", measure)
    words = ["bench", "windows", published, "--clip", test_clip, "--out", tmp_path / "out"]
    words += ["--frames", 8, "--seeds", 0, "--pairs", "8/2"]
    assert cli.main(list(map(str, words))) == 0
    assert cli.main([*map(str, words), "--guidance=3", "--crossfade"]) == 0
    first, second = seen
    assert (first.sampling.guidance, first.sampling.control_scale) == (7.5, 2.0)
    assert (first.sampling.window, first.sampling.overlap) == (8, 2)
    assert first.face.size == 256 and first.face.guidance == 3.5 and first.face.fit == "squash"
    assert second.sampling == replace(first.sampling, guidance=3.0, crossfade=True)
