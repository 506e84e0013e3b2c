"""Attention for CPUs: the algorithm that `models.attention` describes, in blocks of scores that
stay in the cache. Arrays are (heads, blocks, tokens, width): n heads of all rows, j blocks of s
queries, k blocks of t keys; d is the width of a head, and e >= d + 1 is the width of the values
with their extra columns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from anchor_jax.shapes import Array

# The most queries and keys in one block of scores. Twice as many keys are still one block.
_CHUNKS = 16384, 512
# The same in the backward pass, where the scores are transposed.
_GRADIENT_CHUNKS = 512, 1024
_KEYS_OF_ALL_HEADS = 256  # with at most this many keys, all heads are computed at once
# The backward pass computes several heads together, with at most this many scores.
_SCORES_IN_CACHE = 2**19
# A sum of exp(64) does not overflow, and a sum that contains exp(-64) does not underflow.
_SAFE_SCORE = 64.0

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


@partial(jax.jit, static_argnames=("chunks", "gradient_chunks"))  # traced once for a size
def chunked_attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    key_mask: Bool[Array, "b t"] | None = None,
    chunks: tuple[int, int] = _CHUNKS,
    gradient_chunks: tuple[int, int] = _GRADIENT_CHUNKS,
) -> Float[Array, "b s m d"]:
    """Compute `attention` one block of scores at a time: several times faster than one large
    softmax, because a block stays in the cache.

    Args:
        query: as for `attention`, like the next three.
        key: keys.
        value: values.
        key_mask: False for tokens that no query attends to.
        chunks: queries and keys of a block. Twice as many keys are still one block.
        gradient_chunks: queries and keys of a block in the backward pass.
    """
    b, s, m, d = query.shape
    if key_mask is not None:  # a masked key repeats the first one, so no maximum changes
        key = jnp.where(key_mask[:, :, None, None], key, key[:, :1])
    if key.shape[1] <= 2 * chunks[1]:
        chunks = query.shape[1], key.shape[1]
    else:
        key = (key - key.mean(1, keepdims=True, dtype=jnp.float32)).astype(key.dtype)
    key, value = _with_shift_column(key), _with_norm_column(value)
    if key_mask is not None:
        value = jnp.where(key_mask[:, :, None, None], value, 0)
    heads = lambda x: x.transpose(0, 2, 1, 3).reshape(b * m, *x.shape[1::2])
    out: Any = _attend(
        _chunk(heads(query * d**-0.5), chunks[0]),
        _chunk(heads(key), chunks[1], "edge"),
        _chunk(heads(value), chunks[1]),
        gradient_chunks,
    )
    out = out.reshape(b, m, -1, d)[:, :, :s]
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def _with_shift_column(keys: Float[Array, "... d"]) -> Float[Array, "... d+1"]:
    """Append a column of ones to the keys. An element appended to a query is then added to all
    scores of this query."""
    return _with_column(keys, 1)


def _with_norm_column(values: Float[Array, "... d"]) -> Float[Array, "... d+1"]:
    """Append a column of ones to the values. The sum of weighted values then ends with the sum of
    the weights, the softmax's denominator."""
    return _with_column(values, 1)


def _with_column(x: Array, element: int) -> Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, 1),), constant_values=element)


def _chunk(
    x: Float[Array, "n s d"], most: int, padding: str = "constant"
) -> Float[Array, "n k size d"]:
    """Split tokens into equal chunks of at most `most`, padding the last one."""
    n, s, d = x.shape
    num = -(-s // most)
    size = -(-s // num)
    x = jnp.pad(x, ((0, 0), (0, num * size - s), (0, 0)), padding)
    return x.reshape(n, num, size, d)


# Forward


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(
    queries: Float[Array, "n j s d"],
    keys: Float[Array, "n k t d+1"],
    values: Float[Array, "n k t d+1"],
    gradient_chunks: tuple[int, int],
) -> Float[Array, "n j s d"]:
    """Compute attention of n independent heads, float32. Queries are scaled; keys have their shift
    column, values their norm column (0 for a masked or padded key).

    The gradient is written by hand to save memory: it keeps one number a query, and no score. With
    the gradient that JAX derives, a training step of the 50M model takes 2.2 times the memory and
    1.9 times the CPU time (`python -m benchmarks.train_step --without attention --pairs 9`). For
    several blocks JAX cannot derive it at all, because the loops have traced lengths.
    """
    return _forward(queries, keys, values)[0]


def _forward(
    queries: Float[Array, "n j s d"],
    keys: Float[Array, "n k t d+1"],
    values: Float[Array, "n k t d+1"],
) -> tuple[Float[Array, "n j s d"], Float[Array, "n j s 1"]]:
    """Compute attention and the logarithm of each query's norm."""
    # A product with 9 columns takes longer than one with 16, a whole vector. So the columns are
    # padded to a multiple of 16 where fewer than 8 are missing.
    missing = -values.shape[-1] % 16
    if missing < 8:
        values = jnp.pad(values, ((0, 0), (0, 0), (0, 0), (0, missing)))
    if keys.shape[1] == 1:
        at_once = len(keys) if keys.shape[2] <= _KEYS_OF_ALL_HEADS else 1
        return _over_heads(_one_block, (queries, keys[:, 0, :, :-1], values[:, 0]), at_once)

    length = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
    bounds = length(queries) * length(keys[..., :-1]).max((1, 2, 3), keepdims=True)
    shifts = jnp.maximum(bounds - _SAFE_SCORE, 0)

    def one_head(head):
        queries, shifts, keys, values, bound = head
        attend = lambda chunk: _all_blocks(chunk[0], chunk[1], keys, values, bound)
        return lax.map(attend, (queries, shifts))

    return lax.map(one_head, (queries, shifts, keys, values, bounds.max((1, 2, 3))))


def _one_block(head: tuple[Array, ...]) -> tuple[Array, Array]:
    """Compute attention of queries (j, s, d) to all keys (t, d) and values (t, e), float32, and
    the logarithm of the norm. The shift is each query's largest score."""
    queries, keys, values = head
    scores = _product("jsd,td->jst", queries, keys)
    shifts = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - shifts).astype(values.dtype)
    return _normalise(_product("jst,te->jse", weights, values), shifts, keys.shape[-1])


def _all_blocks(
    queries: Float[Array, "s d"],
    shifts: Float[Array, "s 1"],
    keys: Float[Array, "k t d+1"],
    values: Float[Array, "k t e"],
    bound: Float[Array, ""],
) -> tuple[Float[Array, "s d"], Float[Array, "s 1"]]:
    """Compute attention to k blocks of keys and values, float32, and the logarithm of the norm.

    What is subtracted from a query's scores depends on `bound`, which no score of the head
    exceeds: nothing if it is small, `shifts` if it is larger, and the query's largest score if the
    exponential could overflow or underflow otherwise.
    """
    d = queries.shape[-1]
    no_shift, no_maximum = bound < _SAFE_SCORE, bound < 2 * _SAFE_SCORE

    def for_all_blocks_if(condition: Array, *loop):
        # Not `lax.cond`, whose branches run on one thread on CPUs.
        return lax.fori_loop(0, jnp.where(condition, len(keys), 0), *loop)

    def scores(queries: Array, i: Array) -> Array:
        """Scores of block i, of queries with or without an element for the shift column."""
        return _product("sd,td->st", queries, keys[i, :, : queries.shape[-1]])

    def running_maximum(i: Array, largest: Array) -> Array:
        return jnp.maximum(largest, scores(queries, i).max(-1, keepdims=True))

    def add(queries: Array, i: Array, sums: Array) -> Array:
        weights = jnp.exp(scores(queries, i)).astype(values.dtype)
        return sums + _product("st,te->se", weights, values[i])

    shifts = jnp.where(no_maximum, shifts, jnp.finfo(jnp.float32).min)
    shifts = for_all_blocks_if(~no_maximum, running_maximum, shifts)
    shifts = shifts.astype(queries.dtype)
    shifted = jnp.concatenate([queries, -shifts], -1)
    sums = jnp.zeros((len(queries), values.shape[-1]))
    sums = for_all_blocks_if(no_shift, partial(add, queries), sums)
    sums = for_all_blocks_if(~no_shift, partial(add, shifted), sums)
    return _normalise(sums, shifts, d)


def _normalise(sums: Array, shifts: Array, d: int) -> tuple[Array, Array]:
    """Divide the first d columns by the norm, which is the next one. Also return its logarithm."""
    norm = sums[..., d : d + 1]
    return sums[..., :d] / norm, shifts + jnp.log(norm)


def _over_heads(function: Callable, arrays: tuple[Array, ...], at_once: int):
    """Map a function over the leading axis, at most `at_once` heads together."""
    if at_once >= len(arrays[0]):
        return jax.vmap(function)(arrays)
    at_once = max(1, at_once)
    while len(arrays[0]) % at_once:
        at_once -= 1
    return lax.map(function, arrays, batch_size=at_once if at_once > 1 else None)


# Backward


def _forward_residuals(queries: Array, keys: Array, values: Array, _):
    out, log_norm = _forward(queries, keys, values)
    return out, (queries, keys, values, out, log_norm)


def _backward(chunks: tuple[int, int], residuals: tuple[Array, ...], gradient: Array):
    queries, keys, values, out, log_norm = residuals
    # rowsum(dO O) is subtracted through the values' norm column, as one more element of dO.
    gradient = gradient.astype(jnp.float32)
    row_sums = (gradient * out).sum(-1, keepdims=True)
    gradient = jnp.concatenate([gradient, -row_sums], -1).astype(values.dtype)
    rechunk = lambda x, most: _chunk(x.reshape(len(x), -1, x.shape[-1]), most)
    by_query = [rechunk(x, chunks[0]) for x in (queries, log_norm, gradient)]
    by_key = [rechunk(x, chunks[1]) for x in (keys, values)]
    # XLA's CPU backend contracts the longer axis of a block of scores several times faster where
    # the other factor is already transposed in memory.
    by_key.append(by_key[0][..., :-1].swapaxes(-1, -2))
    at_once = _SCORES_IN_CACHE // (by_query[0].shape[2] * by_key[0].shape[2])
    flat, *grads = _over_heads(_head_gradients, (*by_query, *by_key), at_once)

    def like(x: Array, gradient: Array) -> Array:
        n, num, size, _ = x.shape
        gradient = gradient.reshape(n, -1, gradient.shape[-1])[:, : num * size]
        return gradient.reshape(n, num, size, -1).astype(x.dtype)

    return (
        like(queries, flat.swapaxes(-1, -2)),
        *(like(x, _with_column(g, 0)) for x, g in zip((keys, values), grads, strict=True)),
    )


_attend.defvjp(_forward_residuals, _backward)


def _head_gradients(head: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of one head, float32: of its queries, transposed (j, d, s), and of its
    keys and values (k, t, d) without their columns of ones, which are constants."""
    queries, log_norm, gradients, keys, values, flat_keys = head
    # The keys' shift column subtracts `log_norm` from the scores. `concatenate` promotes bfloat16
    # queries to float32, the type of the logarithm.
    queries = jnp.concatenate([queries, -log_norm], -1)

    def add_keys(query_gradients, block):
        keys, values, flat_keys = block

        def add_queries(carry, chunk):
            queries, gradient = chunk
            weights = jnp.exp(_product("td,sd->ts", keys, queries))
            inner = weights * _product("te,se->ts", values, gradient)
            weights, inner = weights.astype(values.dtype), inner.astype(values.dtype)
            key_gradient, value_gradient = carry
            carry = (
                key_gradient + _product("ts,sd->td", inner, queries[:, :-1].astype(inner.dtype)),
                value_gradient + _product("ts,sd->td", weights, gradient[:, :-1]),
            )
            return carry, _product("dt,ts->ds", flat_keys, inner)

        start = (jnp.zeros(flat_keys.T.shape, jnp.float32),) * 2
        grads, parts = lax.scan(add_queries, start, (queries, gradients))
        return query_gradients + parts, grads

    start = jnp.zeros((len(queries), flat_keys.shape[1], queries.shape[1]), jnp.float32)
    query_gradients, (key_gradients, value_gradients) = lax.scan(
        add_keys, start, (keys, values, flat_keys)
    )
    return query_gradients, key_gradients, value_gradients
