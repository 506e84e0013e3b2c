"""The identity distance: its network against torch, its files, and where it looks in a picture."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import identity
from tests.unit.twins import channels_first, error, images


class Stored:
    """Arrays in the format of TensorFlow.js, drawn when a network first asks for them."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.entries, self.content = [], b""

    def draw(self, name: str, *shape: int, low: float, high: float, raw: bool = False):
        entry = {"name": name, "shape": list(shape), "dtype": "float32"}
        if raw:
            values = self.rng.uniform(low, high, shape).astype("<f4")
        else:
            values = self.rng.integers(0, 256, shape, np.uint8)
            entry["quantization"] = {"dtype": "uint8", "scale": (high - low) / 255, "min": low}
        self.entries.append(entry)
        self.content += values.tobytes()
        known = values if raw else values * ((high - low) / 255) + low
        return torch.from_numpy(known.astype(np.float32))

    def write(self, folder: Path) -> None:
        data, manifest = (folder / file.name for file in identity.FILES)
        data.write_bytes(self.content)
        manifest.write_text(json.dumps([{"weights": self.entries, "paths": [data.name]}]))


def torch_descriptor(stored: Stored, chips: np.ndarray) -> torch.Tensor:
    """dlib's descriptor in torch, written from its definition of the network."""

    def unit(x, name, width, size=3, stride=1):
        limit = (6 / (x.shape[1] * size**2)) ** 0.5
        shape, raw = (size, size, x.shape[1], width), width == 64
        kernel = stored.draw(f"{name}/conv/filters", *shape, low=-limit, high=limit, raw=raw)
        shift = stored.draw(f"{name}/conv/bias", width, low=-0.2, high=0.3)
        weights = stored.draw(f"{name}/scale/weights", width, low=0.3, high=1)
        biases = stored.draw(f"{name}/scale/biases", width, low=-0.4, high=0.2)
        padding = size // 2 if stride == 1 else 0
        x = F.conv2d(x, kernel.permute(3, 2, 0, 1), shift, stride, padding)
        return x * weights[:, None, None] + biases[:, None, None]

    def block(x, name, width, down):
        y = F.relu(unit(x, f"{name}/conv1", width, 3, 1 + down))
        y = unit(y, f"{name}/conv2", width)
        if down:
            x = F.avg_pool2d(x, 2)
            y = F.pad(y, (0, x.shape[3] - y.shape[3]) * 2)
            x = F.pad(x, (0, 0, 0, 0, 0, width - x.shape[1]))
        return F.relu(x + y)

    x = channels_first(chips) - torch.tensor([122.782, 117.001, 104.298])[:, None, None]
    x = F.max_pool2d(F.relu(unit(x / 256, "conv32_down", 32, 7, 2)), 3, 2)
    for width, names in ((32, "123"), (64, "d123"), (128, "d12"), (256, "d12o")):
        for n in names:
            suffix = {"d": "down", "o": "down_out"}.get(n, n)
            x = block(x, f"conv{width}_{suffix}", width, n in "do")
    return x.mean((2, 3)) @ stored.draw("fc", 256, 128, low=-0.1, high=0.1)


def test_descriptor_is_torchs(tmp_path):
    """Catches convolutions that pad where they halve, zeros at the other end, a skip without its
    mean, bytes that are scaled otherwise, and chips whose channels are swapped."""
    stored, chips = Stored(5), images(5, 2, 150, 150)
    expected = torch_descriptor(stored, chips)
    stored.write(tmp_path)
    variables, digests = identity.load_descriptor(tmp_path)
    assert set(digests) == {file.name for file in identity.FILES}
    assert error(identity.describe(variables, chips), expected) < 1e-4
    assert identity.describe(variables, chips[:0]).shape == (0, 128)
    jax.clear_caches()


def test_damaged_manifests_are_refused_in_one_line(tmp_path):
    """Catches a traceback, arrays that begin at another byte, and another network."""
    stored = Stored(6)
    stored.draw("a", 3, low=-2, high=3)
    expected = stored.draw("b", 2, 2, low=0, high=1, raw=True)
    stored.write(tmp_path)
    data, manifest = (tmp_path / file.name for file in identity.FILES)
    np.testing.assert_array_equal(identity.read_manifest(manifest, data)["b"], expected)
    with pytest.raises(AnchorError, match=r"not the weights of dlib.*a is unknown.*missing"):
        identity.load_descriptor(tmp_path)
    whole = manifest.read_text()
    for old, new, problem in (
        (whole, "[", "JSONDecodeError"),
        (whole, "{}", "not enough values"),
        (whole, "[" * 100_000, "Recursion"),
        ('"uint8"', '"uint16"', "'a': expected float32, also stored as uint8"),
        ('"float32"', '"int32"', "'a': expected float32"),
        ("[3]", "[-3]", "'a': invalid shape"),
        ("[3]", "[3.0]", "'a': invalid shape"),
        ("[3]", "3", "has no len"),
        ("-2", "NaN", "'a': invalid scale or minimum"),
        (str(5 / 255), "1e999", "'a': invalid scale or minimum"),
        ('"min"', '"max"', "KeyError"),
        ('"b"', '"a"', "appears twice"),
        ("[3]", "[4]", "19 bytes, but .* has 20; get both again"),
        ('"b"', "7", "'7': expected"),
    ):
        assert old in whole
        manifest.write_text(whole.replace(old, new, 1))
        with pytest.raises(AnchorError, match=problem) as told:
            identity.load_descriptor(tmp_path)
        assert "\n" not in str(told.value)


# Where dlib has the five points in a chip of 150x150: right eye, left eye, nose base.
IN_CHIP = [
    [110.9567, 46.3498],
    [89.6060, 47.8967],
    [37.0575, 46.3727],
    [58.4085, 47.9064],
    [74.0112, 87.7798],
]


def test_chips_are_dlibs():
    """Catches the eyes in the other order, another padding, the inverse transform, and a row
    without a face that spoils others."""
    angle, scale, shift = 0.3, 2.5, (40, -7)
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    points = np.array([IN_CHIP, np.full((5, 2), np.nan), IN_CHIP @ turn.T + shift])
    found = identity.chip_transform(points)
    np.testing.assert_allclose(found[0], np.eye(2, 3), atol=1e-3)
    assert np.isnan(found[1]).all()
    moved = points[2] @ found[2, :, :2].T + found[2, :, 2]
    np.testing.assert_allclose(moved, IN_CHIP, atol=1e-3)


def test_identity_distance_is_euclidean():
    """Catches a squared distance, and a frame without a face that counts as a match."""
    first = np.zeros((3, 128), np.float32)
    second = np.ones((3, 128), np.float32)
    second[1], first[2, 5] = 0, np.nan
    found = identity.identity_distance(first, second)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [math.sqrt(128), 0, np.nan])
