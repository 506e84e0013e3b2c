"""Attention for CPUs: the algorithm that the package describes, in blocks of scores that stay in
the cache, in float32. Arrays are (heads, blocks, tokens, width): n heads of all rows, j blocks of s
queries, k blocks of t keys; d is the width of a head, and e >= d + 1 is the width of the values
with their extra columns."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from anchor_jax.models.attention.residuals import Residuals, rounding_rest, weighted_gradient
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
_OUTLIER = 8.0  # a key that is so many times longer than the mean of all


@partial(jax.jit, static_argnames="chunks")  # traced once for a size
def forward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None = None,
    chunks: tuple[int, int] = _CHUNKS,
) -> tuple[Float[Array, "b s m d"], Residuals]:
    """Compute attention one block of scores at a time.

    It is several times faster than one large softmax, because a block stays in the cache.

    Args:
        query: as for `attention`, like the next three.
        key: keys.
        value: values.
        lengths: number of leading keys that are real, at least 1; None: all.
        chunks: queries and keys of a block. Twice as many keys are still one block.
    """
    b, s, m, d = query.shape
    exact, *numbers = _forward(*_prepare(query, key, value, lengths, chunks))
    exact = exact.reshape(b, m, -1, d)[:, :, :s].transpose(0, 2, 1, 3)
    shift, norm = (x.reshape(b, m, -1)[:, :, :s] for x in numbers)
    out = exact.astype(value.dtype)
    return out, Residuals(shift, norm, rounding_rest(exact, out))


@partial(jax.jit, static_argnames=("chunks", "gradient_chunks"))
def backward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None,
    out: Float[Array, "b s m d"],
    residuals: Residuals,
    gradient: Float[Array, "b s m d"],
    chunks: tuple[int, int] = _CHUNKS,
    gradient_chunks: tuple[int, int] = _GRADIENT_CHUNKS,
) -> tuple[Float[Array, "b s m d"], Float[Array, "b t m d"], Float[Array, "b t m d"]]:
    """Compute the gradients of queries, keys and values from the results of `forward`, whose
    `chunks` must be the same."""
    prepare = lambda q, k, v: _prepare(q, k, v, lengths, chunks)
    prepared, pull = jax.vjp(prepare, query, key, value)
    gradient, row_sums = weighted_gradient(gradient, out, residuals)
    gradient = _heads(gradient.astype(jnp.float32))
    one_a_query = lambda x: x.reshape(*gradient.shape[:2], 1)
    shift, row_sums = one_a_query(residuals.shift), one_a_query(row_sums)
    return pull(_backward(gradient_chunks, prepared, shift, row_sums, gradient))


def _prepare(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None,
    chunks: tuple[int, int],
) -> tuple[Array, Array, Array]:
    """Split queries, keys and values into blocks of float32: the queries scaled, the keys with
    their shift column and, with several blocks, centred, the values with their norm column (0 for a
    key that is not real).

    Half precision is computed in float32 too, because centred keys would be rounded.

    Returns:
        Queries (n, j, size, d), keys and values (n, k, size, d + 1).
    """
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    real = None
    if lengths is not None:  # a key that is not real repeats the first one, so no maximum changes
        real = (jnp.arange(key.shape[1]) < lengths[:, None])[:, :, None, None]
        key = jnp.where(real, key, key[:, :1])
    if key.shape[1] <= 2 * chunks[1]:
        chunks = query.shape[1], key.shape[1]
    else:
        key = key - _center(key)
    key, value = _with_shift_column(key), _with_norm_column(value)
    if real is not None:
        value = jnp.where(real, value, 0)
    return (
        _chunk(_heads(query * query.shape[-1] ** -0.5), chunks[0]),
        _chunk(_heads(key), chunks[1], "edge"),
        _chunk(_heads(value), chunks[1]),
    )


def _center(keys: Float[Array, "b t m d"]) -> Float[Array, "b 1 m d"]:
    """Compute the mean key of each head, which is subtracted from all keys; or zero for a head with
    an outlier, because its mean can be much larger than the other keys, which then lose digits."""
    lengths = jnp.linalg.norm(keys, axis=-1)
    usual = lengths.max(1) < _OUTLIER * lengths.mean(1)
    return jnp.where(usual[:, None, :, None], keys.mean(1, keepdims=True), 0)


def _heads(x: Array) -> Array:
    """(b, s, m, d) -> (b m, s, d)."""
    b, s, m, d = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b * m, s, d)


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


def _forward(
    queries: Float[Array, "n j s d"],
    keys: Float[Array, "n k t d+1"],
    values: Float[Array, "n k t d+1"],
) -> tuple[Float[Array, "n j s d"], Float[Array, "n j s 1"], Float[Array, "n j s 1"]]:
    """Compute attention, and shift and norm of each query (see `Residuals`)."""
    # A product with 9 columns takes longer than one with 16, a whole vector. So the columns are
    # padded to a multiple of 16 where fewer than 8 are missing.
    missing = -values.shape[-1] % 16
    if missing < 8:
        values = jnp.pad(values, ((0, 0), (0, 0), (0, 0), (0, missing)))
    if keys.shape[1] == 1:
        at_once = len(keys) if keys.shape[2] <= _KEYS_OF_ALL_HEADS else 1
        return _over_heads(_one_block, (queries, keys[:, 0, :, :-1], values[:, 0]), at_once)

    length = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
    bounds = length(queries) * length(keys[..., :-1]).max((1, 2, 3), keepdims=True)
    shifts = jnp.maximum(bounds - _SAFE_SCORE, 0)

    def one_head(head):
        queries, shifts, keys, values, bound = head
        attend = lambda chunk: _all_blocks(chunk[0], chunk[1], keys, values, bound)
        return lax.map(attend, (queries, shifts))

    return lax.map(one_head, (queries, shifts, keys, values, bounds.max((1, 2, 3))))


def _one_block(head: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Compute attention of queries (j, s, d) to all keys (t, d) and values (t, e), with shift and
    norm. The shift is each query's largest score."""
    queries, keys, values = head
    scores = jnp.einsum("jsd,td->jst", queries, keys)
    shifts = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - shifts)
    return _normalise(jnp.einsum("jst,te->jse", weights, values), shifts, keys.shape[-1])


def _all_blocks(
    queries: Float[Array, "s d"],
    shifts: Float[Array, "s 1"],
    keys: Float[Array, "k t d+1"],
    values: Float[Array, "k t e"],
    bound: Float[Array, ""],
) -> tuple[Float[Array, "s d"], Float[Array, "s 1"], Float[Array, "s 1"]]:
    """Compute attention to k blocks of keys and values, with shift and norm.

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
        return jnp.einsum("sd,td->st", queries, keys[i, :, : queries.shape[-1]])

    def running_maximum(i: Array, largest: Array) -> Array:
        return jnp.maximum(largest, scores(queries, i).max(-1, keepdims=True))

    def add(queries: Array, i: Array, sums: Array) -> Array:
        return sums + jnp.einsum("st,te->se", jnp.exp(scores(queries, i)), values[i])

    shifts = jnp.where(no_maximum, shifts, jnp.finfo(jnp.float32).min)
    shifts = for_all_blocks_if(~no_maximum, running_maximum, shifts)
    shifted = jnp.concatenate([queries, -shifts], -1)
    sums = jnp.zeros((len(queries), values.shape[-1]))
    sums = for_all_blocks_if(no_shift, partial(add, queries), sums)
    sums = for_all_blocks_if(~no_shift, partial(add, shifted), sums)
    out, shifts, norm = _normalise(sums, shifts, d)
    # Without the maximum, the norm may be so large that a gradient divided by it underflows.
    return (
        out,
        jnp.where(no_maximum, shifts + jnp.log(norm), shifts),
        jnp.where(no_maximum, 1, norm),
    )


def _normalise(sums: Array, shifts: Array, d: int) -> tuple[Array, Array, Array]:
    """Divide the first d columns by the norm, which is the next one. Also return shift and norm."""
    norm = sums[..., d : d + 1]
    return sums[..., :d] / norm, shifts, norm


def _over_heads(function: Callable, arrays: tuple[Array, ...], at_once: int):
    """Map a function over the leading axis, at most `at_once` heads together."""
    if at_once >= len(arrays[0]):
        return jax.vmap(function)(arrays)
    at_once = max(1, at_once)
    while len(arrays[0]) % at_once:
        at_once -= 1
    return lax.map(function, arrays, batch_size=at_once if at_once > 1 else None)


# Backward


def _backward(
    chunks: tuple[int, int],
    prepared: tuple[Array, Array, Array],
    shifts: Float[Array, "n s 1"],
    row_sums: Float[Array, "n s 1"],
    gradient: Float[Array, "n s d"],
) -> tuple[Array, Array, Array]:
    """Compute the gradients of the results of `_prepare`."""
    queries, keys, values = prepared
    # The row sums are subtracted through the values' norm column, as one more element of dO.
    gradient = jnp.concatenate([gradient, -row_sums], -1)
    flat = lambda x: x.reshape(len(x), -1, x.shape[-1])
    real_queries = flat(queries)[:, : gradient.shape[1]]
    by_query = [_chunk(x, chunks[0]) for x in (real_queries, shifts, gradient)]
    by_key = [_chunk(flat(x), chunks[1]) for x in (keys, values)]
    # XLA's CPU backend contracts the longer axis of a block of scores several times faster where
    # the other factor is already transposed in memory.
    by_key.append(by_key[0][..., :-1].swapaxes(-1, -2))
    at_once = _SCORES_IN_CACHE // (by_query[0].shape[2] * by_key[0].shape[2])
    transposed, key_gradients, value_gradients = _over_heads(
        _head_gradients, (*by_query, *by_key), at_once
    )

    def like(x: Array, gradient: Array) -> Array:
        """Split a gradient as x is, with zeros for padding that it lacks."""
        n, num, size, _ = x.shape
        gradient = flat(gradient)[:, : num * size]
        missing = num * size - gradient.shape[1]
        gradient = jnp.pad(gradient, ((0, 0), (0, missing), (0, 0)))
        return gradient.reshape(n, num, size, -1)

    return (
        like(queries, transposed.swapaxes(-1, -2)),
        like(keys, _with_column(key_gradients, 0)),
        like(values, _with_column(value_gradients, 0)),
    )


def _head_gradients(head: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of one head, float32: of its queries, transposed (j, d, s), and of its
    keys and values (k, t, d) without their columns of ones, which are constants."""
    queries, shifts, gradients, keys, values, flat_keys = head
    # The keys' shift column subtracts the shifts from the scores.
    queries = jnp.concatenate([queries, -shifts], -1)

    def add_keys(query_gradients, block):
        keys, values, flat_keys = block

        def add_queries(carry, chunk):
            queries, gradient = chunk
            weights = jnp.exp(jnp.einsum("td,sd->ts", keys, queries))
            inner = weights * jnp.einsum("te,se->ts", values, gradient)
            key_gradient, value_gradient = carry
            carry = (
                key_gradient + jnp.einsum("ts,sd->td", inner, queries[:, :-1]),
                value_gradient + jnp.einsum("ts,sd->td", weights, gradient[:, :-1]),
            )
            return carry, jnp.einsum("dt,ts->ds", flat_keys, inner)

        start = (jnp.zeros(flat_keys.T.shape, jnp.float32),) * 2
        grads, parts = lax.scan(add_queries, start, (queries, gradients))
        return query_gradients + parts, grads

    start = jnp.zeros((len(queries), flat_keys.shape[1], queries.shape[1]), jnp.float32)
    query_gradients, (key_gradients, value_gradients) = lax.scan(
        add_keys, start, (keys, values, flat_keys)
    )
    return query_gradients, key_gradients, value_gradients
