"""Attention by NVIDIA's library cuDNN, through `jax.nn`. It computes in half precision alone, and
heads wider than 128 only on Hopper and newer. A program that calls it can be compiled only where a
GPU is."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from anchor_jax.models.attention.residuals import Residuals
from anchor_jax.shapes import Array

_LARGEST_WIDTH = 128


def serves(query: Float[Array, "b s m d"]) -> bool:
    """Return whether cuDNN computes heads of this width and type on every GPU."""
    width = query.shape[-1]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and width % 8 == 0 and width <= _LARGEST_WIDTH


def forward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None = None,
) -> tuple[Float[Array, "b s m d"], Residuals]:
    """Compute attention. The residuals are empty: `jax.nn` gives the logarithms of the norms in
    half precision, which is too coarse for a gradient."""
    b, s, m, _ = query.shape
    out = _attend(query, key, value, lengths)
    numbers = jnp.zeros((b, m, s), jnp.float32)
    return out, Residuals(numbers, numbers, jnp.zeros_like(out))


def backward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None,
    out: Float[Array, "b s m d"],
    residuals: Residuals,
    gradient: Float[Array, "b s m d"],
) -> tuple[Float[Array, "b s m d"], Float[Array, "b t m d"], Float[Array, "b t m d"]]:
    """Compute the gradients of queries, keys and values. The forward pass is computed again."""
    _, pull = jax.vjp(lambda q, k, v: _attend(q, k, v, lengths), query, key, value)
    return pull(gradient)


def _attend(query: Array, key: Array, value: Array, lengths: Array | None) -> Array:
    return jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
