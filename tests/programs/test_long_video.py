"""`python -m benchmarks.long_video` on an anchor nobody trained."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anchor_jax import checkpoint
from anchor_jax.generation import unfinished
from anchor_jax.studies.clip import read_clip
from benchmarks.long_video import methods
from benchmarks.long_video import run as program
from benchmarks.long_video.scores import Meter, PingPong

pytestmark = pytest.mark.slow  # compiles the networks for windows of 16 frames


@pytest.fixture
def clip(test_clip):
    return read_clip(test_clip)


def test_both_methods_are_measured_to_the_end(drawn, test_clip, tmp_path, monkeypatch):
    """Catches frames that nobody measured, minutes that are not counted, the results of one method
    that replace the other's, and a table without them."""
    monkeypatch.setattr(program, "run_alone", lambda run, *args, advice: run(*args))
    words = ["--anchor", drawn, "--clip", test_clip, "--frames", 40, "--chained-frames", 33]
    words += ["--minute", 20, "--steps", 1, "--out", tmp_path]
    assert program.main(list(map(str, words))) == 0
    pictures = ["long_video-chained.png", "long_video-overlapping.png"]
    assert sorted(os.listdir(tmp_path)) == [*pictures, *(f"long_video.{x}" for x in ENDINGS)]
    told = json.loads((tmp_path / "long_video.json").read_text())["methods"]
    assert [(name, x["frames"]) for name, x in told.items()] == [
        ("overlapping windows", 40),
        ("chained clips", 33),
    ]
    for result in told.values():
        assert len(result["minutes"]) == 2 and len(result["cycles"]) == -(-result["frames"] // 18)
        assert all(-1 <= row["identity"] <= 1 for row in result["minutes"])
        assert all(len(row["colour"]) == 3 for row in result["minutes"])
    table = (tmp_path / "long_video.md").read_text()
    assert table.count("| chained clips | minute ") == 2 and "first cycle" in table


ENDINGS = "json", "md", "svg"


def test_the_motion_goes_there_and_back():
    """Catches a turning point that stands still for a frame, and an index out of the clip."""
    order = PingPong(4)
    assert [order.index(number) for number in range(8)] == [0, 1, 2, 3, 2, 1, 0, 1]
    assert [PingPong(1).index(number) for number in range(3)] == [0, 0, 0]


def test_the_truth_has_no_drift_and_a_change_is_seen(drawn, clip):
    """Catches frames that are compared with another pose's, and a score that sees nothing."""
    meter = Meter(checkpoint.load(drawn, networks=["image_encoder"]), clip)
    indices = np.array([7, 2, 2])
    assert clip.truth is not None
    same = meter.measure(clip.truth[indices], indices)
    np.testing.assert_allclose(same["identity"], 1, atol=1e-6)
    np.testing.assert_allclose(same["sharpness"], 1)
    assert np.isinf(same["psnr"]).all() and not same["colour"].any() and not same["spread"].any()
    bluer, faceless = clip.truth[indices].copy(), clip.truth[indices].copy()
    bluer[..., 2] += 20
    faceless[:, 4:14, 11:21] = 0
    scores = meter.measure(bluer, indices)
    np.testing.assert_allclose(scores["colour"], np.broadcast_to([0, 0, 20], (3, 3)), atol=1e-9)
    np.testing.assert_allclose(scores["background_psnr"], 10 * np.log10(3 * 255**2 / 20**2))
    scores = meter.measure(faceless, indices)
    assert (scores["identity"] < 0.99).all() and np.isinf(scores["background_psnr"]).all()
    assert (scores["sharpness"] < 0.9).all()  # the edges of the wall are gone
    other = meter.measure(clip.truth[indices], indices[::-1].copy())
    assert np.isfinite(other["psnr"][[0, 2]]).all()


@pytest.mark.parametrize("count", [5, 16, 17, 40])
def test_a_chain_continues_from_its_last_frame(drawn, clip, monkeypatch, count):
    """Catches a frame that comes twice, or never, where two clips meet, a first frame that is not
    held, and a picture of the person that stays the first."""
    anchor = checkpoint.load(drawn)
    pictures, calls = [], []

    def denoise(_, __, noise, poses, num_real, held, ___):
        calls.append((poses[:num_real, 0, 0, 0].tolist(), held is not None))
        return noise * len(calls)

    def encode(_, picture):
        pictures.append(picture)
        return np.zeros((1, 1))

    monkeypatch.setattr(methods, "_denoise_clip", denoise)
    monkeypatch.setattr(methods, "encode_appearance", encode)
    monkeypatch.setattr(methods, "denoiser_params", lambda *_: None)

    def poses(start: int):
        return (np.full((32, 32, 3), number, np.uint8) for number in range(start, count))

    sampling = replace(anchor.settings.sampling, window=16, dtype="float32")
    frames = np.concatenate(list(methods.Chain(anchor, clip, poses, sampling)))
    assert len(frames) == count
    starts = range(0, max(count - 1, 1), 15)
    assert [numbers for numbers, _ in calls] == [
        list(range(start, min(start + 16, count))) for start in starts
    ]
    assert [held for _, held in calls] == [False] + [True] * (len(starts) - 1)
    np.testing.assert_array_equal(pictures[0], clip.appearance)
    for picture, start in zip(pictures[1:], starts[1:], strict=True):
        np.testing.assert_array_equal(picture, frames[start])


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_stopped_run_goes_on(drawn, test_clip, tmp_path, monkeypatch, name):
    """Catches frames that are generated from another state, or measured twice, after a stop."""
    monkeypatch.setattr(program, "run_alone", lambda run, *args, advice: run(*args))
    monkeypatch.setattr(unfinished, "_FIRST", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", 1e9)  # save after each batch
    words = ["--anchor", drawn, "--clip", test_clip, "--frames", 40, "--minute", 20, "--steps", 1]
    words += ["--methods", name]

    def run(folder: Path) -> None:
        assert program.main([*map(str, words), "--out", str(folder)]) == 0

    run(tmp_path / "whole")
    measure, calls = Meter.measure, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(Meter, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    run(tmp_path / "stopped")
    whole, again = (
        json.loads((tmp_path / folder / "long_video.json").read_text())["methods"][name]
        for folder in ("whole", "stopped")
    )
    for key in ("frames", "minutes", "cycles"):
        assert whole[key] == again[key]
