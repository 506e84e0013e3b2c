"""Queries, keys and values that break careless attention, and attention in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

Case = tuple[Any, ...]


def softmax_attention(query, key, value, gradient, lengths) -> tuple[np.ndarray, ...]:
    """Compute attention and the gradients of queries, keys and values, float64."""
    query, key, value, gradient = (np.asarray(x, np.float64) for x in (query, key, value, gradient))
    scale = query.shape[-1] ** -0.5
    scores = np.einsum("bsmd,btmd->bmst", query, key) * scale
    if lengths is not None:
        real = np.arange(key.shape[1]) < np.asarray(lengths)[:, None]
        scores = np.where(real[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bmst,btmd->bsmd", weights, value)
    inner = np.einsum("bsmd,btmd->bmst", gradient, value)
    inner = weights * (inner - (inner * weights).sum(-1, keepdims=True)) * scale
    return (
        out,
        np.einsum("bmst,btmd->bsmd", inner, key),
        np.einsum("bmst,bsmd->btmd", inner, query),
        np.einsum("bmst,bsmd->btmd", weights, gradient),
    )


def roundings(query, key, value, gradient) -> tuple[np.ndarray, np.ndarray]:
    """Compute how much the output and the three gradients may lose by rounding, in units of the
    relative precision: of float32, when the scores are rounded, and of the type, when the terms of
    their sums are. These are the sums of the absolute terms, times the largest score, and once."""
    query, key, value, gradient = (np.asarray(x, np.float64) for x in (query, key, value, gradient))
    scores = np.einsum("bsmd,btmd->bmst", query, key) * query.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    inner = np.abs(np.einsum("bsmd,btmd->bmst", gradient, value))
    inner = weights * (inner + (inner * weights).sum(-1, keepdims=True)) * query.shape[-1] ** -0.5
    terms = np.array(
        [
            np.einsum("bmst,btmd->bsmd", weights, np.abs(value)).max(),
            np.einsum("bmst,btmd->bsmd", inner, np.abs(key)).max(),
            np.einsum("bmst,bsmd->btmd", inner, np.abs(query)).max(),
            np.einsum("bmst,bsmd->btmd", weights, np.abs(gradient)).max(),
        ]
    )
    return terms * np.abs(scores).max(), terms


def _draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _with_bound(bound: float, shift: float = 0.0) -> Case:
    """Queries that are all similar to the longest key, with scores up to `bound`. The last query
    points the other way: its largest score is far below the bound. `shift` is added to all scores,
    as if through a common part of the keys."""
    query, key, value = _draw(0, 1, 20, 1, 8), _draw(1, 1, 40, 1, 8), _draw(2, 1, 40, 1, 8)
    key -= key.mean(1)
    longest = key[0, np.linalg.norm(key, axis=-1).argmax(), 0]
    query = longest + 0.1 * query
    query *= 8**0.5 * bound / np.linalg.norm(query, axis=-1).max() / np.linalg.norm(longest)
    query[:, -1] *= -1
    key += 8**0.5 * shift * query[:, :1] / np.square(query[:, :1]).sum()
    return tuple(jnp.asarray(x, jnp.float32) for x in (query, key, value))


def _with_outlier(of_keys: bool, size: float) -> Case:
    """Standard normal inputs with one long key or one long query."""
    query, key, value = _draw(0, 1, 20, 2, 8), _draw(1, 1, 40, 2, 8), _draw(2, 1, 40, 2, 8)
    (key if of_keys else query)[:, 7] *= size
    return tuple(jnp.asarray(x, jnp.float32) for x in (query, key, value))


def _equal_keys() -> Case:
    query, key, value = _with_outlier(True, 1.0)
    return query, jnp.broadcast_to(50 * key[:, :1], key.shape), value


def _one_key() -> Case:
    query, key, value = _with_outlier(True, 1.0)
    return 1e3 * query, key[:, :1], value[:, :1]


HOSTILE: dict[str, Callable[[], Case]] = {
    **{
        f"bound of {bound:g}": partial(_with_bound, bound)
        for bound in (10, 63.9, 64.1, 127.9, 128.1, 1e3, 1e4, 1e5, 1e6)
    },
    "scores far below the bound": partial(_with_bound, 1000, -110),
    "shifted scores": partial(_with_bound, 63, -110),
    "an outlier key": partial(_with_outlier, True, 1e4),
    "an outlier query": partial(_with_outlier, False, 1e4),
    "equal keys": _equal_keys,
    "one key": _one_key,
}
