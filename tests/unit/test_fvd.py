"""Fréchet distances against scipy, clips against their definition, and I3D against torch."""

import itertools
import pickle

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from scipy.linalg import sqrtm

from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import i3d
from anchor_jax.evaluation.frechet import Gaussian, frechet_distance
from anchor_jax.evaluation.fvd import Clips
from anchor_jax.evaluation.kernel import KernelDistance


def gaussian(features: np.ndarray, batch: int = 7) -> Gaussian:
    made = Gaussian(features.shape[1])
    for start in range(0, len(features), batch):
        made.add(features[start : start + batch])
    return made


def features(seed: int, count: int, size: int, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return mean + rng.normal(size=(count, size)) @ rng.normal(size=(size, size))


def test_mean_and_covariance_do_not_depend_on_the_batches():
    """Catches a batch that is weighted as another, the divisor n, and sums that lose digits where
    the mean is large."""
    x = features(0, 50, 6, mean=1e7)
    for batch in (1, 7, 50):
        made = gaussian(x, batch)
        assert made.count == 50
        np.testing.assert_allclose(made.mean, x.mean(0), rtol=1e-13)
        np.testing.assert_allclose(made.covariance(), np.cov(x.T), rtol=1e-6)


@pytest.mark.parametrize("count", [40, 4], ids=["full rank", "fewer vectors than dimensions"])
def test_the_distance_is_that_of_a_matrix_root(count):
    """Catches another sign, a root of each covariance alone, and a root that fails without full
    rank: the independent one adds 1e-6 to the diagonals there."""
    x, y = features(1, count, 8), features(2, count + 1, 8, mean=0.5)
    small = 0 if count > 8 else 1e-6 * np.eye(8)
    first, second = np.cov(x.T) + small, np.cov(y.T) + small
    shift = x.mean(0) - y.mean(0)
    root = np.real(sqrtm(first @ second))
    expected = shift @ shift + np.trace(first + second - 2 * root)
    found = frechet_distance(gaussian(x), gaussian(y))
    assert found == pytest.approx(expected, rel=1e-9 if count > 8 else 1e-3)
    assert frechet_distance(gaussian(y), gaussian(x)) == pytest.approx(found, rel=1e-6)
    assert abs(frechet_distance(gaussian(x), gaussian(x))) < 1e-5 * np.trace(first)


def test_the_kernel_distance_is_the_unbiased_estimate():
    """Catches products of a vector with itself, another kernel, and an estimate that depends on the
    batches."""
    x, y = features(3, 30, 5), features(4, 30, 5, mean=1)
    kernel = lambda a, b: (a @ b / 5 + 1) ** 3
    pairs = [(i, j) for i in range(30) for j in range(30)]
    apart = [(i, j) for i, j in pairs if i != j]
    expected = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in apart])
    expected -= 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    for batch in (30, 7):
        distance = KernelDistance()
        for start in range(0, 30, batch):
            distance.add(x[start : start + batch], y[start : start + batch])
        assert distance.value() == pytest.approx(expected, rel=1e-9)
    assert np.isnan(KernelDistance().value())


def test_the_kernel_distance_of_one_distribution_is_nothing():
    """Catches a bias that many vectors do not hide, and vectors of whole blocks that are lost."""
    rng = np.random.default_rng(0)
    values = []
    for shift in (0, 0.5):
        distance = KernelDistance()
        for _ in range(40):
            distance.add(rng.normal(size=(100, 8)), shift + rng.normal(size=(100, 8)))
        values.append(distance.value())
    assert abs(values[0]) < 0.01 < 0.3 < values[1]


def test_one_vector_has_no_covariance():
    """Catches a division by zero: a set with a single clip."""
    with pytest.raises(AnchorError, match="1 feature vectors"):
        frechet_distance(gaussian(features(0, 1, 3)), gaussian(features(0, 5, 3)))


@pytest.mark.parametrize(
    ("stride", "starts"), [(16, [0, 16, 32]), (5, [*range(0, 35, 5)]), (20, [0, 20])]
)
def test_clips_begin_where_the_stride_says(stride, starts):
    """Catches clips that skip or repeat frames, and the last frames as a clip of their own."""
    levels = np.arange(50, dtype=np.uint8)
    frames = (np.full((8, 8, 3), level, np.uint8) for level in levels)
    found = [clip[:, 0, 0, 0] for clip in Clips(16, stride).cut(frames)]
    assert len(found) == len(starts)
    for clip, start in zip(found, starts, strict=True):
        np.testing.assert_allclose(clip, levels[start : start + 16] / 127.5 - 1, atol=1e-6)


def test_a_clip_is_read_when_it_is_needed():
    """Catches a whole video in memory."""
    numbers = itertools.count()
    endless = (np.full((8, 8, 3), next(numbers) % 256, np.uint8) for _ in itertools.count())
    next(Clips(16, 16).cut(endless))
    assert next(numbers) == 16


def test_short_videos_and_wrong_clips_are_refused():
    """Catches a distance of no clips, and clips that the network cannot read."""
    with pytest.raises(AnchorError, match="10 frames: FVD needs at least one clip of 16"):
        list(Clips().cut(np.zeros((10, 8, 8, 3), np.uint8)))
    with pytest.raises(AnchorError, match="expected 9 or more"):
        Clips(length=8)


def test_published_resizing_is_tensorflows():
    """Catches pixel centres, antialiasing and another order of the axes: on a ramp, pixel i of the
    result is at i h / 224."""
    rows, columns = np.mgrid[:252, :336].astype(np.float64)
    frame = np.stack([rows / 2, columns / 2, rows / 4 + columns / 4], -1)
    rounded = frame.astype(np.uint8)
    (clip,) = Clips(9, 9).cut([rounded] * 9)
    places = np.arange(224)
    heights, widths = places * 252 / 224, places * 336 / 224
    shown = (clip[0] + 1) * 127.5
    assert np.abs(shown[..., 0] - heights[:, None] / 2).max() < 0.51
    assert np.abs(shown[..., 1] - widths / 2).max() < 0.51
    assert (shown[0, 0] == 0).all() and shown[-1, 0, 0] <= heights[-1] / 2


def test_antialiased_resizing_is_pillows():
    """Catches a filter that does not widen."""
    frame = np.random.default_rng(0).integers(0, 256, (448, 300, 3), np.uint8)
    (clip,) = Clips(9, 9, "antialiased").cut([frame] * 9)
    expected = Image.fromarray(frame).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.abs((clip[0] + 1) * 127.5 - np.asarray(expected, np.float64)).max() < 1.01


def torch_i3d(variables: dict, videos: np.ndarray) -> np.ndarray:
    """I3D in torch, written from the paper's figure 3 and TensorFlow's rule for padding."""
    leaves = {"/".join(names): np.array(leaf) for names, leaf in flatten_dict(variables).items()}
    as_torch = torch.from_numpy

    def padded(x, sizes, strides, value=0.0):
        amounts = []
        for length, size, stride in zip(x.shape[2:], sizes, strides, strict=True):
            out = -(-length // stride)
            total = max(0, (out - 1) * stride + size - length)
            amounts = [total // 2, total - total // 2, *amounts]
        return F.pad(x, amounts, value=value)

    def unit(x, name, size, stride=1):
        kernel = as_torch(leaves[f"params/{name}/Conv_0/kernel"]).permute(4, 3, 0, 1, 2)
        x = F.conv3d(padded(x, (size,) * 3, (stride,) * 3), kernel, stride=stride)
        mean, var = (leaves[f"batch_stats/{name}/BatchNorm_0/{n}"] for n in ("mean", "var"))
        shift = leaves[f"params/{name}/BatchNorm_0/bias"]
        return F.relu(
            F.batch_norm(x, as_torch(mean), as_torch(var), None, as_torch(shift), eps=1e-3)
        )

    def pool(x, sizes, strides):
        return F.max_pool3d(padded(x, sizes, strides, -np.inf), sizes, strides)

    def mixed(x, name):
        of = lambda branch, size: lambda y: unit(y, f"Mixed_{name}/Branch_{branch}", size)
        first = of("0/Conv3d_0a_1x1", 1)(x)
        second = of("1/Conv3d_0b_3x3", 3)(of("1/Conv3d_0a_1x1", 1)(x))
        third = of("2/Conv3d_0b_3x3", 3)(of("2/Conv3d_0a_1x1", 1)(x))
        last = of("3/Conv3d_0b_1x1", 1)(pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([first, second, third, last], 1)

    with torch.no_grad():
        x = unit(as_torch(videos).permute(0, 4, 1, 2, 3), "Conv3d_1a_7x7", 7, 2)
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = unit(unit(x, "Conv3d_2b_1x1", 1), "Conv3d_2c_3x3", 3)
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = mixed(mixed(x, "3b"), "3c")
        x = pool(x, (3, 3, 3), (2, 2, 2))
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = mixed(x, name)
        x = pool(x, (2, 2, 2), (2, 2, 2))
        x = F.avg_pool3d(mixed(mixed(x, "5b"), "5c"), (2, 7, 7), 1)
        last = "params/Logits/Conv3d_0c_1x1/Conv_0"
        kernel = as_torch(leaves[f"{last}/kernel"]).permute(4, 3, 0, 1, 2)
        return F.conv3d(x, kernel, as_torch(leaves[f"{last}/bias"])).mean((2, 3, 4)).numpy()


def test_i3d_is_torchs():
    """Catches another padding, order of branches, epsilon or pooling. Weights are random."""
    rng = np.random.default_rng(0)

    def draw(names, leaf):
        x = rng.normal(size=leaf.shape)
        if names[-1] == "kernel":
            x *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return np.asarray(np.exp(0.3 * x) if names[-1] == "var" else x, np.float32)

    shapes = flatten_dict(i3d._shapes())
    variables = unflatten_dict({names: draw(names, leaf) for names, leaf in shapes.items()})
    videos = rng.uniform(-1, 1, (1, 11, 224, 224, 3)).astype(np.float32)
    expected, found = torch_i3d(variables, videos), np.asarray(i3d.video_logits(variables, videos))
    assert found.shape == (1, 400)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    jax.clear_caches()  # of programs that no other test needs


def test_other_weights_are_refused_in_one_line(tmp_path, monkeypatch):
    """Catches a traceback, and a number that another network gave."""
    path = tmp_path / i3d.FILE.name
    path.write_bytes(pickle.dumps({"params": {"Conv3d_1a_7x7": {"kernel": np.zeros((2, 2))}}}))
    with pytest.raises(AnchorError, match=r"not the weights of I3D.*unknown.*expected") as error:
        i3d.load_i3d(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(AnchorError, match="none is no folder"):
        i3d.load_i3d(tmp_path / "none")
    path.unlink()
    monkeypatch.setattr(i3d, "find_spec", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(AnchorError, match=r"i3d-kinetics-400.ckpt.*af5c50.*anchor-jax\[evaluate\]"):
        i3d.load_i3d()
