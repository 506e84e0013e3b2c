"""Scaled dot-product attention, computed so that no score matrix is ever held whole."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from anchor_jax.shapes import Array

CHUNKS = 16384, 512  # queries and keys of one block of scores; up to twice the keys are one block
GRADIENT_CHUNKS = 512, 1024  # the same in the backward pass, where scores lie the other way round
ALL_HEADS = 256  # keys, at most, where the heads are computed at once
KEPT_BLOCK = 2**19  # scores of small heads at once in the backward pass, to stay in the cache
SAFE = 64.0  # a sum of exp(64) does not overflow, and one with exp(-64) in it does not vanish

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


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


@partial(jax.jit, static_argnames=("chunks", "gradient_chunks"))  # traced once for a size
def chunked_attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    key_mask: Bool[Array, "b t"] | None = None,
    chunks: tuple[int, int] = CHUNKS,
    gradient_chunks: tuple[int, int] = GRADIENT_CHUNKS,
) -> Float[Array, "b s m d"]:
    """`attention` one block of queries and keys at a time, of the sizes `chunks`, summing what the
    blocks of keys give: on a CPU several times faster than one large softmax, because a block of
    scores stays in the cache. Few keys are one block. The backward pass computes the scores again
    (Dao et al. 2022), so nothing of their size is ever kept.

    Softmax is the same whatever is added to all keys or taken from all scores of a query. With
    keys about their mean, the largest score of a query is not negative, and the product of the
    lengths bounds it: so that only where this bound is large the largest score must be looked for
    in all blocks before they are summed.
    """
    b, s, m, d = query.shape
    if key_mask is not None:  # a masked key repeats the first one, so that it moves no maximum
        key = jnp.where(key_mask[:, :, None, None], key, key[:, :1])
    if key.shape[1] <= 2 * chunks[1]:
        chunks = query.shape[1], key.shape[1]
    else:
        key = (key - key.mean(1, keepdims=True, dtype=jnp.float32)).astype(key.dtype)
    # One more element of the keys, of ones, meets what is added to a query's scores; one more of
    # the values, of ones, is mixed to the norm.
    key, value = _with_column(key, 1), _with_column(value, 1)
    if key_mask is not None:
        value = jnp.where(key_mask[:, :, None, None], value, 0)
    heads = lambda x: x.transpose(0, 2, 1, 3).reshape(b * m, *x.shape[1::2])
    out = _mix(
        _chunks(heads(query * d**-0.5), chunks[0]),
        _chunks(heads(key), chunks[1], "edge"),
        _chunks(heads(value), chunks[1]),
        gradient_chunks,
    )
    out = out.reshape(b, m, -1, d)[:, :, :s]
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def _attend(
    queries: Float[Array, "n j s d"],
    keys: Float[Array, "n k t e"],
    values: Float[Array, "n k t e"],
    gradient_chunks: tuple[int, int],
) -> Float[Array, "n j s d"]:
    """Attention of n independent heads in chunks, float32. Queries are scaled; the last of the
    e = d + 1 columns of the keys is one, that of the values each key's share of the norm."""
    return _forward(queries, keys, values)[0]


_mix = jax.custom_vjp(_attend, nondiff_argnums=(3,))


def _forward(queries: Array, keys: Array, values: Array) -> tuple[Array, Array]:
    """What `_attend` gives, and the logarithm of each query's norm (n, j, s, 1)."""
    # A product with 9 columns takes longer than one with 16: whole vectors, where few are missing.
    missing = -values.shape[-1] % 16
    if missing < 8:
        values = jnp.pad(values, ((0, 0), (0, 0), (0, 0), (0, missing)))
    if keys.shape[1] == 1:
        at_once = len(keys) if keys.shape[2] <= ALL_HEADS else 1
        return _over_heads(_one_block, (queries, keys[:, 0, :, :-1], values[:, 0]), at_once)

    length = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
    bounds = length(queries) * length(keys[..., :-1]).max((1, 2, 3), keepdims=True)
    tops = jnp.maximum(bounds - SAFE, 0)

    def one_head(head):
        queries, tops, keys, values, bound = head
        attend = lambda chunk: _all_blocks(chunk[0], chunk[1], keys, values, bound)
        return lax.map(attend, (queries, tops))

    return lax.map(one_head, (queries, tops, keys, values, bounds.max((1, 2, 3))))


def _keep(queries: Array, keys: Array, values: Array, _):
    out, log_norm = _forward(queries, keys, values)
    return out, (queries, keys, values, out, log_norm)


def _backward(chunks: tuple[int, int], kept: tuple[Array, ...], gradient: Array):
    queries, keys, values, out, log_norm = kept
    # With P the weights, dP = dO V^T and dS = P (dP - rowsum(dO O)): what is taken away is one more
    # column of dO, against the values' column of ones.
    gradient = gradient.astype(jnp.float32)
    taken = (gradient * out).sum(-1, keepdims=True)
    gradient = jnp.concatenate([gradient, -taken], -1).astype(values.dtype)
    again = lambda x, most: _chunks(x.reshape(len(x), -1, x.shape[-1]), most)
    by_query = [again(x, chunks[0]) for x in (queries, log_norm, gradient)]
    by_key = [again(x, chunks[1]) for x in (keys, values)]
    # Contracting the longer axis of a block of scores takes XLA's CPU backend several times as long
    # unless the other factor comes transposed, and in memory so.
    by_key.append(by_key[0][..., :-1].swapaxes(-1, -2))
    at_once = KEPT_BLOCK // (by_query[0].shape[2] * by_key[0].shape[2])
    flat, *grads = _over_heads(_head_gradients, (*by_query, *by_key), at_once)

    def like(x: Array, gradient: Array) -> Array:
        n, num, size, _ = x.shape
        gradient = gradient.reshape(n, -1, gradient.shape[-1])[:, : num * size]
        return gradient.reshape(n, num, size, -1).astype(x.dtype)

    return (
        like(queries, flat.swapaxes(-1, -2)),
        *(like(x, _with_column(g, 0)) for x, g in zip((keys, values), grads, strict=True)),
    )


_mix.defvjp(_keep, _backward)


def _head_gradients(head: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Gradients of one head's queries (j, d, s), transposed, and of its keys and values (k, t, d)
    without their last columns, which are constants, float32."""
    queries, log_norm, gradients, keys, values, flat_keys = head
    queries = jnp.concatenate([queries, -log_norm], -1)  # promoted: the logarithm stays float32

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


def _over_heads(function: Callable, arrays: tuple[Array, ...], at_once: int):
    """Map over the leading axis, at most so many heads at once."""
    if at_once >= len(arrays[0]):
        return jax.vmap(function)(arrays)
    at_once = max(1, at_once)
    while len(arrays[0]) % at_once:
        at_once -= 1
    return lax.map(function, arrays, batch_size=at_once if at_once > 1 else None)


def _one_block(head: tuple[Array, ...]) -> tuple[Array, Array]:
    """Attention of queries (j, s, d) to all keys (t, d) and values (t, e), as `_all_blocks`."""
    queries, keys, values = head
    scores = _product("jsd,td->jst", queries, keys)
    tops = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - tops).astype(values.dtype)
    return _normalised(_product("jst,te->jse", weights, values), tops, keys.shape[-1])


def _all_blocks(
    queries: Float[Array, "s d"],
    tops: Float[Array, "s 1"],
    keys: Float[Array, "k t d+1"],
    values: Float[Array, "k t e"],
    bound: Float[Array, ""],
) -> tuple[Float[Array, "s d"], Float[Array, "s 1"]]:
    """Attention to k blocks of keys and values, float32, and the logarithm of the norm, which is
    column d of what is mixed. What is taken from a query's scores before the exponential is `tops`
    or, where the bound of all scores is too large for that, the largest of them. Where it is small,
    nothing is."""
    d = queries.shape[-1]
    safe, bounded = bound < SAFE, bound < 2 * SAFE

    def all_keys_if(condition: Array, *loop):
        # A CPU computes a `lax.cond` on one thread.
        return lax.fori_loop(0, jnp.where(condition, len(keys), 0), *loop)

    def scores(queries: Array, i: Array) -> Array:
        """Of d columns, or of d + 1."""
        return _product("sd,td->st", queries, keys[i, :, : queries.shape[-1]])

    def largest(i: Array, tops: Array) -> Array:
        return jnp.maximum(tops, scores(queries, i).max(-1, keepdims=True))

    def add(queries: Array, i: Array, mixed: Array) -> Array:
        weights = jnp.exp(scores(queries, i)).astype(values.dtype)
        return mixed + _product("st,te->se", weights, values[i])

    tops = all_keys_if(~bounded, largest, jnp.where(bounded, tops, jnp.finfo(jnp.float32).min))
    taken = tops.astype(queries.dtype)
    mixed = jnp.zeros((len(queries), values.shape[-1]))
    mixed = all_keys_if(safe, partial(add, queries), mixed)
    mixed = all_keys_if(~safe, partial(add, jnp.concatenate([queries, -taken], -1)), mixed)
    return _normalised(mixed, taken, d)


def _normalised(mixed: Array, taken: Array, d: int) -> tuple[Array, Array]:
    """The first d columns over the norm, and its logarithm."""
    norm = mixed[..., d : d + 1]
    return mixed[..., :d] / norm, taken + jnp.log(norm)


def _with_column(x: Array, value: int) -> Array:
    """One more element at the end of the last axis."""
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, 1),), constant_values=value)


def _chunks(
    x: Float[Array, "n s d"], most: int, padding: str = "constant"
) -> Float[Array, "n k size d"]:
    """Equal chunks of at most `most` tokens."""
    n, s, d = x.shape
    num = -(-s // most)
    size = -(-s // num)
    x = jnp.pad(x, ((0, 0), (0, num * size - s), (0, 0)), padding)
    return x.reshape(n, num, size, d)
