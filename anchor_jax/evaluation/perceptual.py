"""Distance of two images by the features of a network for classification, as in LPIPS
(Zhang et al. 2018, https://arxiv.org/abs/1801.03924, equation 1).

Layers have torch's names, so that the published files fit by `torch_name`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Array, Images, Params, show_size

SMALLEST = 32  # pixels of a side: every network has features of at least one pixel

# Mean and standard deviation of ImageNet's channels, for values of -1 to 1.
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)
_EPSILON = 1e-10

Network = Literal["vgg16", "alexnet"]


class Distance(nn.Module):
    """Images (b, h, w, 3), -1 to 1, and others to distances (b,).

    Attributes:
        network: whose features are compared.
        shift_tolerant: see `anchor_jax.evaluation.stlpips`.
    """

    network: Network
    shift_tolerant: bool = False

    @nn.compact
    def __call__(self, images: Array, truth: Array) -> Array:
        x = jnp.concatenate([images, truth])
        x = (x - jnp.array(_MEAN)) / jnp.array(_DEVIATION)
        layers = _vgg16 if self.network == "vgg16" else _alexnet
        total = jnp.zeros(len(images))
        for number, features in enumerate(layers(x, self.shift_tolerant)):
            length = jnp.sqrt((features**2).sum(-1, keepdims=True))
            first, second = jnp.split(features / (length + _EPSILON), 2)
            weigh = nn.Conv(1, (1, 1), use_bias=False, name=f"lin{number}.model.1")
            total += weigh((first - second) ** 2).mean((1, 2, 3))
        return total


def _vgg16(x: Array, shift_tolerant: bool) -> list[Array]:
    """Compute the features of VGG16 (Simonyan and Zisserman 2014) before each pooling."""
    found, number = [], 0
    for block, widths in enumerate([(64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3], 1):
        if block > 1:
            x = _pool(x, 2, shift_tolerant)
            number += 1 + shift_tolerant  # layers with torch's numbers
        for width in widths:
            x = nn.relu(_conv(x, width, 3, 1, _name(shift_tolerant, block, number)))
            number += 2
        found.append(x)
    return found


def _alexnet(x: Array, shift_tolerant: bool) -> list[Array]:
    """Compute the features of AlexNet (Krizhevsky 2014, one tower) after each convolution."""
    numbers = (0, 5, 9, 11, 13) if shift_tolerant else (0, 3, 6, 8, 10)
    layers = [(64, 11), (192, 5), (384, 3), (256, 3), (256, 3)]
    found = []
    for block, (number, (width, size)) in enumerate(zip(numbers, layers, strict=True), 1):
        if block in (2, 3):
            x = _pool(x, 3, shift_tolerant)
        name = _name(shift_tolerant, block, number)
        if block > 1:
            x = _conv(x, width, size, size // 2, name)
        elif shift_tolerant:
            x = _blur(_conv(x, width, size, 2, name))
        else:
            x = _conv(x, width, size, 2, name, stride=4)
        found.append(x := nn.relu(x))
    return found


def _name(shift_tolerant: bool, block: int, number: int) -> str:
    return f"net.slice{block}.{number}" if shift_tolerant else f"features.{number}"


def _conv(x: Array, width: int, size: int, padding: int, name: str, stride: int = 1) -> Array:
    return nn.Conv(width, (size, size), stride, [(padding, padding)] * 2, name=name)(x)


def _pool(x: Array, size: int, shift_tolerant: bool) -> Array:
    """Halve the features, by maxima."""
    if shift_tolerant:
        return _blur(nn.max_pool(x, (size, size)))
    return nn.max_pool(x, (size, size), (2, 2))


def _blur(x: Array) -> Array:
    """Halve the features by a binomial filter of three pixels (Zhang 2019,
    https://arxiv.org/abs/1904.11486), beyond the edges of their mirror image of two pixels."""
    for axis in (1, 2):
        x = jnp.pad(x, [(2 * (i == axis),) * 2 for i in range(4)], "reflect")
        end = x.shape[axis] - 2
        first, middle, third = (jax.lax.slice_in_dim(x, i, end + i, 2, axis) for i in range(3))
        x = (first + 2 * middle + third) / 4
    return x


@dataclass(frozen=True)
class PerceptualDistance:
    """A network with its weights. Calling it compares images."""

    network: Distance
    variables: Params

    def __call__(self, images: Images, truth: Images) -> np.ndarray:
        """Compute the distances of images to their truth, one pair after the other.

        Args:
            images: uint8 (n, h, w, 3), sides of at least 32 pixels.
            truth: of the same shape.

        Returns:
            float64 (n,), at least 0; that of equal images is 0 but for rounding.

        Raises:
            AnchorError: the images are too small.
        """
        height, width = images.shape[1:3]
        if min(height, width) < SMALLEST:
            raise AnchorError(
                f"images of {show_size((width, height))}: expected sides of at least {SMALLEST}"
                " pixels for perceptual distances"
            )
        pairs = zip(images, truth, strict=True)
        return np.array([_compare(self.network, self.variables, *x) for x in pairs], np.float64)


@partial(jax.jit, static_argnums=0)
def _compare(network: Distance, variables: Params, image: Array, truth: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        distances: Any = network.apply(variables, _scale(image), _scale(truth))
    return distances[0]


def _scale(image: Array) -> Array:
    return image[None].astype(jnp.float32) / 127.5 - 1


def variable_shapes(network: Distance) -> Params:
    """Return the shapes of a network's variables."""
    images = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), images, images)
