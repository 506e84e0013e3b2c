"""Scaled dot-product attention, computed so that no score matrix is ever held whole."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from anchor_jax.shapes import Array

CHUNK = 1024  # queries and keys of one block of scores: 4 MB


def attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    key_mask: Bool[Array, "b t"] | None = None,
) -> Float[Array, "b s m d"]:
    """softmax(Q K^T / sqrt(d)) V, equation (5) of the paper.

    `key_mask` is False for tokens that must not be attended to; the first token of each row is
    True. The softmax is taken in float32, the result is in the type of `value`.
    """
    if jax.default_backend() == "cpu":
        return chunked_attention(query, key, value, key_mask)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


def chunked_attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    key_mask: Bool[Array, "b t"] | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "b s m d"]:
    """`attention` one block of queries and keys at a time, with the softmax kept running over the
    blocks (Milakov and Gimelshein 2018): on a CPU several times faster than one large softmax,
    because a block of scores stays in the cache. Heads with few tokens share a block."""
    b, s, m, d = query.shape
    # The norm is mixed like one more value, of ones. A masked key repeats the first one, so that it
    # moves no maximum, and its values are zero.
    value = jnp.concatenate([value, jnp.ones((*value.shape[:3], 1), value.dtype)], -1)
    if key_mask is not None:
        real = key_mask[:, :, None, None]
        key, value = jnp.where(real, key, key[:, :1]), jnp.where(real, value, 0)
    query, key, value = (
        _chunks(query * d**-0.5, chunk),
        _chunks(key, chunk, "edge"),
        _chunks(value, chunk),
    )

    def one_head(head):
        queries, keys, values = head
        return lax.map(lambda chunk: _running_softmax(chunk, keys, values), queries)

    at_once = max(1, chunk**2 // (query.shape[2] * key.shape[2]))
    while b * m % at_once:
        at_once -= 1
    out = lax.map(one_head, (query, key, value), batch_size=at_once if at_once > 1 else None)
    out = out.reshape(b, m, -1, d)[:, :, :s]
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def _running_softmax(
    queries: Float[Array, "s d"], keys: Float[Array, "k t d"], values: Float[Array, "k t d+1"]
) -> Float[Array, "s d"]:
    """Attention to k chunks of keys and values, float32; the values' last column is the keys'
    share of the norm."""

    def add(carry, block):
        mixed, top = carry
        keys, values = block
        scores = jnp.einsum("sd,td->st", queries, keys, preferred_element_type=jnp.float32)
        new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - new_top).astype(values.dtype)
        mixed = mixed * jnp.exp(top - new_top) + jnp.einsum(
            "st,td->sd", weights, values, preferred_element_type=jnp.float32
        )
        return (mixed, new_top), None

    s, width = len(queries), values.shape[-1]
    lowest = jnp.finfo(jnp.float32).min
    start = (jnp.zeros((s, width), jnp.float32), jnp.full((s, 1), lowest))
    (mixed, _), _ = lax.scan(add, start, (keys, values))
    return mixed[:, :-1] / mixed[:, -1:]


def _chunks(
    x: Float[Array, "b s m d"], most: int, padding: str = "constant"
) -> Float[Array, "b*m k size d"]:
    """Equal chunks of at most `most` tokens."""
    b, s, m, d = x.shape
    num = -(-s // most)
    size = -(-s // num)
    x = jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, num * size - s), (0, 0)), padding)
    return x.reshape(b * m, num, size, d)
