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

    `key_mask` is False for tokens that must not be attended to; at least one token of each row is
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
    t = key.shape[1]
    query = _chunks(query * d**-0.5, chunk)
    key, value = _chunks(key, chunk), _chunks(value, chunk)
    query_chunk, num_key_chunks, key_chunk = query.shape[2], *key.shape[1:3]
    bias = None
    if key_mask is not None or num_key_chunks * key_chunk > t:
        real = jnp.ones((b, t), bool) if key_mask is None else key_mask
        real = jnp.pad(real, ((0, 0), (0, num_key_chunks * key_chunk - t)))
        bias = jnp.where(real, 0.0, -jnp.inf).reshape(b, num_key_chunks, 1, key_chunk)
        bias = jnp.repeat(bias, m, axis=0)

    def one_head(head):
        queries, keys, values, bias = head
        return lax.map(lambda chunk: _running_softmax(chunk, keys, values, bias), queries)

    at_once = max(1, chunk**2 // (query_chunk * key_chunk))
    while b * m % at_once:
        at_once -= 1
    out = lax.map(one_head, (query, key, value, bias), batch_size=at_once if at_once > 1 else None)
    out = out.reshape(b, m, -1, d)[:, :, :s]
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def _running_softmax(
    queries: Float[Array, "s d"],
    keys: Float[Array, "k t d"],
    values: Float[Array, "k t d"],
    bias: Float[Array, "k 1 t"] | None,
) -> Float[Array, "s d"]:
    """Attention to k chunks of keys and values, float32."""

    def add(carry, block):
        mixed, norm, top = carry
        keys, values, bias = block
        scores = jnp.einsum("sd,td->st", queries, keys, preferred_element_type=jnp.float32)
        scores = scores if bias is None else scores + bias
        new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
        weights, shrink = jnp.exp(scores - new_top), jnp.exp(top - new_top)
        mixed = mixed * shrink + jnp.einsum(
            "st,td->sd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
        )
        return (mixed, norm * shrink + weights.sum(-1, keepdims=True), new_top), None

    rows = (len(queries), 1)
    lowest = jnp.finfo(jnp.float32).min
    start = (jnp.zeros(queries.shape, jnp.float32), jnp.zeros(rows), jnp.full(rows, lowest))
    (mixed, norm, _), _ = lax.scan(add, start, (keys, values, bias))
    return mixed / norm


def _chunks(x: Float[Array, "b s m d"], most: int) -> Float[Array, "b*m k size d"]:
    """Equal chunks of at most `most` tokens, zero-padded."""
    b, s, m, d = x.shape
    num = -(-s // most)
    size = -(-s // num)
    x = jnp.pad(x.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, num * size - s), (0, 0)))
    return x.reshape(b * m, num, size, d)
