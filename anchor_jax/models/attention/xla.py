"""Attention by XLA's own operations, for any platform: a softmax over all keys at once, for one
block of queries after the other."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from anchor_jax.models.attention.residuals import Residuals, rounding_rest
from anchor_jax.shapes import Array

# The most scores that are held at once, all rows and heads together: 512 MiB in float32.
_SCORES = 2**27
_LONG = 2048  # never so many queries and more keys at once


def forward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None = None,
    most_scores: int = _SCORES,
) -> tuple[Float[Array, "b s m d"], Residuals]:
    """Compute attention.

    Args:
        query: as for `attention`, like the next three.
        key: keys.
        value: values.
        lengths: number of leading keys that are real, at least 1; None: all.
        most_scores: scores that are held at once.
    """

    def block(query: Array) -> tuple[Array, tuple[Array, Array]]:
        scores = _scores(query, key, lengths)
        shift = scores.max(-1)
        weights = jnp.exp(scores - shift[..., None])
        norm = weights.sum(-1)
        sums = _product("bmst,btmd->bsmd", weights.astype(value.dtype), value)
        return sums / norm.swapaxes(1, 2)[..., None], (shift.swapaxes(1, 2), norm.swapaxes(1, 2))

    exact, numbers = _over_queries(block, (query,), key, most_scores)
    shift, norm = (x.swapaxes(1, 2) for x in numbers)
    out = exact.astype(value.dtype)
    return out, Residuals(shift, norm, rounding_rest(exact, out))


def backward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None,
    out: Float[Array, "b s m d"],
    residuals: Residuals,
    gradient: Float[Array, "b s m d"],
    most_scores: int = _SCORES,
) -> tuple[Float[Array, "b s m d"], Float[Array, "b t m d"], Float[Array, "b t m d"]]:
    """Compute the gradients of queries, keys and values from the results of `forward`."""
    scale = query.shape[-1] ** -0.5

    def block(query, shift, norm, gradient):
        shift, norm = (x.swapaxes(1, 2)[..., None] for x in (shift, norm))
        # A norm is at least 1; that of a query which pads a block is 0.
        weights = jnp.exp(_scores(query, key, lengths) - shift) / jnp.maximum(norm, 1)
        inner = _product("bsmd,btmd->bmst", gradient, value)
        # The sum is rowsum(dO O), computed without O, which is rounded to its type.
        inner -= (weights * inner).sum(-1, keepdims=True)
        inner = (weights * inner * scale).astype(value.dtype)
        query_gradient = _product("bmst,btmd->bsmd", inner, key)
        key_gradient = _product("bmst,bsmd->btmd", inner, query)
        value_gradient = _product("bmst,bsmd->btmd", weights.astype(value.dtype), gradient)
        return query_gradient.astype(query.dtype), (key_gradient, value_gradient)

    numbers = (x.swapaxes(1, 2) for x in (residuals.shift, residuals.norm))
    rows = query, *numbers, gradient.astype(value.dtype)
    query_gradient, sums = _over_queries(block, rows, key, most_scores, add=True)
    return query_gradient, *(x.astype(y.dtype) for x, y in zip(sums, (key, value), strict=True))


def _scores(query: Array, key: Array, lengths: Array | None) -> Float[Array, "b m s t"]:
    """Compute Q K^T / sqrt(d) in float32, minus infinity for keys that are not real."""
    scores = _product("bsmd,btmd->bmst", query, key) * query.shape[-1] ** -0.5
    if lengths is None:
        return scores
    real = jnp.arange(key.shape[1]) < lengths[:, None]
    return jnp.where(real[:, None, None], scores, -jnp.inf)


def _product(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _over_queries(
    function: Callable[..., tuple[Array, Any]],
    rows: tuple[Array, ...],
    key: Array,
    most_scores: int,
    add: bool = False,
) -> tuple[Array, Any]:
    """Call a function with arrays (b, s, ...) in blocks along s, the last one padded with zeros.

    Returns:
        Its first results, put together along s, and its second results, put together too, or added
        if `add`.
    """
    b, s, m = rows[0].shape[:3]
    t = key.shape[1]
    count = math.ceil(b * m * s * t / most_scores)
    if t > _LONG:
        count = max(count, math.ceil(s / _LONG))
    if count <= 1:
        return function(*rows)
    size = math.ceil(s / count)
    count = math.ceil(s / size)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, count * size - s), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(b, count, size, *x.shape[2:]).swapaxes(0, 1)

    def join(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(b, count * size, *x.shape[3:])[:, :s]

    blocks = jax.tree.map(split, rows)
    if not add:
        return jax.tree.map(join, lax.map(lambda block: function(*block), blocks))

    def step(total, block):
        out, more = function(*block)
        return jax.tree.map(jnp.add, total, more), out

    shapes = jax.eval_shape(lambda *block: function(*block)[1], *[x[0] for x in blocks])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, out = lax.scan(step, zeros, blocks)
    return join(out), total
