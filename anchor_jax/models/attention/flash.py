"""Attention for NVIDIA GPUs: one kernel for the forward pass and two for the backward pass, in
Pallas on Triton ([FlashAttention-2](https://arxiv.org/abs/2307.08691), algorithms 1 and 2).

A program of the forward kernel holds a block of queries and runs over the blocks of keys. It keeps
a running maximum, so that scores of any size are safe. Exponentials and logarithms have base 2,
as the hardware's have: the scores are multiplied by log2(e) / sqrt(d).

Why not a kernel that exists: JAX's own `mha` takes only lengths that are multiples of its block,
compares segments for every score to mask a few keys, and pads the width of a head to a power of
two (40 to 64, 80 to 128, 160 to 256). Tokamax 0.0.12 cannot be installed beside our command line.
Here the width is a sum of two powers of two, 40 -> 32 + 16, 80 -> 64 + 16, 160 -> 128 + 32, which
makes the products up to 1.6 times smaller; and only the last block of keys is masked.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from anchor_jax.models.attention.flash_kernels import (
    Sizes,
    forward_kernel,
    key_gradients_kernel,
    query_gradient_kernel,
)
from anchor_jax.models.attention.residuals import Residuals, weighted_gradient
from anchor_jax.shapes import Array

LARGEST_WIDTH = 256
# Queries and keys of a block, by the bytes of an element and the largest width of a head. They fit
# in the 99 KB of shared memory that a program may have on compute capability 8.6 and 8.9, the
# smallest from 8.0 on (A100: 163 KB; H100: 227 KB). Triton compiles for no older GPU.
_FORWARD_BLOCKS = {2: {128: (128, 64), 256: (64, 32)}, 4: {128: (64, 32), 256: (32, 32)}}
_BACKWARD_BLOCKS = {2: {128: (64, 64), 256: (32, 32)}, 4: {64: (32, 32), 256: (16, 16)}}


def serves(query: Float[Array, "b s m d"]) -> bool:
    """Return whether the kernels are made for heads of this width and type."""
    width, size = query.shape[-1], query.dtype.itemsize
    return width % 8 == 0 and width <= LARGEST_WIDTH and size in _FORWARD_BLOCKS


def forward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None = None,
    interpret: bool = False,
    keep_rest: bool = True,
) -> tuple[Float[Array, "b s m d"], Residuals]:
    """Compute attention. The shift is multiplied by log2(e).

    Args:
        query: as for `attention`, like the next three.
        key: keys.
        value: values.
        lengths: number of leading keys that are real, at least 1; None: all.
        interpret: compute the kernel with XLA on any platform, as the tests do.
        keep_rest: also write the rest of the residuals, which the gradient needs.
    """
    rest = keep_rest and value.dtype != jnp.float32
    rule = f"{_FORWARD_RULE}, b s m d" if rest else _FORWARD_RULE
    function = _over_devices(_forward, rule, ("d", "t"), interpret)
    out, shift, norm, *others = function(query, key, value, _all_keys(key, lengths))
    return out, Residuals(shift, norm, *(others or [None]))


def backward(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None,
    out: Float[Array, "b s m d"],
    residuals: Residuals,
    gradient: Float[Array, "b s m d"],
    interpret: bool = False,
) -> tuple[Float[Array, "b s m d"], Float[Array, "b t m d"], Float[Array, "b t m d"]]:
    """Compute the gradients of queries, keys and values from the results of `forward`."""
    gradient, row_sums = weighted_gradient(gradient, out, residuals)
    inputs = query, key, value, _all_keys(key, lengths), residuals.shift, row_sums, gradient
    of_queries = _over_devices(_query_gradient, _QUERY_RULE, ("d", "t"), interpret)
    of_keys = _over_devices(_key_gradients, _KEY_RULE, ("s", "d", "t"), interpret)
    return (of_queries(*inputs), *of_keys(*inputs))


def _all_keys(key: Array, lengths: Array | None) -> Array:
    return jnp.full(len(key), key.shape[1], jnp.int32) if lengths is None else lengths


# Which axes of the arguments and results are one. Each device computes its rows and heads alone,
# and its queries too where no result sums over them.
_FORWARD_RULE = "b s m d, b t m d, b t m d, b -> b s m d, b m s, b m s"
_GRADIENT_INPUTS = "b s m d, b t m d, b t m d, b, b m s, b m s, b s m d"
_QUERY_RULE = f"{_GRADIENT_INPUTS} -> b s m d"
_KEY_RULE = f"{_GRADIENT_INPUTS} -> b t m d, b t m d"


@cache
def _over_devices(function: Any, rule: str, whole: tuple[str, ...], interpret: bool) -> Any:
    """Let XLA distribute a kernel over devices. Without it, every device gathers all arguments.

    Args:
        function: calls the kernel with the arrays, `interpret` and the number of results.
        rule: which axes of its arguments and results are one.
        whole: axes that are not distributed, in the order of the rule. "t" is one of them, because
            lengths count from the first key.
        interpret: see `forward`.
    """
    inputs, results = ([part.split() for part in side.split(",")] for side in rule.split("->"))

    def call(*args):
        return function(*args, interpret, len(results))

    def partition(mesh, arg_shapes, result_shapes):
        of_queries = dict(zip(inputs[0], arg_shapes[0].sharding.spec, strict=False))

        def place(names: list[str]) -> NamedSharding:
            axes = (None if name in whole else of_queries.get(name) for name in names)
            return NamedSharding(mesh, PartitionSpec(*axes))

        out: Any = tuple(map(place, results))
        args = tuple(map(place, inputs))
        return mesh, call, out if len(out) > 1 else out[0], args

    partitioned = custom_partitioning(call)
    partitioned.def_partition(partition, sharding_rule=rule, need_replication_factors=whole)
    return jax.jit(partitioned)


# Calls of the kernels on one device


def _forward(query, key, value, lengths, interpret, num_results):
    b, s, m, _ = query.shape
    sizes = Sizes.of(query, key, _FORWARD_BLOCKS)
    length, vectors, keys, numbers = sizes.specs(over="queries")
    results = jax.ShapeDtypeStruct(query.shape, value.dtype)
    numbers_of_queries = jax.ShapeDtypeStruct((b, m, s), jnp.float32)
    return pl.pallas_call(
        partial(forward_kernel, sizes),
        grid=(pl.cdiv(s, sizes.query_block), b, m),
        in_specs=[length, vectors, keys, keys],
        out_specs=[vectors, numbers, numbers, vectors][:num_results],
        out_shape=[results, numbers_of_queries, numbers_of_queries, results][:num_results],
        compiler_params=_compiler_params(sizes),
        interpret=interpret,
        name="attention",
    )(lengths, query, key, value)


def _query_gradient(query, *others):
    return _gradients(query_gradient_kernel, "queries", [query], query, *others)[0]


def _key_gradients(query, key, value, *others):
    return _gradients(key_gradients_kernel, "keys", [key, value], query, key, value, *others)


def _gradients(
    kernel, over, of, query, key, value, lengths, shift, row_sums, gradient, interpret, _
):
    """Compute the gradients `of` some inputs with a kernel over the blocks of queries or keys."""
    sizes = Sizes.of(query, key, _BACKWARD_BLOCKS)
    length, queries, keys, numbers = sizes.specs(over)
    own, block = (queries, sizes.query_block) if over == "queries" else (keys, sizes.key_block)
    b, count, m, _ = of[0].shape
    return pl.pallas_call(
        partial(kernel, sizes),
        grid=(pl.cdiv(count, block), b, m),
        in_specs=[length, queries, keys, keys, numbers, numbers, queries],
        out_specs=[own] * len(of),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in of],
        compiler_params=_compiler_params(sizes),
        interpret=interpret,
        name=f"attention_gradients_of_{over}",
    )(lengths, query, key, value, shift, row_sums, gradient)


def _compiler_params(sizes: Sizes) -> triton.CompilerParams:
    return triton.CompilerParams(num_warps=4 if sizes.width <= 64 else 8, num_stages=2)
