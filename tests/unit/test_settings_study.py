"""What `bench settings` tries, keeps and shows, without the networks."""

import json
import math
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from anchor_jax import AnchorError
from anchor_jax.checkpoint import Settings
from anchor_jax.diffusion import Sampling
from anchor_jax.generation.pipeline import count_tasks
from anchor_jax.studies import settings
from anchor_jax.studies.clip import Variant
from anchor_jax.studies.settings import Grid, Part, study_settings
from anchor_jax.studies.settings_report import _MARKS, Choice, Report, Tried, _page, draw, table
from tests.anchors import make_anchor
from tests.programs.clips import write_clip

PRESENT = Choice(7.0, 2.0, 3)
VARIANT = Variant(Settings(Sampling(guidance=7.0, control_scale=2.0, steps=3)))
SIDE = 128  # of a frame, which is shown twice as large


def report(*tried: Tried, truth: bool = True, storable: bool = True) -> Report:
    frames = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    known = frames if truth else None
    return Report("my anchor", "clip", 4, PRESENT, VARIANT, frames, known, storable, [*tried])


def tried(guidance: float, scale: float, steps: int, grey: int = 0, **scores: float) -> Tried:
    frame = np.full((SIDE, SIDE, 3), grey, np.uint8)
    named = {name.replace("_", "/", 1): value for name, value in scores.items()}
    return Tried(Choice(float(guidance), float(scale), steps), frame, named)


def test_all_combinations_are_tried_once_after_the_present():
    """Catches present settings that are missing from the comparison, or tried twice, and values
    that are paired instead of combined."""
    grid = Grid((1.0, 7.0, 1.0), (1.0, 2.0), (3,))
    assert grid.choices(PRESENT) == [PRESENT, (1, 1, 3), (1, 2, 3), (7, 1, 3)]
    assert grid.choices(Choice(9.0, 9.0, 9))[0] == (9, 9, 9)


def test_the_marked_one_is_the_cheapest_of_the_best():
    """Catches more steps for nothing, NaN that wins, and a mark where nothing was scored."""
    rows = [tried(1, 1, step, body_psnr=psnr) for step, psnr in ((9, 30.0), (4, 30.0), (2, 29.0))]
    rows.insert(0, tried(1, 1, 1, body_psnr=math.nan))
    made = report(*rows)
    assert made.best == (1, 1, 4)
    assert made.marks(Choice(1, 1, 4)) == ["highest PSNR"] and made.marks(PRESENT) == ["present"]
    assert report(tried(1, 1, 4)).best is None


def test_the_table_marks_the_best_of_each_score():
    """Catches the highest error in bold, rows in the order of the work, a column of nothing, and
    digits that are lost."""
    made = report(
        tried(7, 2, 3, body_psnr=20.0, body_l1=9.0, face_psnr=math.nan),
        tried(2.25, 1, 3, body_psnr=30.0, body_l1=5.0),
    )
    assert table(made).splitlines() == [
        "| guidance | control scale | steps | PSNR | L1 |  |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 2.25 | 1 | 3 | **30.00** | **5.00** | highest PSNR |",
        "| 7 | 2 | 3 | 20.00 | 9.00 | present |",
    ]
    bare = table(report(tried(7, 2, 3), truth=False))
    assert bare.splitlines()[0] == "| guidance | control scale | steps |  |"
    assert bare.endswith("\nThere are no scores, because the clip has no truth.")


def test_the_picture_has_each_frame_in_its_row_and_column():
    """Catches guidance and control scale exchanged, marks around the wrong frame, and a picture
    that cannot be drawn before all combinations are done."""
    made = report(
        tried(7, 2, 3, 50, body_psnr=20.0),
        tried(1, 1, 3, 60, body_psnr=30.0),
        tried(1, 2, 3, 70, body_psnr=25.0),
    )
    pixels = draw(made)
    found = {grey: np.argwhere((pixels == grey).all(-1)) for grey in (50, 60, 70)}
    assert {len(points) for points in found.values()} == {(2 * SIDE) ** 2}
    place = {grey: points.min(0) for grey, points in found.items()}
    assert place[60][0] == place[70][0] < place[50][0]  # guidance goes down
    assert place[60][1] < place[70][1] == place[50][1]  # control scale goes to the right
    present, highest = _MARKS.values()
    for grey, colour in ((50, present), (60, highest)):
        y, x = place[grey]
        np.testing.assert_array_equal(pixels[y - 2, x + 9], colour)
    assert draw(report(made.tried[0], truth=False)).shape[1] < pixels.shape[1]


def test_the_page_has_the_command_of_each_choice():
    """Catches a command that a shell would split, one that changes what a manifest checks, and
    scores that are promised where there are none."""
    rows = tried(7, 2, 3, body_psnr=20.0), tried(0.5, 1, 3, body_psnr=19.0)
    page = _page(report(*rows), b"")
    assert (
        "anchor-jax store &#x27;my anchor&#x27; --guidance 0.5 --control-scale 1 --steps 3\n"
        in page
    )
    assert "no scores" not in page and "<td><b>20.00</b></td>" in page
    page = _page(report(tried(7, 2, 3), truth=False, storable=False), b"")
    assert "anchor-jax store" not in page and "--guidance 7 --control-scale 2 --steps 3" in page
    assert "There are no scores" in page and "<table>" not in page


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip")


@pytest.fixture
def run(clip, tmp_path, monkeypatch):
    """Run the study of two combinations and the present settings with an untrained anchor, whose
    frames are `generated(variant)`."""
    anchor = make_anchor({}, {}, np.zeros((1, 1), np.float32))
    monkeypatch.setattr(settings.checkpoint, "load", lambda *_, **__: anchor)

    def start(generated, **options):
        def generate(anchor, part, variant, progress):
            with progress("generating", 0, "window") as advance:
                advance(count_tasks(variant.settings, len(part), None))
            return generated(part, variant.settings.sampling)

        monkeypatch.setattr(settings, "generate_clip", generate)
        grid = Grid((1.0,), (1.0,), (1, 2))
        return study_settings(
            Path("seth"), Part(clip, 4), grid, VARIANT, tmp_path / "out", **options
        )

    return start


def test_frames_are_consecutive_and_from_the_middle(run, clip, tmp_path):
    """Catches frames that are spread, so that windows and temporal error are of another motion, and
    a picture of another frame than the scores'."""
    from anchor_jax.data.video import read_frames

    truth, _ = read_frames(clip / "truth")
    results = run(lambda part, _: part.truth)
    assert all(np.array_equal(x.frame, truth[5]) for x in results)
    assert results[0].scores["temporal_error"] == 0
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["frames"] == [3, 7] and told["present"]["guidance"] == 7.0


def test_poses_truth_and_faces_have_one_size(clip):
    """Catches truth or face regions that keep their size while the poses are resized."""
    part, first = Part(clip, 4, (64, 48)).read()
    assert first == 3 and part.truth is not None and part.masks is not None
    assert part.poses.shape == part.truth.shape == (*part.masks.shape, 3) == (4, 48, 64, 3)


def test_one_bar_shows_the_whole_work(run):
    """Catches a bar for each combination, and time left that forgets the number of steps."""
    opened, counts = [], []

    @contextmanager
    def progress(what, total, unit):
        opened.append(total)
        yield counts.append

    run(lambda part, _: part.poses, progress=progress)
    assert opened == [sum(counts)] and counts == [3, 1, 2]


def test_what_was_done_before_a_stop_is_kept(run, tmp_path):
    """Catches an hour of work that Ctrl-C throws away, and a message that says so."""

    def stop(part, sampling):
        if sampling.steps == 2:
            raise KeyboardInterrupt
        return part.poses

    with pytest.raises(KeyboardInterrupt, match=r"settings\.html shows 2 of 3 combinations"):
        run(stop)
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert [row["steps"] for row in told["rows"]] == [3, 1]
    assert (tmp_path / "out" / "settings.png").stat().st_size > 0


def test_an_error_names_the_combination(run):
    """Catches values that are not finite without a word on which guidance gave them."""

    def fail(part, sampling):
        raise AnchorError("not finite")

    with pytest.raises(AnchorError, match="--guidance 7 --control-scale 2 --steps 3: not finite"):
        run(fail)


def test_a_clip_without_truth_has_no_scores(run, clip, tmp_path):
    """Catches a clip of poses and a picture that is refused, or scored against nothing."""
    shutil.rmtree(clip / "truth")
    results = run(lambda part, _: part.poses)
    assert [x.scores for x in results] == [{}] * 3
    told = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert told["highest_psnr"] is None
