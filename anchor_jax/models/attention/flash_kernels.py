"""The kernels of `flash`, on one device: programs of a grid, each with one block of queries or keys
of one row and head.

A tile is a list of blocks (tokens, columns), one for each part that the width of a head is split
into. Tokens after the last one are loaded as zeros.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from anchor_jax.shapes import Array

Tile = list[Array]
_SMALLEST_PART = 16  # columns of a matrix in a product of Triton


@dataclass(frozen=True)
class Sizes:
    """Sizes that a kernel is compiled for: queries, keys, width of a head, and the numbers of
    queries and keys of a block."""

    queries: int
    keys: int
    width: int
    query_block: int
    key_block: int

    @classmethod
    def of(cls, query: Array, key: Array, table: dict[int, dict[int, tuple[int, int]]]) -> "Sizes":
        """Choose the blocks for such queries and keys from a table."""
        s, t, d = query.shape[1], key.shape[1], query.shape[3]
        blocks = next(b for width, b in table[query.dtype.itemsize].items() if d <= width)
        # A short row needs no large block. A product has at least 16 rows.
        s_block, t_block = (
            min(block, max(16, pl.next_power_of_2(count)))
            for block, count in zip(blocks, (s, t), strict=True)
        )
        return cls(s, t, d, s_block, t_block)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First column and number of columns of the powers of two that the width is split into."""
        first = 2 ** int(math.log2(self.width))
        if first == self.width or first < _SMALLEST_PART:
            return [(0, max(first, _SMALLEST_PART))]
        rest = pl.next_power_of_2(self.width - first)
        return [(0, first), (first, max(rest, _SMALLEST_PART))]

    @property
    def scale(self) -> float:
        """Factor of the scores, for exponentials with base 2."""
        return math.log2(math.e) / math.sqrt(self.width)

    def specs(self, over: str) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
        """Make the blocks of arguments and results for a program (block, row, head) of a grid
        `over` the blocks of "queries" or "keys"; a program has all of the others.

        Returns:
            The block of the length; of arrays like the queries, and like the keys; and of one
            number for each query.
        """
        columns = sum(size for _, size in self.parts)
        of_queries = self._tokens(over == "queries", self.queries, self.query_block)
        of_keys = self._tokens(over == "keys", self.keys, self.key_block)

        def vectors(count: int, place: Any) -> pl.BlockSpec:
            return pl.BlockSpec((None, count, None, columns), lambda i, b, m: (b, place(i), m, 0))

        count, place = of_queries
        return (
            pl.BlockSpec((None,), lambda i, b, m: (b,)),
            vectors(*of_queries),
            vectors(*of_keys),
            pl.BlockSpec((None, None, count), lambda i, b, m: (b, m, place(i))),
        )

    @staticmethod
    def _tokens(in_blocks: bool, count: int, block: int) -> tuple[int, Any]:
        """Return how many tokens a program has, and from its index which block of so many."""
        if in_blocks:
            return block, lambda i: i
        return pl.cdiv(count, block) * block, lambda i: 0


def forward_kernel(
    sizes: Sizes, length_ref, q_ref, k_ref, v_ref, out_ref, shift_ref, norm_ref, rest_ref=None
):
    """Compute the output of a block of queries, and their residuals."""
    length = length_ref[...]
    rows_left = sizes.queries - pl.program_id(0) * sizes.query_block
    queries = _load(sizes, q_ref, 0, sizes.query_block, rows_left)

    def add(i, carry, last: bool):
        outs, largest, norm = carry
        start = i * sizes.key_block
        limit = length if last else None
        keys = _load(sizes, k_ref, start, sizes.key_block, limit)
        scores = _scores(queries, keys)
        if last:
            scores = jnp.where(_below(start, scores.shape, 1, length), scores, -jnp.inf)
        new_largest = jnp.maximum(largest, scores.max(1) * sizes.scale)
        weights = jnp.exp2(scores * sizes.scale - new_largest[:, None])
        shrink = jnp.exp2(largest - new_largest)
        values = _load(sizes, v_ref, start, sizes.key_block, limit)
        parts = zip(outs, _products(weights, values), strict=True)
        outs = [out * shrink[:, None] + part for out, part in parts]
        return outs, new_largest, norm * shrink + weights.sum(1)

    start = (
        _zeros(sizes, sizes.query_block),
        jnp.full(sizes.query_block, -jnp.inf, jnp.float32),
        jnp.zeros(sizes.query_block, jnp.float32),
    )
    outs, largest, norm = _over_blocks(add, length, sizes.key_block, start)
    outs = [out / norm[:, None] for out in outs]
    _store(sizes, out_ref, outs, rows_left)
    if rest_ref is not None:
        rounded = [out.astype(out_ref.dtype).astype(jnp.float32) for out in outs]
        rests = [out - other for out, other in zip(outs, rounded, strict=True)]
        _store(sizes, rest_ref, rests, rows_left)
    real_rows = jnp.arange(sizes.query_block) < rows_left
    triton.store(shift_ref.at[...], largest, mask=real_rows)
    triton.store(norm_ref.at[...], norm, mask=real_rows)


def query_gradient_kernel(
    sizes: Sizes, length_ref, q_ref, k_ref, v_ref, shift_ref, row_sums_ref, gradient_ref, dq_ref
):
    """Compute the gradient of a block of queries. The gradient of the output is divided by the
    norms already."""
    length = length_ref[...]
    rows_left = sizes.queries - pl.program_id(0) * sizes.query_block
    block = sizes.query_block
    queries = _load(sizes, q_ref, 0, block, rows_left)
    gradients = _load(sizes, gradient_ref, 0, block, rows_left)
    shift = _load_numbers(shift_ref, 0, block, rows_left)
    row_sums = _load_numbers(row_sums_ref, 0, block, rows_left)

    def add(i, query_gradients, last: bool):
        start = i * sizes.key_block
        limit = length if last else None
        keys = _load(sizes, k_ref, start, sizes.key_block, limit)
        values = _load(sizes, v_ref, start, sizes.key_block, limit)
        weights = jnp.exp2(_scores(queries, keys) * sizes.scale - shift[:, None])
        if last:
            weights = jnp.where(_below(start, weights.shape, 1, length), weights, 0)
        inner = weights * (_scores(gradients, values) - row_sums[:, None])
        parts = zip(query_gradients, _products(inner, keys), strict=True)
        return [total + part for total, part in parts]

    sums = _over_blocks(add, length, sizes.key_block, _zeros(sizes, block))
    _store(sizes, dq_ref, [x * sizes.width**-0.5 for x in sums], rows_left)


def key_gradients_kernel(
    sizes: Sizes,
    length_ref,
    q_ref,
    k_ref,
    v_ref,
    shift_ref,
    row_sums_ref,
    gradient_ref,
    dk_ref,
    dv_ref,
):
    """Compute the gradients of a block of keys and values, as `query_gradient_kernel`."""
    start = pl.program_id(0) * sizes.key_block
    block = sizes.key_block
    real, rows_left = length_ref[...] - start, sizes.keys - start
    keys = _load(sizes, k_ref, 0, block, rows_left)
    values = _load(sizes, v_ref, 0, block, rows_left)

    def add(i, carry, last: bool):
        start = i * sizes.query_block
        limit = sizes.queries if last else None
        queries = _load(sizes, q_ref, start, sizes.query_block, limit)
        gradients = _load(sizes, gradient_ref, start, sizes.query_block, limit)
        # A query after the last one is zero, and so are its gradient and its row sum: it adds
        # nothing.
        shift = _load_numbers(shift_ref, start, sizes.query_block, limit)
        row_sums = _load_numbers(row_sums_ref, start, sizes.query_block, limit)
        weights = jnp.exp2(_scores(keys, queries) * sizes.scale - shift[None])
        inner = weights * (_scores(values, gradients) - row_sums[None])
        key_gradients, value_gradients = carry
        key_parts, value_parts = _products(inner, queries), _products(weights, gradients)
        return (
            [x + part for x, part in zip(key_gradients, key_parts, strict=True)],
            [x + part for x, part in zip(value_gradients, value_parts, strict=True)],
        )

    zeros = _zeros(sizes, block)
    # Blocks with padding alone skip the loop.
    count = lax.select(real > 0, jnp.int32(sizes.queries), jnp.int32(0))
    sums = _over_blocks(add, count, sizes.query_block, (zeros, zeros))
    is_real = (jnp.arange(block) < real)[:, None]
    key_gradients, value_gradients = (
        [jnp.where(is_real, part, 0) for part in tile] for tile in sums
    )
    _store(sizes, dk_ref, [x * sizes.width**-0.5 for x in key_gradients], rows_left)
    _store(sizes, dv_ref, value_gradients, rows_left)


def _over_blocks(step: Any, count: Array, block: int, carry: Any) -> Any:
    """Run `step(i, carry, last)` over the blocks that contain `count` tokens. Only `last` ones, at
    most one, are not full."""
    full = lax.div(count, jnp.int32(block))
    carry = lax.fori_loop(0, full, partial(step, last=False), carry)
    end = lax.div(count + jnp.int32(block - 1), jnp.int32(block))
    return lax.fori_loop(full, end, partial(step, last=True), carry)


def _load(sizes: Sizes, ref: Any, start: Any, count: int, limit: Any) -> Tile:
    """Load `count` tokens from `start` on, with zeros from token `limit` on (None: all exist)."""

    def load(first: int, columns: int) -> Array:
        block = ref.at[pl.ds(start, count), pl.ds(first, columns)]
        mask = _column_mask(sizes, first, columns)
        if limit is not None:
            rows = _below(start, (count, columns), 0, limit)
            mask = rows if mask is None else rows & mask
        return triton.load(block, mask=mask, other=None if mask is None else 0.0)

    return [load(*part) for part in sizes.parts]


def _load_numbers(ref: Any, start: Any, count: int, limit: Any) -> Array:
    """Load one number for each of `count` tokens from `start` on, as `_load`."""
    block = ref.at[pl.ds(start, count)]
    if limit is None:
        return triton.load(block)
    return triton.load(block, mask=start + jnp.arange(count) < limit, other=0.0)


def _store(sizes: Sizes, ref: Any, tile: Tile, limit: Any) -> None:
    """Store the tokens of a block before token `limit`."""
    for (first, columns), part in zip(sizes.parts, tile, strict=True):
        mask = _below(0, part.shape, 0, limit)
        if (inside := _column_mask(sizes, first, columns)) is not None:
            mask &= inside
        triton.store(ref.at[:, pl.ds(first, columns)], part.astype(ref.dtype), mask=mask)


def _column_mask(sizes: Sizes, first: int, columns: int) -> Array | None:
    """(1, columns): which columns of a part the array has; None if it has all."""
    if first + columns <= sizes.width:
        return None
    return (first + jnp.arange(columns) < sizes.width)[None]


def _below(start: Any, shape: tuple[int, ...], axis: int, limit: Any) -> Array:
    """(rows, columns): whether the index `start + i` along `axis` is below `limit`."""
    return start + lax.broadcasted_iota(jnp.int32, shape, axis) < limit


def _zeros(sizes: Sizes, count: int) -> Tile:
    return [jnp.zeros((count, columns), jnp.float32) for _, columns in sizes.parts]


def _scores(rows: Tile, columns: Tile) -> Array:
    """Multiply each vector of one tile with each of another, float32 (rows, columns)."""
    numbers = (((1,), (1,)), ((), ()))
    products = [
        lax.dot_general(a, b, numbers, preferred_element_type=jnp.float32)
        for a, b in zip(rows, columns, strict=True)
    ]
    return sum(products[1:], start=products[0])


def _products(weights: Array, tile: Tile) -> Tile:
    """Multiply weights (rows, tokens) by the tokens of a tile, float32."""
    numbers = (((1,), (0,)), ((), ()))
    return [
        lax.dot_general(
            weights.astype(part.dtype), part, numbers, preferred_element_type=jnp.float32
        )
        for part in tile
    ]
