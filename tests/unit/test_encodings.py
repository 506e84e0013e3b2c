"""What frozen networks make of frames, kept beside a data set: the files, and what is in them."""

import pickle
from dataclasses import replace
from fractions import Fraction

import jax
import numpy as np
import pytest

from anchor_jax.checkpoint import Anchor
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import ClipRecord, Dataset, decode
from anchor_jax.data.encodings import Encodings
from anchor_jax.errors import AnchorError
from anchor_jax.models import init_params
from anchor_jax.train import frozen, small_anchor
from anchor_jax.train.frozen import Cached, Encoder, StagePictures, cache
from tests.anchors import make_anchor
from tests.programs.training import write_data

BODY = StagePictures(matte="matte", background=77)
FACE = StagePictures("face", "face_pose", mask="face_mask")
KEY = "0123456789abcdef" * 4


def made(folder, key: str = KEY) -> Encodings:
    """Of two clips, of three and two frames."""
    clips = ClipRecord("a", "p", 3), ClipRecord("b", "p", 2)
    dataset = Dataset(folder, {"target": (8, 8)}, Fraction(30), clips)
    return Encodings(dataset, key, {"x": (2,), "y": (1, 3)})


def arrays(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(frames, 2)), "y": rng.normal(size=(frames, 1, 3))}


def test_arrays_come_back_by_the_number_in_the_data_set(tmp_path):
    """Catches frames of the wrong clip, other numbers than float32, and workers that cannot get a
    copy or get the files' content with it."""
    encodings, kept = made(tmp_path), [arrays(3), arrays(2, 1)]
    for clip, content in enumerate(kept):
        encodings.write(clip, content)
    copy = pickle.loads(pickle.dumps(encodings))
    for name in ("x", "y"):
        whole = np.concatenate([content[name] for content in kept]).astype(np.float32)
        for frame in range(5):
            for one in (encodings, copy):
                np.testing.assert_array_equal(one.read(name, frame), whole[frame])
                assert one.read(name, frame).dtype == np.float32
    assert len(pickle.dumps(encodings)) < 1000


def test_other_networks_have_other_folders(tmp_path):
    """Catches encodings of other weights that are taken for these."""
    made(tmp_path).write(0, arrays(3))
    assert made(tmp_path).missing() == [1]
    assert made(tmp_path, KEY[::-1]).missing() == [0, 1]


def test_half_a_clip_is_missing(tmp_path):
    """Catches a clip that counts as done when one of its arrays is there, a failed write that
    leaves something, and one that spoils what is there."""
    encodings = made(tmp_path)
    encodings.write(1, arrays(2))
    (encodings.folder / "y-00001.npy").unlink()
    before = sorted(encodings.folder.iterdir())
    assert encodings.missing() == [0, 1]
    (encodings.folder / "y-00001.npy").mkdir()  # so that it cannot be written
    with pytest.raises(AnchorError, match=r"cannot write .*; .* earlier clips are kept"):
        encodings.write(1, arrays(2))
    (encodings.folder / "y-00001.npy").rmdir()
    assert sorted(encodings.folder.iterdir()) == before


def test_damage_is_one_line(tmp_path):
    """Catches a traceback, or numbers of another frame, where a file is cut short or another's."""
    encodings = made(tmp_path)
    encodings.write(0, arrays(3))
    path = encodings.folder / "x-00000.npy"
    np.save(path, np.zeros((2, 2), np.float32))
    with pytest.raises(AnchorError, match=r"x-00000.npy: cannot be read \(float32 \(2, 2\)"):
        encodings.read("x", 0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(AnchorError, match="remove it and start again"):
        encodings.read("x", 0)
    path.unlink()
    with pytest.raises(AnchorError, match="No such file"):
        encodings.read("x", 0)


@pytest.fixture(scope="module")
def anchor() -> Anchor:
    """The frozen networks of a small anchor, drawn at random."""
    configs = small_anchor.make_configs(small_anchor.PRESETS["debug"])
    used = {"vae": configs.vae, "image_encoder": configs.image_encoder}
    params = {name: init_params(config, jax.random.key(0)) for name, config in used.items()}
    return make_anchor(used, params, np.zeros((5, 16), np.float32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Two clips with all pictures, whose frames do not fill the last batch. Do not write here, but
    for what is cached."""
    clips = frozen.BATCH + 1, 2
    return datasets.load(write_data(tmp_path_factory.mktemp("encoded") / "data", clips=clips))


@pytest.mark.parametrize("pictures", [BODY, FACE])
def test_what_is_cached_is_what_the_networks_make(anchor, dataset, pictures):
    """Catches another picture, mask or background than the step without the cache sees, a last
    batch that is wrong, and tokens of the frame instead of its reference."""
    encoder = Encoder(anchor, pictures)
    found = Cached(cache(encoder, dataset, None, progress=False))
    source = dataset.source()
    for frame, reference in ((0, 3), (frozen.BATCH, 1), (len(dataset) - 1, len(dataset) - 2)):
        read = lambda number, name: decode(name, source[number][name])
        images = [
            pictures.composed(
                read(number, pictures.target), pictures.matte and read(number, pictures.matte)
            )[None]
            for number in (frame, reference)
        ]
        masks = None if pictures.mask is None else read(frame, pictures.mask)[None]
        expected = encoder.encode(*images, masks)
        example = found(frame, reference)
        assert example.keys() == expected.keys()
        assert ("masked_posterior" in example) == (pictures is FACE)
        for name in expected:
            ours, theirs = example[name], np.asarray(expected[name])[0]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_key_is_of_all_that_decides(anchor, dataset):
    """Catches encodings that stay when weights, background, pictures or frames change."""
    key = Encoder(anchor, BODY).key
    params = jax.tree.map(np.array, anchor.vae.params)
    params["encoder"]["conv_in"]["bias"][0] += 1e-3
    changed = replace(anchor, vae=replace(anchor.vae, params=params))
    others = {
        key(dataset),
        Encoder(changed, BODY).key(dataset),
        Encoder(anchor, replace(BODY, background=78)).key(dataset),
        Encoder(anchor, FACE).key(dataset),
        key(replace(dataset, clips=dataset.clips[::-1])),
    }
    assert len(others) == 5
    same = replace(dataset, path=dataset.path / "elsewhere")
    assert Encoder(anchor, BODY).key(same) == key(dataset)


def test_a_stopped_pass_goes_on(anchor, dataset, tmp_path, monkeypatch):
    """Catches clips that are encoded twice, and one that was cut short taken for whole."""
    encoder, encode, done = Encoder(anchor, BODY), frozen._encode_frames, []

    def stop(encoder: Encoder, frames: list) -> dict[str, np.ndarray]:
        if len(done) == 1:  # within the first clip
            raise KeyboardInterrupt
        return count(encoder, frames)

    def count(encoder: Encoder, frames: list) -> dict[str, np.ndarray]:
        done.append(len(frames))
        return encode(encoder, frames)

    monkeypatch.setattr(frozen, "_encode_frames", stop)
    with pytest.raises(KeyboardInterrupt):
        cache(encoder, dataset, tmp_path, progress=False)
    monkeypatch.setattr(frozen, "_encode_frames", count)
    assert cache(encoder, dataset, tmp_path, progress=False).missing() == []
    assert done == [4, 4, 1, 2]
    (next(tmp_path.iterdir()) / "tokens-00001.npy").unlink()
    cache(encoder, dataset, tmp_path, progress=False)
    assert done == [4, 4, 1, 2, 2]
