"""Data sets: frames come back as they went in, damage is noticed, batches keep their order."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchor_jax.data import dataset as datasets
from anchor_jax.data import video
from anchor_jax.data.clips import read_clips
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches
from anchor_jax.data.pairing import VideoSource
from anchor_jax.data.pictures import resize
from anchor_jax.data.prepare import prepare
from anchor_jax.errors import AnchorError

NUM_FRAMES = 36  # of a video: clips of 20 and 16 frames
SIDE = 16  # pixels of a stored frame
CROP = (8, 2, 24)


def noise(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames that differ from one another everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def source(folder: Path, name: str, seed: int) -> VideoSource:
    """A video of 48x32 with a pose image of its own size for each frame, and mattes."""
    folder.mkdir(parents=True, exist_ok=True)
    path, poses = folder / f"{name}.mp4", folder / f"{name}-poses"
    video.write_video(path, noise(NUM_FRAMES, 32, 48, seed), Fraction(30))
    video.write_frames(poses, noise(NUM_FRAMES, 32, 48, seed + 1))
    video.write_frames(folder / f"{name}-mattes", noise(NUM_FRAMES, 32, 48, seed + 2))
    mattes = folder / f"{name}-mattes"
    return VideoSource(path, poses, name, "seth", mattes, length=20, size=SIDE, crop=CROP)


def make(folder: Path, sources: list[VideoSource]) -> Dataset:
    inputs = [path for of in sources for path in (of.path, of.poses)]
    return prepare(sources, folder, inputs=inputs, options={})


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[VideoSource]:
    folder = tmp_path_factory.mktemp("videos")
    return [source(folder, "a", 0), source(folder, "b", 10)]


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory) -> Dataset:
    """Two videos, prepared: four clips. Do not write here."""
    return make(tmp_path_factory.mktemp("data") / "data", sources)


@pytest.fixture
def damaged(sources, tmp_path) -> Dataset:
    """A data set for a test to spoil."""
    return make(tmp_path / "data", sources[:1])


def test_every_frame_comes_back_as_it_went_in(made, sources):
    """Catches lossy storage, a frame paired with a neighbour's pose or matte (at the seam of two
    clips above all), a pose that is cut elsewhere than its frame, and clips in another order."""
    stored = iter(made.source())
    left, top, side = CROP
    for of in sources:
        clips = list(read_clips(of.path, length=20, size=SIDE, crop=CROP, mattes=of.mattes))
        frames = np.concatenate([clip.frames for clip in clips])
        mattes = np.concatenate([clip.mattes for clip in clips if clip.mattes is not None])
        poses, _ = video.read_frames(of.poses)
        for number in range(NUM_FRAMES):
            example = next(stored)
            cut = poses[number, top : top + side, left : left + side]
            expected = {
                "target": frames[number],
                "pose": resize(np.ascontiguousarray(cut), (SIDE, SIDE)),
                "matte": mattes[number],
            }
            for name, pixels in expected.items():
                np.testing.assert_array_equal(datasets.decode(name, example[name]), pixels)
            assert example["clip"] == f"{of.name}-{number // 20:03d}".encode()
            assert example["identity"] == b"seth"
            assert example["frame"] == number % 20
    assert next(stored, None) is None


def test_tensorflow_datasets_reads_it_without_our_code(made):
    """Catches metadata that only this library understands."""
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(made.path)
    frames = builder.as_data_source("train")
    assert len(frames) == 2 * NUM_FRAMES
    pixels = datasets.decode("target", made.source()[5]["target"])
    np.testing.assert_array_equal(frames[5]["target"], pixels)


def test_a_data_set_that_is_there_is_described(made):
    """Catches names, sizes or numbers in the manifest that are not what is stored."""
    loaded = datasets.load(made.path)
    assert [(clip.name, clip.frames) for clip in loaded.clips] == [
        *(("a-000", 20), ("a-001", 16), ("b-000", 20), ("b-001", 16))
    ]
    assert loaded.pictures == dict.fromkeys(("target", "pose", "matte"), (SIDE, SIDE))
    counts: list[int] = []
    datasets.verify(loaded, counts.append)
    assert sum(counts) == 2 * NUM_FRAMES


def test_a_flipped_bit_is_found(damaged):
    """Catches a check that looks at sizes alone."""
    shard = damaged.shard(1)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(AnchorError, match=shard.name):
        datasets.verify(datasets.load(damaged.path))


@pytest.mark.parametrize("keep", [0, 1000, None])
def test_a_shard_that_is_short_or_gone_is_found_at_once(damaged, keep):
    """Catches training that begins with a data set copied in part."""
    shard = damaged.shard(0)
    if keep is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(AnchorError, match=rf"damaged: {shard.name} has"):
        datasets.load(damaged.path)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"format": 2}', '{"format": 1, "pictures": {"target": 3}}']
)
def test_a_broken_manifest_is_one_error(damaged, manifest):
    """Catches a traceback for a manifest that is cut short, foreign, or of a newer version."""
    (damaged.path / datasets.MANIFEST).write_text(manifest)
    with pytest.raises(AnchorError) as error:
        datasets.load(damaged.path)
    assert "\n" not in str(error.value)


def clip_of(made: Dataset, index: int) -> int:
    return int(np.searchsorted(made.starts, index, side="right"))


def test_the_reference_is_another_frame_of_the_same_clip(made):
    """Catches a target that is its own reference, a reference of another clip (one off at the
    seams), frames that never come as reference, and frames left out of an epoch."""
    pairs = []
    with Batches(made, 4, seed=3, num_epochs=20) as batches:
        for batch in batches:
            pairs += zip(batch["index"].tolist(), batch["reference_index"].tolist(), strict=True)
    assert all(target != reference for target, reference in pairs)
    assert all(clip_of(made, target) == clip_of(made, reference) for target, reference in pairs)
    assert {reference for _, reference in pairs} == set(range(len(made)))
    for epoch in range(20):
        part = pairs[epoch * len(made) : (epoch + 1) * len(made)]
        assert sorted(target for target, _ in part) == list(range(len(made)))
    assert len(set(pairs)) > 10 * len(made)  # drawn anew in each epoch


def test_a_batch_shows_the_frames_that_it_names(made):
    """Catches a reference's picture swapped with the target's, or a pose of the reference."""
    stored = made.source()
    with Batches(made, 3, seed=0) as batches:
        batch = next(batches)
    assert batch["target"].shape == (3, SIDE, SIDE, 3)
    for row in range(3):
        frame, other = stored[batch["index"][row]], stored[batch["reference_index"][row]]
        for name, of, picture in (
            *(("target", frame, "target"), ("pose", frame, "pose"), ("matte", frame, "matte")),
            *(("reference", other, "target"), ("reference_matte", other, "matte")),
        ):
            expected = datasets.decode(picture, of[picture])
            np.testing.assert_array_equal(batch[name][row], expected)


def test_mirroring_turns_all_pictures_of_an_example(made):
    """Catches a frame that is mirrored without its pose, reference or matte."""
    with Batches(made, 4, seed=1) as plain, Batches(made, 4, seed=1, flip=1.0) as mirrored:
        straight, turned = next(plain), next(mirrored)
    for name, pixels in straight.items():
        expected = pixels if pixels.ndim == 1 else pixels[:, :, ::-1]
        np.testing.assert_array_equal(turned[name], expected)


def indices(batches: Batches, count: int) -> list[list[int]]:
    taken = (next(batches) for _ in range(count))
    return [[*batch["index"].tolist(), *batch["reference_index"].tolist()] for batch in taken]


def test_the_seed_alone_decides_the_order(made):
    """Catches an order that depends on the run, and a seed without effect."""
    with (
        Batches(made, 5, seed=7) as a,
        Batches(made, 5, seed=7) as b,
        Batches(made, 5, seed=8) as c,
    ):
        first, again, other = indices(a, 6), indices(b, 6), indices(c, 6)
    assert first == again != other


def test_a_resumed_run_gets_the_same_batches(made):
    """Catches batches that come twice or are left out after a stop, across an epoch's end too."""
    with Batches(made, 5, seed=7) as batches:
        for _ in range(13):
            next(batches)
        state = json.loads(json.dumps(batches.get_state()))
        expected = [next(batches) for _ in range(4)]
    with Batches(made, 5, seed=7) as resumed:
        resumed.set_state(state)
        for batch in expected:
            again = next(resumed)
            assert batch.keys() == again.keys()
            for name in batch:
                np.testing.assert_array_equal(again[name], batch[name])


def test_the_state_of_another_order_is_refused(made):
    """Catches a run that silently goes on with other data than it began with."""
    batches, other = (Batches(made, 5, seed=seed) for seed in (7, 8))
    with pytest.raises(AnchorError, match="seed 8 instead of 7"):
        batches.set_state(other.get_state())


def test_workers_change_nothing_but_the_speed(made):
    """Catches batches out of order, lost or doubled with several processes, and a state that only
    fits the number of workers it came from."""
    with Batches(made, 5, seed=7) as plain, Batches(made, 5, seed=7, workers=2) as many:
        state, kept = {}, []
        for number in range(20):  # across an epoch's end
            if number == 13:
                state = many.get_state()
                assert state == plain.get_state()
            expected, batch = next(plain), next(many)
            assert expected.keys() == batch.keys()
            kept.append((expected, batch))
        many.set_state(state)
        for expected, _ in kept[13:16]:
            np.testing.assert_array_equal(next(many)["target"], expected["target"])
    for expected, batch in kept:
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_processes_share_the_frames(made):
    """Catches two processes that train on the same frames, or frames that none gets."""
    taken: list[int] = []
    for process in range(2):
        with Batches(made, 4, seed=2, num_epochs=1, process=(process, 2)) as batches:
            taken += [index for batch in batches for index in batch["index"].tolist()]
    assert sorted(taken) == list(range(len(made)))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"batch_size": 0}, {"seed": -1}, {"flip": 2.0}, {"workers": -1}, {"process": (2, 2)}),
        {"num_epochs": 1, "batch_size": 100},
    ],
)
def test_arguments_that_cannot_be_are_refused(made, wrong):
    """Catches endless loops and tracebacks out of grain."""
    with pytest.raises(AnchorError):
        Batches(made, **({"batch_size": 4, "seed": 0} | wrong))
