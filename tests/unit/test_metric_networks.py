"""The networks of LPIPS and FID against torch, with random weights that go through the files in
which the published ones come."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import identity, inception, lpips, stlpips
from tests.unit.twins import channels_first, error, images


class Drawn(dict):
    """A state dict that draws each tensor when a network first asks for it."""

    def __init__(self, seed: int):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def draw(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        if name not in self:
            self[name] = torch.from_numpy(self.rng.uniform(low, high, shape).astype(np.float32))
        return self[name]

    def kernel(self, name: str, channels: int, *size: int) -> torch.Tensor:
        limit = (6 / np.prod(size)) ** 0.5  # keeps the size of features
        return self.draw(name, channels, *size, low=-limit, high=limit)


# Layers as torchvision and stlpips_pytorch number them: c a convolution with the next width of
# WIDTHS, f and g AlexNet's first with a stride of 4 and 1, r ReLU, t features, p and q maxima over
# 2x2 with a stride of 2 and 1, m and n over 3x3, b blurring.
LAYERS = {
    ("vgg16", False): "crcrt pcrcrt pcrcrcrt pcrcrcrt pcrcrcrt",
    ("vgg16", True): "crcrt qbcrcrt qbcrcrcrt qbcrcrcrt qbcrcrcrt",
    ("alexnet", False): "frt mcrt mcrt crt crt",
    ("alexnet", True): "gbrt nbcrt nbcrt crt crt",
}
WIDTHS = {
    "vgg16": [(n, 3) for n in (64, 64, 128, 128, *(256,) * 3, *(512,) * 6)],
    "alexnet": [(64, 11), (192, 5), (384, 3), (256, 3), (256, 3)],
}


def torch_lpips(state: Drawn, key: tuple[str, bool], first: np.ndarray, second: np.ndarray):
    """LPIPS in torch, written from equation 1 of the paper."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = channels_first(np.concatenate([first, second])) / 127.5 - 1
    x = (x - shift[:, None, None]) / scale[:, None, None]
    widths, number, total = iter(WIDTHS[key[0]]), 0, torch.zeros(len(first))
    filters = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
    for block, layers in enumerate(LAYERS[key].split()):
        for layer in layers:
            if layer in "cfg":
                width, size = next(widths)
                name = f"net.slice{block + 1}.{number}" if key[1] else f"features.{number}"
                kernel = state.kernel(f"{name}.weight", width, x.shape[1], size, size)
                stride, padding = (4 if layer == "f" else 1), (size // 2 if layer == "c" else 2)
                x = F.conv2d(x, kernel, state.draw(f"{name}.bias", width), stride, padding)
            elif layer == "r":
                x = F.relu(x)
            elif layer == "b":
                kernel = filters.expand(x.shape[1], 1, 3, 3)
                state[f"net.slice{block + 1}.{number}.filt"] = kernel
                x = F.conv2d(F.pad(x, (2,) * 4, "reflect"), kernel, None, 2, groups=x.shape[1])
            elif layer == "t":
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                squares = (unit[: len(first)] - unit[len(first) :]).square()
                line = state.draw(f"lin{block}.model.1.weight", 1, x.shape[1], 1, 1, low=0.0)
                total += F.conv2d(squares, line).mean((1, 2, 3))
                continue
            else:
                x = F.max_pool2d(x, 2 if layer in "pq" else 3, 2 if layer in "pm" else 1)
            number += 1
    return total


PAIRS = images(0, 2, 37, 32), images(1, 2, 37, 32)


@pytest.mark.parametrize(("network", "name"), [("vgg16", "vgg"), ("alexnet", "alex")])
def test_lpips_is_torchs(tmp_path, network, name):
    """Catches another layer whose features are compared, another padding or pooling, kernels that
    are read in another order, another scale of the pixels, and linear layers of the other
    network."""
    state = Drawn(2)
    expected = torch_lpips(state, (network, False), *PAIRS)
    backbone, linear = lpips.FILES[network]
    layers = {key: state.pop(key) for key in list(state) if key.startswith("lin")}
    torch.save({**state, "classifier.6.bias": torch.zeros(3)}, tmp_path / backbone.name)
    with pytest.raises(AnchorError, match=rf"lpips_{name}.pth.*pip download.*v0.1/{name}.pth"):
        lpips.load_lpips(tmp_path)
    torch.save(layers, tmp_path / linear.name, _use_new_zipfile_serialization=False)
    distance, digests = lpips.load_lpips(tmp_path)
    assert error(distance(*PAIRS), expected) < 1e-4
    assert set(digests) == {backbone.name, linear.name}
    assert distance(PAIRS[0], PAIRS[0]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(AnchorError, match="37x31: expected sides of at least 32"):
        distance(*images(0, 2, 1, 31, 37))
    jax.clear_caches()


@pytest.mark.parametrize("network", ["alexnet", "vgg16"])
def test_shift_tolerant_lpips_is_torchs(tmp_path, network):
    """Catches a stride where there is blurring, blurring before or after another layer, another
    border, and layers with other numbers."""
    state = Drawn(3)
    expected = torch_lpips(state, (network, True), *PAIRS)
    torch.save(
        {**state, "scaling_layer.shift": torch.zeros(3)}, tmp_path / stlpips.FILES[network].name
    )
    distance, digests = stlpips.load_stlpips(tmp_path, network)
    assert error(distance(*PAIRS), expected) < 1e-4
    assert len(digests) == 1
    jax.clear_caches()


def torch_inception(state: Drawn, pictures: np.ndarray) -> torch.Tensor:
    """FID's Inception in torch, written from the paper's figures 5 to 7 and 10 and from what
    pytorch-fid says about its port."""

    def unit(x, name, width, size: Any = 1, stride=1, padding: Any = 0):
        size = (size, size) if isinstance(size, int) else size
        kernel = state.kernel(f"{name}.conv.weight", width, x.shape[1], *size)
        x = F.conv2d(x, kernel, None, stride, padding)
        scale = state.draw(f"{name}.bn.weight", width, low=0.5, high=1.5)
        shift, mean = (
            state.draw(f"{name}.bn.{n}", width, low=-0.2, high=0.2)
            for n in ("bias", "running_mean")
        )
        var = state.draw(f"{name}.bn.running_var", width, low=0.5)
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
        return F.relu(F.batch_norm(x, mean, var, scale, shift, eps=1e-3))

    def chain(x, name, *layers):
        for suffix, width, size in layers:
            sizes = (size, size) if isinstance(size, int) else size
            x = unit(x, f"{name}.branch{suffix}", width, sizes, 1, tuple(n // 2 for n in sizes))
        return x

    def mean(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def block_a(x, name, pooled):
        deep = ("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)
        middle = chain(x, name, ("5x5_1", 48, 1), ("5x5_2", 64, 5))
        last = chain(mean(x), name, ("_pool", pooled, 1))
        return torch.cat([chain(x, name, ("1x1", 64, 1)), middle, chain(x, name, *deep), last], 1)

    def block_c(x, name, n):
        first = chain(x, name, ("1x1", 192, 1))
        middle = chain(x, name, ("7x7_1", n, 1), ("7x7_2", n, (1, 7)), ("7x7_3", 192, (7, 1)))
        deep = [("7x7dbl_1", n, 1), ("7x7dbl_2", n, (7, 1)), ("7x7dbl_3", n, (1, 7))]
        deep += [("7x7dbl_4", n, (7, 1)), ("7x7dbl_5", 192, (1, 7))]
        last = chain(mean(x), name, ("_pool", 192, 1))
        return torch.cat([first, middle, chain(x, name, *deep), last], 1)

    def block_e(x, name, pool):
        middle = chain(x, name, ("3x3_1", 384, 1))
        deep = chain(x, name, ("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3))
        parts = [
            *(
                chain(middle, name, (f"3x3_2{n}", 384, size))
                for n, size in (("a", (1, 3)), ("b", (3, 1)))
            ),
            *(
                chain(deep, name, (f"3x3dbl_3{n}", 384, size))
                for n, size in (("a", (1, 3)), ("b", (3, 1)))
            ),
        ]
        last = chain(pool(x), name, ("_pool", 192, 1))
        return torch.cat([chain(x, name, ("1x1", 320, 1)), *parts, last], 1)

    x = F.interpolate(channels_first(pictures) / 255, (299, 299), mode="bilinear")
    x = unit(2 * x - 1, "Conv2d_1a_3x3", 32, 3, 2)
    x = unit(unit(x, "Conv2d_2a_3x3", 32, 3), "Conv2d_2b_3x3", 64, 3, 1, 1)
    x = unit(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", 80)
    x = F.max_pool2d(unit(x, "Conv2d_4a_3x3", 192, 3), 3, 2)
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = block_a(x, f"Mixed_{name}", pooled)
    deep = chain(x, "Mixed_6a", ("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3))
    deep = unit(deep, "Mixed_6a.branch3x3dbl_3", 96, 3, 2)
    x = torch.cat([unit(x, "Mixed_6a.branch3x3", 384, 3, 2), deep, F.max_pool2d(x, 3, 2)], 1)
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = block_c(x, f"Mixed_{name}", inner)
    first = unit(chain(x, "Mixed_7a", ("3x3_1", 192, 1)), "Mixed_7a.branch3x3_2", 320, 3, 2)
    deep = ("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1))
    deep = unit(chain(x, "Mixed_7a", *deep), "Mixed_7a.branch7x7x3_4", 192, 3, 2)
    x = torch.cat([first, deep, F.max_pool2d(x, 3, 2)], 1)
    x = block_e(x, "Mixed_7b", mean)
    return block_e(x, "Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1)).mean((2, 3))


def test_inception_is_torchs(tmp_path):
    """Catches average pooling that counts the padding, a mean in the place of the last maxima,
    branches in another order, another epsilon, and another way to resize."""
    state, pictures = Drawn(4), images(4, 2, 320, 41)
    expected = torch_inception(state, pictures)
    path = tmp_path / inception.FILE.name
    torch.save({**state, "fc.weight": torch.zeros(8, 2048)}, path)
    variables, _ = inception.load_inception(tmp_path)
    assert error(inception.inception_features(variables, pictures), expected) < 1e-4
    assert inception.inception_features(variables, pictures[:0]).shape == (0, 2048)
    jax.clear_caches()


def test_files_of_other_networks_are_refused_in_one_line(tmp_path, monkeypatch):
    """Catches a traceback, a number that another network gave, a layer that is left at random, and
    a missing file without a way to get it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaders = lpips.load_lpips, stlpips.load_stlpips, inception.load_inception
    for load in (*loaders, identity.load_descriptor):
        with pytest.raises(
            AnchorError, match=r"needs .*SHA-256.*cache/anchor-jax/metrics; get"
        ) as told:
            load()
        assert "\n" not in str(told.value)
        with pytest.raises(AnchorError, match="none is no folder"):
            load(tmp_path / "none")
    path = tmp_path / inception.FILE.name
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5), "x": torch.zeros(1)}, path)
    problem = r"not the weights of Inception: x is unknown, .*missing.* more"
    with pytest.raises(AnchorError, match=problem) as told:
        inception.load_inception(tmp_path)
    assert "\n" not in str(told.value)
    path.write_bytes(b"<html>")
    with pytest.raises(AnchorError, match="not a complete pickle"):
        inception.load_inception(tmp_path)
