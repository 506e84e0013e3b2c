"""Linear layers and convolutions on CPUs equal Flax's, which use XLA's own operations."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.models.blocks import conv1, conv3, linear


def draw(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def same_layer(ours: Any, plain: Any, x: jax.Array, most: float = 1e-6) -> None:
    """Check that output and gradients of our layer equal those of Flax's layer with the same
    parameters, up to a relative (L2) difference of `most`."""
    params = plain.init(jax.random.key(0), x)
    out, vjp = jax.vjp(plain.apply, params, x)
    gradient = draw(1, *out.shape).astype(out.dtype)
    expected = jax.tree.leaves((out, vjp(gradient)))
    out, vjp = jax.vjp(ours.apply, params, x)
    for a, b in zip(jax.tree.leaves((out, vjp(gradient))), expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        assert np.linalg.norm(a - b) <= most * np.linalg.norm(b)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("n", "h", "w", "features"),
    [(2, 6, 7, 5), (1, 4, 3, 16), (2, 4, 4, 32), (2, 1, 2, 16)],
    ids=["many pixels", "few pixels", "as many as features", "one row"],
)
def test_convolution(n: int, h: int, w: int, features: int, stride: int):
    """Catches taps that are flipped or shifted by a pixel, swapped rows and columns, a wrong
    border, an ignored stride, and gradients with swapped channels in and out."""
    plain = nn.Conv(features, (3, 3), (stride, stride), ((1, 1), (1, 1)))
    same_layer(conv3(features, stride), plain, draw(0, n, h, w, 3))


def test_layers_of_one_pixel():
    """Catches a transposed kernel, a missing bias, and pixels of another image."""
    same_layer(conv1(7), nn.Conv(7, (1, 1)), draw(0, 2, 3, 4, 5))
    same_layer(linear(7), nn.Dense(7), draw(0, 2, 6, 5))


@pytest.mark.parametrize("features", [4, 64])
def test_gradients_have_the_type_of_their_inputs(features: int):
    """Catches float32 gradients of bfloat16 layers, which the previous layer does not accept."""
    x = draw(0, 2, 4, 4, 5).astype(jnp.bfloat16)
    plain = nn.Conv(features, (3, 3), padding=((1, 1), (1, 1)), dtype=jnp.bfloat16)
    same_layer(conv3(features, dtype=jnp.bfloat16), plain, x, 0.01)
    plain = nn.Dense(features, dtype=jnp.bfloat16)
    same_layer(linear(features, dtype=jnp.bfloat16), plain, x.reshape(2, 16, 5), 0.01)


def test_few_pixels_need_no_copy_of_a_kernel():
    """Catches gradients that are XLA's convolutions, which copy the transposed kernel, although the
    kernel is larger than the features."""

    def text(n: int) -> str:
        x = draw(0, n, 4, 4, 64)
        layer: Any = conv3(64)
        params = layer.init(jax.random.key(0), x)
        loss = lambda params, x: (layer.apply(params, x) ** 2).sum()
        return jax.jit(jax.grad(loss, (0, 1))).lower(params, x).as_text()

    assert text(4).count("stablehlo.convolution") == 1  # forward
    assert text(5).count("stablehlo.convolution") == 3
