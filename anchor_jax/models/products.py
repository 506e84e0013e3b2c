"""Linear layers and convolutions: the choice between a CPU's algorithm (`cpu_products`) and XLA's
own, for `nn.Dense` and `nn.Conv`."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Float

from anchor_jax.compiling import on_cpu
from anchor_jax.models.cpu_products import convolve, mix_channels
from anchor_jax.shapes import Array


def product(x: Array, kernel: Array, dimension_numbers: Any, **kwargs) -> Array:
    """Multiply tokens (b, s, c) by a linear layer's kernel (c, d), as `lax.dot_general`."""
    if not on_cpu():
        return lax.dot_general(x, kernel, dimension_numbers, **kwargs)
    return jax.jit(mix_channels)(x, kernel)  # traced once for all layers of one size


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kwargs
) -> Float[Array, "n h w d"]:
    """Convolve images (n, h, w, c), as `lax.conv_general_dilated`. The kernel is 1x1, or 3x3 with
    a padding of one pixel."""
    if not on_cpu() or tuple(strides) != (1, 1):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    if kernel.shape[:2] == (1, 1):
        n, h, w, c = x.shape
        return jax.jit(mix_channels)(x.reshape(n, h * w, c), kernel[0, 0]).reshape(n, h, w, -1)
    return jax.jit(convolve)(x, kernel)
