"""`python -m benchmarks.tables`: the paper's tables with other numbers beside."""

import json
from pathlib import Path

import numpy as np
import pytest

from anchor_jax.assets import find_anchor
from anchor_jax.data.video import read_frames, write_frames
from benchmarks import tables


@pytest.fixture
def clip(tmp_path) -> Path:
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)
    for name in ("poses", "truth"):
        write_frames(tmp_path / "clip" / name, frames.repeat(3, 3))
    write_frames(tmp_path / "picture", frames[:1].repeat(3, 3))
    (tmp_path / "picture" / "000001.png").rename(tmp_path / "clip" / "appearance.png")
    for method in ("DisCo", "mine"):
        write_frames(tmp_path / method / "clip", frames.repeat(3, 3))
    return tmp_path / "clip"


def test_rows_and_columns_are_the_papers(clip, tmp_path, monkeypatch, capsys):
    """Catches a cell of another row or column, a method that is left out, a row that is generated
    as another one, videos that are generated twice, and
    videos of other settings that are used again."""
    generated, measured = [], []

    def generate_clip(anchor, clip, variant, progress):
        generated.append(variant)
        return clip.poses

    def measure(videos, truth, anchor, args):
        measured.append(videos)
        number = len(measured)
        scores = {"clip_frechet": 0.5, "fvd": 100.0 + number, "lmd_face": float(number)}
        return {"scores": scores, "notes": ["left out: fid, kid: no file"]}

    monkeypatch.setattr(tables, "generate_clip", generate_clip)
    monkeypatch.setattr(tables, "measure", measure)
    perturbed = find_anchor("shipped")  # by another name it is another anchor
    others = [f"{name}={tmp_path / name}" for name in ("mine", "DisCo")]
    words = ["--clips", clip, "--others", *others, "--perturbed", perturbed]
    words = [*map(str, words), "--frames", "3", "--steps", "2", "--out", str(tmp_path / "out")]
    assert tables.main(words) == 0
    told = capsys.readouterr()
    assert "left out: fid" in told.err
    cells = dict(line[2:-2].split(" | ", 1) for line in told.out.splitlines() if line[:2] == "| ")
    assert cells["Method"] == ("FID | Fréchet, CLIP | FVD | LMD (Face) | LMD (Body) | LMD (Hand)")
    assert cells["mine"] == "- | 0.500 | 101.00 | 1.00 | - | -"
    assert cells["DisCo"] == (
        "- (60.95) | 0.500 | 102.00 (390.77) | 2.00 (4.15) | - (5.11) | - (11.21)"
    )
    assert cells["TPS"].startswith("- (136.02) | - | - (884.97)")
    assert cells["w/o FE"] == "- (40.84) | 0.500 | 105.00 (124.10) | 5.00 (1.56) | - | -"
    assert cells["ws = 16, os = 4"].startswith("- (40.33) | 0.500 | 103.00 (139.82)")
    assert cells["ws = 32, os = 8"].startswith("- (41.01) | 0.500 | 108.00 (138.48)")
    found = [
        (x.settings.sampling.window, x.settings.sampling.overlap, x.fresh_noise, x.faces)
        for x in generated
    ]
    assert found == [
        (16, 4, False, True),
        (1, 0, True, True),
        (16, 4, False, False),
        (16, 4, False, True),
        (8, 2, False, True),
        (32, 8, False, True),
    ]
    assert all(x.settings.sampling.steps == 2 for x in generated)
    assert [len(read_frames(path)[0]) for path in measured[2]] == [3]
    rows = json.loads((tmp_path / "out" / "tables.json").read_text())["rows"]
    assert rows["SMPL perturbation"]["scores"]["fvd"] == 106
    assert tables.main(words) == 0 and len(generated) == 6
    words[words.index("--steps") + 1] = "3"
    assert tables.main(words) == 2  # the old videos are of two steps
    assert "has videos of another anchor, clip or setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--others", "DisCo"], "expected NAME=DIR"),
        (["--others", "DisCo=none"], "expected NAME=DIR"),
        (["--others", "Ours=."], "the anchor gives this row"),
        (["--clips", "a/x", "b/x"], "two clips have the same name"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    """Catches a traceback, and work before the mistake is told."""
    assert tables.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
