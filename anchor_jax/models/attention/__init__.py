"""Scaled dot-product attention: the algorithm of each platform, and the choice between them.

No algorithm holds the scores of all queries with more than a few keys. For each head and each block
of queries Q, already scaled by d^-1/2:

    shift = c(Q)                           # one number a query; the table says which
    sums = 0
    for each block K, V of keys and values:
        sums += exp(Q K^T - shift) [V, 1]  # the column of ones sums the weights
    out, norm = sums[:, :d] / sums[:, d], sums[:, d]
    keep out, shift and norm for the backward pass

The backward pass computes the weights again, block by block
([FlashAttention](https://arxiv.org/abs/2205.14135), section 3.1):

    for each block K, V and each block Q, O, dO:
        P = exp(Q K^T - shift) / norm
        dS = P * (dO V^T - rowsum(dO * O))
        dQ += dS K;  dK += dS^T Q;  dV += P^T dO

| platform  | keys                     | file    | what runs                                      |
|-----------|--------------------------|---------|------------------------------------------------|
| CUDA      | at most 256; heads wider | `xla`   | a softmax over all keys, in blocks of queries  |
|           | than 256, or of a width  |         |                                                |
|           | that 8 does not divide   |         |                                                |
| CUDA      | more                     | `flash` | our kernels; the shift is the largest score so |
|           |                          |         | far                                            |
| TPU, other| any                      | `xla`   | a softmax over all keys, in blocks of queries  |
| CPU       | at most 1024             | `cpu`   | one block; the shift is the query's largest    |
|           |                          |         | score; heads one by one, or all at once up to  |
|           |                          |         | 256 keys                                       |
| CPU       | more, bound below 64     | `cpu`   | blocks of 512; nothing is subtracted           |
| CPU       | more, bound below 128    | `cpu`   | blocks of 512; the shift is                    |
|           |                          |         | max(0, |q| max|k| - 64)                        |
| CPU       | more, bound of 128 or    | `cpu`   | blocks of 512, twice: a running maximum finds  |
|           | above                    |         | the largest score, which is the shift          |
| CPU,      | any                      | `cpu`   | blocks of 512 queries and 1024 keys            |
| backward  |                          |         |                                                |

The table's bound is the largest |q| max|k| of a head on a CPU. Shifting all keys by one vector, or
one query's scores by a constant, leaves the softmax unchanged. With several blocks the mean key is
subtracted first. Then the mean score of a query is 0, and its largest score is between 0 and the
bound: if the bound is small, the maximum need not be computed. A key that is not real adds nothing
to the sums, and repeats the first key, so that it changes neither a largest score nor the bound.

On CUDA, the environment variable `ANCHOR_JAX_ATTENTION` chooses another file: `cudnn` wherever it
serves, for those who measure that it is faster on their GPU; `xla` for GPUs older than compute
capability 8.0, for which Triton does not compile.
"""

import os
from functools import cache, partial
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Int

from anchor_jax.errors import AnchorError
from anchor_jax.models.attention import cpu, cudnn, flash, xla
from anchor_jax.models.remat import ATTENTION
from anchor_jax.shapes import Array

_CUDA_FILES = ("flash", "cudnn", "xla")
_FEW_KEYS = 256  # with so many keys, XLA's scores are not much larger than the queries


def attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    lengths: Int[Array, " b"] | None = None,
) -> Float[Array, "b s m d"]:
    """Compute softmax(Q K^T / sqrt(d)) V, equation (5) of the paper.

    The softmax is taken in float32. The result is named "attention" for policies of `jax.remat`.

    Args:
        query: queries of m heads.
        key: keys.
        value: values.
        lengths: number of leading keys of each row that are real, at least 1; None: all.

    Returns:
        The attended values, in the type of `value`.
    """
    return _attend(query, key, value, lengths)


@jax.custom_vjp
def _attend(query: Array, key: Array, value: Array, lengths: Array | None) -> Array:
    """Compute `attention`.

    The gradient is written by hand to save memory: it keeps two numbers a query, and no score. With
    the gradient that JAX derives, a training step of the 50M model takes 2.2 times the memory and
    1.9 times the CPU time (`python -m benchmarks.train_step --without attention --pairs 9`). For
    several blocks JAX cannot derive it at all, because the loops have traced lengths.
    """
    return _on_platform("output", query, key, value, lengths)


def _forward(query: Array, key: Array, value: Array, lengths: Array | None):
    results = _on_platform("forward", query, key, value, lengths)
    out, residuals = jax.tree.map(lambda x: checkpoint_name(x, ATTENTION), results)
    return out, (query, key, value, lengths, out, residuals)


def _backward(residuals: tuple[Any, ...], gradient: Array):
    return *_on_platform("backward", *residuals, gradient), None


_attend.defvjp(_forward, _backward)


def _on_platform(name: str, *args: Any) -> Any:
    """Call a function of the platform's file: "output", "forward" or "backward". A program that is
    compiled for several platforms, or for a device that this machine lacks, contains the right one.
    """
    on_cuda = _function(_cuda_file(*args[:2]), name)
    return lax.platform_dependent(
        *args, cpu=_function("cpu", name), cuda=on_cuda, default=_function("xla", name)
    )


@cache
def _function(file: str, name: str) -> Any:
    """Return a function of a file, which is traced once for a size."""
    kernel = {"cpu": cpu, "cudnn": cudnn, "flash": flash, "xla": xla}[file]
    if name != "output":
        return jax.jit(getattr(kernel, name))
    forward = partial(flash.forward, keep_rest=False) if kernel is flash else kernel.forward
    return jax.jit(lambda *args: forward(*args)[0])


def _cuda_file(query: Array, key: Array) -> str:
    wanted = os.environ.get("ANCHOR_JAX_ATTENTION", "flash")
    if wanted not in _CUDA_FILES:
        raise AnchorError(
            f"ANCHOR_JAX_ATTENTION is {wanted!r}: expected {', '.join(_CUDA_FILES)}, or no value"
        )
    if wanted == "cudnn" and cudnn.serves(query):
        return "cudnn"
    few = key.shape[1] <= _FEW_KEYS
    return "xla" if wanted == "xla" or few or not flash.serves(query) else "flash"
