"""Inception-v3, whose pooled features FID compares (Szegedy et al. 2015,
https://arxiv.org/abs/1512.00567; Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

It is TensorFlow's network of 2015-12-05 as ported for pytorch-fid. It differs from the paper's and
from torchvision's: average pooling does not count the padding, and the last block takes maxima.
Layers have that port's names.
"""

from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.evaluation.weights import WeightFile, fit, read_torch, torch_name
from anchor_jax.files import file_hash
from anchor_jax.shapes import Array, Images, Params

SIDE = 299  # pixels of an image
NUM_FEATURES = 2048
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE = WeightFile(
    "pt_inception-2015-12-05-6726825d.pth",
    SHA256,
    "FID",
    "the weights of TensorFlow's Inception-v3 as ported for pytorch-fid, from its releases",
)

_WIDE, _TALL = (1, 7), (7, 1)
_Layer = tuple[str, int, int | tuple[int, int]]  # name, channels, size


class _Unit(nn.Module):
    """A convolution, batch norm and ReLU."""

    channels: int
    size: int | tuple[int, int] = 1
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        x = nn.Conv(self.channels, size, self.stride, self.padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(True, epsilon=1e-3, name="bn")(x))


class _Block(nn.Module):
    """Branches side by side.

    Attributes:
        branches: the layers of each branch.
        pooled: channels of the branch after pooling; 0: it is pooling alone, and the last layer of
            every other branch has a stride of 2.
        maximum: whether pooling takes maxima.
    """

    branches: tuple[tuple[_Layer, ...], ...]
    pooled: int
    maximum: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        outputs = []
        for branch in self.branches:
            y = x
            for number, (name, channels, size) in enumerate(branch, 1):
                halves = not self.pooled and number == len(branch)
                stride, padding = (2, "VALID") if halves else (1, "SAME")
                y = _Unit(channels, size, stride, padding, name=f"branch{name}")(y)
            outputs.append(y)
        if not self.pooled:
            return jnp.concatenate([*outputs, nn.max_pool(x, (3, 3), (2, 2))], -1)
        y = _pool(x, self.maximum)
        return jnp.concatenate([*outputs, _Unit(self.pooled, name="branch_pool")(y)], -1)


class _Fan(nn.Module):
    """A block in which two branches end in a wide and a tall layer side by side."""

    maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = lambda name, size, y, channels=384: _Unit(channels, size, name=f"branch{name}")(y)
        middle = unit("3x3_1", 1, x)
        deep = unit("3x3dbl_2", 3, unit("3x3dbl_1", 1, x, 448))
        outputs = [
            unit("1x1", 1, x, 320),
            unit("3x3_2a", (1, 3), middle),
            unit("3x3_2b", (3, 1), middle),
            unit("3x3dbl_3a", (1, 3), deep),
            unit("3x3dbl_3b", (3, 1), deep),
            unit("_pool", 1, _pool(x, self.maximum), 192),
        ]
        return jnp.concatenate(outputs, -1)


def _pool(x: Array, maximum: bool) -> Array:
    if maximum:
        return nn.max_pool(x, (3, 3), (1, 1), "SAME")
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _block_a(pooled: int) -> _Block:
    deep: tuple[_Layer, ...] = ("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)
    return _Block(((("1x1", 64, 1),), (("5x5_1", 48, 1), ("5x5_2", 64, 5)), deep), pooled)


def _block_c(inner: int) -> _Block:
    middle = ("7x7_1", inner, 1), ("7x7_2", inner, _WIDE), ("7x7_3", 192, _TALL)
    deep = (
        ("7x7dbl_1", inner, 1),
        ("7x7dbl_2", inner, _TALL),
        ("7x7dbl_3", inner, _WIDE),
        ("7x7dbl_4", inner, _TALL),
        ("7x7dbl_5", 192, _WIDE),
    )
    return _Block(((("1x1", 192, 1),), middle, deep), 192)


_BLOCKS: dict[str, nn.Module] = {
    "5b": _block_a(32),
    "5c": _block_a(64),
    "5d": _block_a(64),
    "6a": _Block(
        (
            (("3x3", 384, 3),),
            (("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)),
        ),
        0,
    ),
    "6b": _block_c(128),
    "6c": _block_c(160),
    "6d": _block_c(160),
    "6e": _block_c(192),
    "7a": _Block(
        (
            (("3x3_1", 192, 1), ("3x3_2", 320, 3)),
            (
                ("7x7x3_1", 192, 1),
                ("7x7x3_2", 192, _WIDE),
                ("7x7x3_3", 192, _TALL),
                ("7x7x3_4", 192, 3),
            ),
        ),
        0,
    ),
    "7b": _Fan(maximum=False),
    "7c": _Fan(maximum=True),
}


class Inception(nn.Module):
    """Images (b, 299, 299, 3), -1 to 1, to features (b, 2048), the mean over all places."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _Unit(32, 3, 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = _Unit(32, 3, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _Unit(64, 3, name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _Unit(80, name="Conv2d_3b_1x1")(x)
        x = _Unit(192, 3, 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, block in _BLOCKS.items():
            x = block.copy(name=f"Mixed_{name}")(x)
        return x.mean((1, 2))


def load_inception(folder: Path | None = None) -> tuple[Params, str]:
    """Read the weights.

    Args:
        folder: the folder of weights, see `WeightFile.path`.

    Returns:
        The variables of `Inception`, and the file's SHA-256, which belongs beside each FID.

    Raises:
        AnchorError: the file is missing, damaged or of another network.
    """
    path = FILE.find(folder)
    tensors = read_torch(path, "Inception", ("fc.*", "AuxLogits.*", "*.num_batches_tracked"))
    variables = fit(tensors, _shapes(), torch_name, f"{path}: not the weights of Inception")
    return variables, file_hash(path)


@cache
def _shapes() -> Params:
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), images)


def inception_features(variables: Params, images: Images) -> np.ndarray:
    """Compute the features of images, one after the other.

    Args:
        variables: from `load_inception`.
        images: uint8 (n, h, w, 3). They are resized to 299x299 as in pytorch-fid: bilinear, without
            antialiasing, with pixels' centres at halves.

    Returns:
        float32 (n, 2048). Those of two sets give the FID, see `frechet_distance`.
    """
    found = [np.asarray(_features(variables, image)) for image in images]
    return np.array(found, np.float32).reshape(-1, NUM_FEATURES)


@jax.jit
def _features(variables: Params, image: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        features: Any = Inception().apply(variables, _resize(image)[None] / 127.5 - 1)
    return features[0]


def _resize(image: Array) -> Array:
    """Resize an image to 299x299, float32, 0 to 255."""
    x = image.astype(jnp.float32)
    return jax.image.resize(x, (SIDE, SIDE, 3), "linear", antialias=False)
