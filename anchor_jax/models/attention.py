"""Scaled dot-product attention, computed so that no score matrix is ever held whole."""

import jax
import jax.numpy as jnp
from jax import lax

from anchor_jax.shapes import Array

QUERY_CHUNK = 256
KEY_CHUNK = 4096


def attention(query: Array, key: Array, value: Array, key_mask: Array | None = None) -> Array:
    """softmax(Q K^T / sqrt(d)) V, equation (5) of the paper.

    Args:
        query: (b, s, m, d).
        key: (b, t, m, d).
        value: (b, t, m, d).
        key_mask: bool (b, t), False for tokens that must not be attended to; at least one token
            of each row is True.

    Returns:
        (b, s, m, d) in the type of `query`; the softmax is taken in float32.
    """
    if jax.default_backend() == "cpu":
        return chunked_attention(query, key, value, key_mask)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


def chunked_attention(
    query: Array,
    key: Array,
    value: Array,
    key_mask: Array | None = None,
    query_chunk: int = QUERY_CHUNK,
    key_chunk: int = KEY_CHUNK,
) -> Array:
    """`attention` one head and one chunk of queries at a time, with the softmax kept running over
    chunks of keys (Milakov and Gimelshein 2018): on a CPU several times faster than one large
    softmax, because a block of scores stays in the cache."""
    b, s, m, d = query.shape
    t = key.shape[1]
    query_chunk, key_chunk = min(query_chunk, s), min(key_chunk, t)
    bias = jnp.zeros((b, t), jnp.float32)
    if key_mask is not None:
        bias = jnp.where(key_mask, bias, -jnp.inf)
    query = _chunks(query * d**-0.5, query_chunk)
    key, value = _chunks(key, key_chunk), _chunks(value, key_chunk)
    bias = jnp.pad(bias, ((0, 0), (0, -t % key_chunk)), constant_values=-jnp.inf)
    bias = bias.reshape(b, -1, key_chunk)

    def one_head(row_and_head):
        row, head = row_and_head
        heads_keys, heads_values, heads_bias = key[row, head], value[row, head], bias[row]

        def one_chunk(queries):
            if len(heads_keys) == 1:
                scores = _scores(queries, heads_keys[0], heads_bias[0])
                weights = jnp.exp(scores - scores.max(-1, keepdims=True))
                return _mix(weights, heads_values[0]) / weights.sum(-1, keepdims=True)

            def add(carry, chunk):
                mixed, norm, top = carry
                keys, values, bias = chunk
                scores = _scores(queries, keys, bias)
                new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
                weights, shrink = jnp.exp(scores - new_top), jnp.exp(top - new_top)
                norm = norm * shrink + weights.sum(-1, keepdims=True)
                return (mixed * shrink + _mix(weights, values), norm, new_top), None

            start = (
                jnp.zeros((query_chunk, d), jnp.float32),
                jnp.zeros((query_chunk, 1), jnp.float32),
                jnp.full((query_chunk, 1), jnp.finfo(jnp.float32).min),
            )
            (mixed, norm, _), _ = lax.scan(add, start, (heads_keys, heads_values, heads_bias))
            return mixed / norm

        return lax.map(one_chunk, query[row, head])

    rows, heads = jnp.divmod(jnp.arange(b * m), m)
    out = lax.map(one_head, (rows, heads))  # (b m) chunks query_chunk d
    out = out.reshape(b, m, -1, d)[:, :, :s]
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def _chunks(x: Array, size: int) -> Array:
    """(b, s, m, d) -> (b, m, ceil(s / size), size, d), zero-padded."""
    b, s, m, d = x.shape
    x = jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, -s % size), (0, 0)))
    return x.reshape(b, m, -1, size, d)


def _scores(queries: Array, keys: Array, bias: Array) -> Array:
    return jnp.einsum("sd,td->st", queries, keys, preferred_element_type=jnp.float32) + bias


def _mix(weights: Array, values: Array) -> Array:
    return jnp.einsum(
        "st,td->sd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
