"""Linear layers and convolutions, and their gradients as a CPU computes them soonest.

XLA writes the gradients of a convolution as convolutions, of transposed features or by a transposed
kernel. Copying these took a sixth of a training step. A product of matrices takes either factor as
it lies.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from anchor_jax.shapes import Array


def product(x: Array, kernel: Array, dimension_numbers: Any, **kwargs) -> Array:
    """`lax.dot_general` of tokens (b, s, c) and a linear layer's kernel (c, d), for `nn.Dense`."""
    if jax.default_backend() != "cpu":
        return lax.dot_general(x, kernel, dimension_numbers, **kwargs)
    return jax.jit(_mix_channels)(x, kernel)  # traced once for all layers of one size


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kwargs
) -> Float[Array, "n h w d"]:
    """`lax.conv_general_dilated` of images (n, h, w, c) by an odd kernel, for `nn.Conv`: 1x1, or
    3x3 with zeros around the image."""
    if jax.default_backend() != "cpu" or tuple(strides) != (1, 1):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    if kernel.shape[:2] == (1, 1):
        n, h, w, c = x.shape
        return jax.jit(_mix_channels)(x.reshape(n, h * w, c), kernel[0, 0]).reshape(n, h, w, -1)
    return jax.jit(_convolve)(x, kernel)


@jax.custom_vjp
def _mix_channels(x: Float[Array, "b s c"], kernel: Float[Array, "c d"]) -> Float[Array, "b s d"]:
    """The convolution with a kernel of one token: Eigen computes it, YNNPACK would products."""
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x, kernel[None], (1,), "VALID", dimension_numbers=numbers)


def _mix_channels_gradients(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return (
        jnp.einsum("bsd,cd->bsc", gradient, kernel),
        jnp.einsum("bsc,bsd->cd", x, gradient),
    )


_mix_channels.defvjp(lambda *inputs: (_mix_channels(*inputs), inputs), _mix_channels_gradients)


def _xla_convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h w d"]:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)


_convolve = jax.custom_vjp(_xla_convolve)


def _convolve_gradients(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    n, h, w, d = gradient.shape
    if n * h * w > d:  # more features than kernel: features are what should not be copied
        return jax.vjp(_xla_convolve, x, kernel)[1](gradient)
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    taps = [(i, j) for i in range(3) for j in range(3)]
    padded = jnp.pad(x, around)
    seen = jnp.concatenate([padded[:, i : i + h, j : j + w] for i, j in taps], -1)
    kernel_gradient = jnp.einsum("nhwk,nhwd->kd", seen, gradient).reshape(kernel.shape)
    told = jnp.einsum("nhwd,kd->nhwk", gradient, kernel.reshape(-1, d))
    x_gradient = jnp.zeros_like(x)
    for (i, j), part in zip(taps, jnp.split(told, 9, -1), strict=True):
        x_gradient += jnp.pad(part, around)[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w]
    return x_gradient, kernel_gradient


_convolve.defvjp(lambda *inputs: (_convolve(*inputs), inputs), _convolve_gradients)
