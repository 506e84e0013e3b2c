"""Linear layers and convolutions for `nn.Dense` and `nn.Conv`, with what a CPU does better chosen
inside the program.

On CPUs, XLA computes the gradients of a convolution as convolutions with transposed features or
with a transposed kernel, and copies these first. A product of matrices accepts both factors in
their present memory layout. On an Intel Xeon the copies took a sixth of a training step (323 of
1950 ms); on an AMD EPYC they take less, as the functions below say.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from anchor_jax.shapes import Array


def product(x: Array, kernel: Array, dimension_numbers: Any, **_: Any) -> Array:
    """Multiply tokens (b, s, c) by a linear layer's kernel (c, d), as `lax.dot_general`."""
    return jax.jit(mix_channels)(x, kernel)  # traced once for all layers of one size


def convolution(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, **kwargs
) -> Float[Array, "n h w d"]:
    """Convolve images (n, h, w, c), as `lax.conv_general_dilated`. The kernel is 1x1, or 3x3 with
    a padding of one pixel."""
    if tuple(strides) != (1, 1):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    if kernel.shape[:2] == (1, 1):
        n, h, w, c = x.shape
        return product(x.reshape(n, h * w, c), kernel[0, 0], None).reshape(n, h, w, -1)
    return jax.jit(convolve)(x, kernel)


@jax.custom_vjp
def mix_channels(x: Float[Array, "b s c"], kernel: Float[Array, "c d"]) -> Float[Array, "b s d"]:
    """Multiply each token by the kernel: a linear layer, or a 1x1 convolution.

    On CPUs it is a 1-wide convolution, so that XLA uses Eigen, not YNNPACK.

    The gradient is written by hand as two products of matrices. With the gradient that JAX derives,
    a training step of the 50M model takes 1.04 times the CPU time and 1.02 times the memory
    (`python -m benchmarks.train_step --without linear --pairs 9`).
    """
    return lax.platform_dependent(
        x, kernel, cpu=_convolve_tokens, default=partial(jnp.einsum, "bsc,cd->bsd")
    )


def _convolve_tokens(x: Array, kernel: Array) -> Array:
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x, kernel[None], (1,), "VALID", dimension_numbers=numbers)


def _mix_channels_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return (
        jnp.einsum("bsd,cd->bsc", gradient, kernel),
        jnp.einsum("bsc,bsd->cd", x, gradient),
    )


mix_channels.defvjp(lambda *inputs: (mix_channels(*inputs), inputs), _mix_channels_backward)


@jax.custom_vjp
def convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h w d"]:
    """Convolve images with a 3x3 kernel and zeros around them, stride 1.

    On CPUs the gradient is written by hand if all images together have at most d pixels; then the
    kernel is larger than the features, and products of matrices avoid the transposed copies of the
    kernel. With the gradient that JAX derives, a training step of the 50M model takes 1.03 times
    the CPU time and the memory (`python -m benchmarks.train_step --without convolution --pairs 9`).
    """
    return _xla_convolve(x, kernel)


def _xla_convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h w d"]:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)


def _convolve_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    n, h, w, d = gradient.shape
    if n * h * w > d:  # patches would copy features that are larger than the kernel
        return _xla_gradients(*residuals, gradient)
    return lax.platform_dependent(
        *residuals, gradient, cpu=_patch_gradients, default=_xla_gradients
    )


def _xla_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(_xla_convolve, x, kernel)[1](gradient)


def _patch_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    n, h, w, d = gradient.shape
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    taps = [(i, j) for i in range(3) for j in range(3)]
    padded = jnp.pad(x, border)
    patches = jnp.concatenate([padded[:, i : i + h, j : j + w] for i, j in taps], -1)
    kernel_gradient = jnp.einsum("nhwk,nhwd->kd", patches, gradient).reshape(kernel.shape)
    patch_gradients = jnp.einsum("nhwd,kd->nhwk", gradient, kernel.reshape(-1, d))
    x_gradient = jnp.zeros_like(x)
    for (i, j), part in zip(taps, jnp.split(patch_gradients, 9, -1), strict=True):
        x_gradient += jnp.pad(part, border)[:, 2 - i : 2 - i + h, 2 - j : 2 - j + w]
    return x_gradient, kernel_gradient


convolve.defvjp(lambda *inputs: (_xla_convolve(*inputs), inputs), _convolve_backward)
