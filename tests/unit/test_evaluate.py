"""Whole videos held against their truth, by the command and from Python."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import anchor_jax
from anchor_jax import cli
from anchor_jax.data.video import read_frames, write_frames, write_video
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.colour import colour
from anchor_jax.evaluation.frechet import Gaussian, frechet_distance
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.sharpness import sharpness
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.generation import unfinished
from anchor_jax.generation.networks import encode_pictures
from anchor_jax.studies import evaluate as module
from anchor_jax.studies import measures
from anchor_jax.studies.evaluation import Evaluation, fvd_interval, interval
from anchor_jax.studies.video_pairs import _SAME_RATE, Block

PLAIN = (*module.OF_FRAMES, *module.OF_CHANGES)


def moving(count: int, seed: int = 0, size: tuple[int, int] = (32, 40)) -> np.ndarray:
    """A smooth pattern that moves to the left, with still columns at the right."""
    height, width = size
    x = np.arange(width + count) / 3
    stripes = np.stack([np.broadcast_to(x[i : i + width], size) for i in range(count)])
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    stripes[:, :, -8:] = 1
    return (127 + 100 * np.sin(stripes[..., None] + phases)).astype(np.uint8)


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two true videos of 40 and 21 frames as folders, and a noisy copy of each."""
    folder = tmp_path_factory.mktemp("videos")
    for name, count, sigma in (("a", 40, 8), ("b", 21, 3)):
        truth = moving(count, seed=count)
        write_frames(folder / "real" / name, truth)
        write_frames(folder / "made" / name, noisy(truth, sigma))
    return folder


def pair(videos: Path, *names: str) -> tuple[list[Path], list[Path]]:
    return [videos / "made" / x for x in names], [videos / "real" / x for x in names]


def test_scores_are_those_of_the_metrics(videos):
    """Catches blocks that lose the change between them, a mean over videos instead of frames, and
    a clip that begins elsewhere."""
    result = anchor_jax.evaluate(*pair(videos, "a", "b"), PLAIN, clip=25)
    both = [[read_frames(x / n)[0] for x in (videos / "made", videos / "real")] for n in "ab"]
    for metric in (psnr, ssim, l1, sharpness, colour, flicker, temporal_error):
        expected = [metric(*frames) for frames in both]
        name = metric.__name__
        for found, values in zip(result.values, expected, strict=True):
            np.testing.assert_allclose(found[name], values, rtol=1e-12)
        assert result.scores[name] == pytest.approx(np.concatenate(expected).mean())
        low, high = result.intervals[name]
        rows = [row[name] for *_, row in result.clips()]
        assert min(rows) - 1e-9 <= low < high <= max(rows) + 1e-9, name
    assert [(x, start) for x, start, _ in result.clips()] == [(0, 0), (0, 25), (1, 0)]
    assert [len(x) for x in result.pieces("flicker")] == [25, 14, 20]
    assert result.clips()[1][2]["l1"] == pytest.approx(l1(*both[0])[25:].mean())


def test_drift_is_from_the_first_ten_seconds_to_the_last():
    """Catches frames counted as seconds, the sign, and a drift of a short video."""
    levels = np.repeat([0, 2, 20, 5, 5], 10)  # by the ten seconds, at one frame a second
    facts = {"videos": [{"frames per second": "1"}, {"frames per second": None}]}
    values = [{"l1": levels.astype(float)}] * 2
    first, second = Evaluation(values, 300, {}, {}, facts=facts).drift()
    assert first == {"l1": 5} and np.isnan(second["l1"])


def test_the_worst_frames_are_found(videos, tmp_path):
    """Catches the best frames, and frames beside another truth."""
    frames = moving(40)
    spoilt = frames.copy()
    for place, number in enumerate((7, 33, 18)):
        spoilt[number] = 255 - (3 - place) * 20
    write_frames(tmp_path / "spoilt", spoilt)
    write_frames(tmp_path / "real", frames)
    worst = anchor_jax.evaluate([tmp_path / "spoilt"], [tmp_path / "real"], ["l1"]).worst
    assert {x.number for x in worst[:3]} == {7, 18, 33}
    assert all(x.generated.base is None for x in worst)  # no whole block is kept
    errors = [x.error for x in worst]
    assert errors == sorted(errors, reverse=True)
    for frame in worst:
        np.testing.assert_array_equal(frame.truth, frames[frame.number])
        np.testing.assert_array_equal(frame.generated, spoilt[frame.number])


def test_equal_videos_are_ideal_and_noise_is_not(videos, tmp_path):
    """Catches a metric with the sign of another."""
    truth = videos / "real" / "a"
    same = anchor_jax.evaluate([truth], [truth], PLAIN).scores
    ideal = {"psnr": np.inf, "ssim": 1, "l1": 0, "sharpness": 1, "colour": 0, "temporal_error": 0}
    assert {name: same[name] for name in ideal} == pytest.approx(ideal)
    scores = []
    for sigma in (2, 6, 18):
        write_frames(tmp_path / str(sigma), noisy(moving(40, seed=40), sigma))
        scores.append(anchor_jax.evaluate([tmp_path / str(sigma)], [truth], PLAIN).scores)
    for name, sign in (("psnr", -1), ("ssim", -1), ("l1", 1), ("temporal_error", 1)):
        assert np.all(np.diff([sign * x[name] for x in scores]) > 0), name


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"count": 39}, "39 and 40 frames"),
        ({"size": (48, 40)}, "is 40x48, the truth 40x32.*--resize"),
        ({"fps": 25}, "25 and 30 frames a second"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_videos_that_do_not_fit_are_refused(tmp_path, made, message):
    """Catches a score of frames that do not belong together."""
    fps = Fraction(made.pop("fps", 30))
    write_video(tmp_path / "made.mp4", moving(**{"count": 40, **made}), fps)
    write_video(tmp_path / "real.mp4", moving(40), Fraction(30))
    with pytest.raises(AnchorError, match=message):
        anchor_jax.evaluate([tmp_path / "made.mp4"], [tmp_path / "real.mp4"], PLAIN)


def test_other_sizes_are_resized_if_that_is_said(tmp_path):
    """Catches a resize that is not told."""
    write_frames(tmp_path / "made", moving(12, size=(64, 80)))
    write_frames(tmp_path / "real", moving(12))
    given = [tmp_path / "made"], [tmp_path / "real"], ["psnr"]
    result = anchor_jax.evaluate(*given, resized=True)
    (facts,) = result.facts["videos"]
    assert facts["resized from"] == [80, 64] and facts["size"] == [40, 32]
    assert np.isfinite(result.scores["psnr"])


def test_images_of_several_sizes_are_one_line(tmp_path):
    """Catches numpy's traceback."""
    write_frames(tmp_path / "real", moving(4))
    write_frames(tmp_path / "made", moving(3))
    write_frames(tmp_path / "other", moving(4, size=(48, 48)))
    os.rename(tmp_path / "other" / "000004.png", tmp_path / "made" / "000004.png")
    message = r"000004\.png is 48x48, the first image of the folder 40x32"
    with pytest.raises(AnchorError, match=message):
        anchor_jax.evaluate([tmp_path / "made"], [tmp_path / "real"], ["l1"])


def test_fvd_is_of_all_clips_of_both_sides(videos, monkeypatch):
    """Catches clips across two videos, the truth in the place of the generated side, and a video
    that is shorter than a clip. The network is replaced by the mean colour of each frame."""
    seen = []

    def logits(variables, clip):
        seen.append(clip)
        return np.pad(clip.mean((1, 2)).ravel(), (0, 400 - 27))

    monkeypatch.setattr(module.i3d, "load_i3d", lambda folder: ({}, "digest"))
    monkeypatch.setattr(measures, "clip_logits", logits)
    clips = module.Clips(9, 4)
    same = [videos / "real" / x for x in "ab"]
    result = anchor_jax.evaluate(same, same, ["fvd"], clips=clips)
    assert len(seen) == 2 * (8 + 4)
    assert result.scores["fvd"] == pytest.approx(0, abs=1e-6)
    assert result.intervals["fvd"] == pytest.approx((0, 0), abs=1e-6)
    found = anchor_jax.evaluate(*pair(videos, "a", "b"), ["fvd"], clips=clips)
    low, high = found.intervals["fvd"]
    assert found.scores["fvd"] > 0 and low < found.scores["fvd"] < high
    assert found.facts["fvd"] == {"length": 9, "stride": 4, "resize": "published"}
    assert found.facts["weights"] == {"i3d-kinetics-400.ckpt": "digest"}
    with pytest.raises(AnchorError, match="21 frames, but FVD needs clips of 30"):
        anchor_jax.evaluate(*pair(videos, "a", "b"), ["fvd"], clips=module.Clips(30))
    with pytest.raises(AnchorError, match="at least two clips of 21 frames"):
        anchor_jax.evaluate(*pair(videos, "b"), ["fvd"], clips=module.Clips(21))


def test_sets_of_frames_are_compared_by_their_tokens(videos):
    """Catches the tokens of one side for both, and a distance that the order of frames changes."""
    anchor = anchor_jax.load("shipped", networks=["image_encoder"])
    names = ["clip_frechet", "clip_kernel"]
    given = pair(videos, "a", "b")
    found = anchor_jax.evaluate(*given, names, anchor=anchor).scores
    assert found["clip_frechet"] > 0 and list(found) == names
    both = [np.concatenate([read_frames(path)[0] for path in paths]) for paths in given]
    tokens = [encode_pictures(anchor.image_encoder, x, 16)[:, 0] for x in both]
    first, second = (Gaussian(x.shape[1], x) for x in tokens)
    expected = frechet_distance(first, second)
    assert found["clip_frechet"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    with pytest.raises(AnchorError, match="clip_frechet and clip_kernel need an anchor"):
        anchor_jax.evaluate(*given, names)


def test_the_command_writes_numbers_a_table_and_a_page(videos, tmp_path, capsys):
    """Catches a file that is missing, a page with links to others, and a folder of the user's that
    is replaced."""
    made, real = pair(videos, "a", "b")
    words = ["evaluate", "--generated", *made, "--truth", *real, "--metrics", *PLAIN]
    words = [*map(str, words), "--clip", "25", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "| video 2, frames 1 to 21 |" in printed and "| video 1, frames 26 to 40 |" in printed
    assert (tmp_path / "out" / "evaluation.md").read_text() == printed
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [len(x["psnr"]) for x in content["frames"]] == [40, 21]
    assert content["videos"][1]["truth"] == str(real[1])
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("data:image/png") == 4 and report.count("data:image/svg+xml") == 1
    assert 'src="/' not in report and "http" not in report.replace("http://www.w3.org", "")
    assert cli.main(words) == 0  # it replaces its own results
    (tmp_path / "out" / "mine.txt").touch()
    assert cli.main(words) == 2
    assert "holds other files, such as mine.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--truth", "real/a", "real/b"],
            "1 generated videos, but 2 true videos: expected as many",
        ),
        (["--truth", "none"], "none does not exist"),
        (["--truth", "real/a", "--weights", "none"], "none is no folder"),
        (
            ["--truth", "real/a", "--poses", "real/a"],
            "there is no real/a-conditions/conditions.npz",
        ),
        (["--truth", "real/a", "--weights", "none", "--metrics", "fvd"], "none is no folder"),
    ],
)
def test_bad_input_is_one_line(videos, tmp_path, monkeypatch, capsys, words, message):
    """Catches a traceback, and a folder that is written all the same."""
    monkeypatch.chdir(videos)
    out = tmp_path / "out"
    assert cli.main(["evaluate", "--generated", "made/a", *words, "--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert message in told[-1] and not out.exists()


class Killed(Exception):
    pass


def test_an_interrupted_evaluation_goes_on(videos, tmp_path, monkeypatch):
    """Catches frames that are measured twice or lost, a change or a clip that ends where it was
    interrupted, and worst frames that are forgotten."""
    monkeypatch.setattr(module.i3d, "load_i3d", lambda folder: ({}, "digest"))
    monkeypatch.setattr(
        measures, "clip_logits", lambda _, clip: np.pad(clip.mean((1, 2)).ravel(), (0, 400 - 27))
    )
    anchor = anchor_jax.load("shipped", networks=["image_encoder"])
    names = [*PLAIN, "flow_error", "clip_frechet", "clip_kernel", "fvd"]

    def comparison() -> module.Comparison:
        clips = module.Clips(9, 4)
        return module.Comparison(*pair(videos, "a", "b"), names, anchor=anchor, clips=clips)

    whole = comparison().run()
    own_save = unfinished.Unfinished.save
    # In the first video, in its last frames, and in the second video.
    for stop, count in ((1, 16), (2, 32), (4, 56)):
        saved = []

        def save(self, state, count, stop=stop, saved=saved):
            self._next = 0
            own_save(self, state, count)
            saved.append(count)
            if len(saved) == stop:
                raise Killed

        def run() -> Evaluation:
            with unfinished.open_unfinished(tmp_path / "out", {}) as state:
                return comparison().run(unfinished=state)

        with monkeypatch.context() as patch:
            patch.setattr(unfinished.Unfinished, "save", save)
            with pytest.raises(Killed):
                run()
        assert saved[-1] == count
        again = run()
        assert again.scores == pytest.approx(whole.scores, rel=1e-9, abs=1e-9)
        assert again.floors == pytest.approx(whole.floors)
        for found, expected in zip(again.values, whole.values, strict=True):
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name])
        assert [(x.video, x.number) for x in again.worst] == [
            (x.video, x.number) for x in whole.worst
        ]
        assert not unfinished.folder_of(tmp_path / "out").exists()


def test_metrics_without_weights_are_left_out_and_named(videos, tmp_path, capsys):
    """Catches a metric that disappears in silence, and one that was asked for and is left out."""
    (tmp_path / "weights").mkdir()
    words = ["--generated", videos / "made" / "a", "--truth", videos / "real" / "a"]
    words = ["evaluate", *words, "--weights", tmp_path / "weights", "--clip", "20"]
    words = [*map(str, words), "--fvd-length", "41", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    told = capsys.readouterr().err
    people = "identity", "lmd_body, lmd_face, lmd_hands, jitter"
    for name in ("lpips", "stlpips", *people, "fid, kid"):
        assert f"note: left out: {name}: " in told
    assert "FVD needs clips of 41" in told
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(content["scores"]) == {*PLAIN, "flow_error"} and len(content["notes"]) == 6
    for name in ("stlpips", "identity", "fid"):
        assert cli.main([*words, "--metrics", name]) == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_videos_of_one_frame_and_few_clips_are_told(tmp_path, videos, monkeypatch, capsys):
    """Catches a traceback of an empty array, NaN without a reason, and a Frechet distance of few
    clips that looks like any other."""
    for name in ("made", "real"):
        write_frames(tmp_path / name, moving(1))
    words = ["--generated", tmp_path / "made", "--truth", tmp_path / "real", "--out"]
    words = ["evaluate", *map(str, words), str(tmp_path / "out"), "--metrics"]
    assert cli.main([*words, "psnr", "flicker", "flow_error"]) == 0
    told = capsys.readouterr()
    for name in ("flicker", "flow_error"):
        assert f"note: {name} has no score: " in told.err
    assert "| all | inf |  |  |" in told.out
    assert cli.main([*words, "fvd"]) == 2
    assert "1 frames, but FVD needs clips of 16" in capsys.readouterr().err
    anchor = anchor_jax.load("shipped", networks=["image_encoder"])
    one = [tmp_path / "made"], [tmp_path / "real"], ["clip_frechet"]
    with pytest.raises(AnchorError, match="clip_frechet need at least two frames"):
        anchor_jax.evaluate(*one, anchor=anchor)
    result = anchor_jax.evaluate(*pair(videos, "a"), ["clip_frechet"], anchor=anchor)
    (told,) = result.notes
    assert told.startswith("clip_frechet is of 40 frames, fewer than its features have dimensions")


def test_sets_of_features_react_to_noise_but_not_to_the_order(videos):
    """Catches features that are paired, and distances that fall as the frames get worse."""

    def score(frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        encode = lambda images: images[:, ::8, ::8].reshape(len(images), -1).astype(np.float32)
        sets = measures.FeatureSets(("fid", "kid"), encode, encode(truth).shape[1])
        for start in range(0, len(truth), 16):
            part = slice(start, start + 16)
            sets.add(Block(start, frames[part], truth[part]))
        return sets.scores()

    truth = moving(300)
    same, shuffled = score(truth, truth), np.random.default_rng(0).permutation(truth)
    assert score(shuffled, truth)["fid"] == pytest.approx(same["fid"], abs=1e-3 * truth.var())
    for name in ("fid", "kid"):
        worse = [score(noisy(truth, sigma), truth)[name] for sigma in (10, 30, 90)]
        assert same[name] < worse[0] < worse[1] < worse[2]
        forth, back = score(worse_frames := noisy(truth, 30), truth), score(truth, worse_frames)
        assert forth[name] == pytest.approx(back[name], rel=1e-6)


def test_a_short_clip_counts_as_many_frames_as_it_has():
    """Catches a mean of clips, which may not even hold the score."""
    pieces = [np.full(300, 30.0), *(np.full(10, 20.0 + k % 2) for k in range(20))]
    low, high = interval(pieces)
    assert low < np.concatenate(pieces).mean() < high
    assert np.isnan(interval([np.full(9, 3.0), np.zeros(0)])).all()
    assert np.isnan(interval([np.array([np.inf]), np.zeros(3)])).all()


def test_few_clips_have_no_interval_of_fvd():
    """Catches an interval without width, which looks certain."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(6, 400)) for _ in range(2)]
    low, high = fvd_interval(*clips)
    assert low < high and np.isnan(fvd_interval(*(x[:4] for x in clips))).all()


def test_a_changed_input_does_not_go_on(videos, tmp_path):
    """Catches a score of two different videos: a folder whose images are replaced by others of the
    same size and number."""
    grey = np.full((3, 16, 16, 3), 10, np.uint8)
    write_frames(tmp_path / "a", grey)
    write_frames(tmp_path / "b", grey)
    before = module.Comparison([tmp_path / "a"], [tmp_path / "b"], ["l1"]).stamps
    assert before == module.Comparison([tmp_path / "a"], [tmp_path / "b"], ["l1"]).stamps
    write_frames(tmp_path / "c", grey + 190)
    os.replace(tmp_path / "c" / "000002.png", tmp_path / "a" / "000002.png")
    assert before != module.Comparison([tmp_path / "a"], [tmp_path / "b"], ["l1"]).stamps


def test_rates_that_differ_in_writing_are_one():
    """Catches 29.97 and 30000/1001 refused, and 24 and 23.976 taken for one."""
    rates = Fraction(2997, 100), Fraction(30000, 1001), Fraction(24), Fraction(24000, 1001)
    same = [abs(x / y - 1) < _SAME_RATE for x, y in (rates[:2], rates[2:])]
    assert same == [True, False]


def test_calls_that_say_nothing_are_refused(videos):
    """Catches each letter of a path taken for a video, and an evaluation of nothing."""
    with pytest.raises(AnchorError, match="lists of videos"):
        anchor_jax.evaluate("a.mp4", "b.mp4")
    with pytest.raises(AnchorError, match="no metrics"):
        anchor_jax.evaluate(*pair(videos, "a"), [])


def test_what_is_unfinished_is_guarded(tmp_path, monkeypatch):
    """Catches two processes that write one state, a damaged description taken for another one's,
    and an output without a name."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    with (
        unfinished.open_unfinished(out, {"a": 1}),
        pytest.raises(AnchorError, match=r"another process is making .*out: wait"),
        unfinished.open_unfinished(out, {"a": 1}),
    ):
        pass
    assert unfinished.folder_of(Path(".")).name == f".{tmp_path.name}.unfinished"
    folder = unfinished.folder_of(out)
    folder.mkdir()
    (folder / "state.safetensors").touch()
    for text in ("", None):
        path = folder / "settings.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with (
            pytest.raises(AnchorError, match=r"damaged: remove .* to begin anew"),
            unfinished.open_unfinished(out, {"a": 1}),
        ):
            pass


def test_an_interrupt_says_how_to_go_on(videos, tmp_path, monkeypatch, capsys):
    """Catches a user who believes that an hour of work is lost."""
    save = unfinished.Unfinished.save

    def save_and_stop(self, state, count):
        self._next = 0
        save(self, state, count)
        raise KeyboardInterrupt

    words = ["--generated", videos / "made" / "a", "--truth", videos / "real" / "a"]
    words = ["evaluate", *map(str, words), "--metrics", "l1", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Unfinished, "save", save_and_stop)
        assert cli.main(words) == 130
    assert "the same command goes on after 16 frames" in capsys.readouterr().err
    assert cli.main([*words, "--clip", "7"]) == 2
    assert "other settings (clip)" in capsys.readouterr().err
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "note: goes on after the 16 frames of an earlier run" in told.err
    assert anchor_jax.evaluate(*pair(videos, "a"), ["l1"]).scores["l1"] == pytest.approx(
        json.loads((tmp_path / "out" / "evaluation.json").read_text())["scores"]["l1"]
    )
