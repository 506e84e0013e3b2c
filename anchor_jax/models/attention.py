"""Scaled dot-product attention: the algorithm of each platform, and the choice between them.

On CPUs attention is computed block by block (`cpu_attention`), so that no score matrix is ever held
whole. For each head and each block of queries Q, already scaled by d^-1/2:

    shift = c(Q)                           # one number a query; the table says which
    sums = 0
    for each block K, V of keys and values:
        sums += exp(Q K^T - shift) [V, 1]  # the column of ones sums the weights
    out, norm = sums[:, :d] / sums[:, d], sums[:, d]
    keep out and log_norm = shift + log(norm) for the backward pass

The backward pass computes the weights again, block by block
([FlashAttention](https://arxiv.org/abs/2205.14135), section 3.1):

    for each block K, V and each block Q, O, dO:
        P = exp(Q K^T - log_norm)
        dS = P * (dO V^T - rowsum(dO * O))
        dQ += dS K;  dK += dS^T Q;  dV += P^T dO

Shifting all keys by one vector, or one query's scores by a constant, leaves the softmax unchanged.
With several blocks the mean key is subtracted first. Then the mean score of a query is 0, and its
largest score is between 0 and the bound |q| max|k|: if the bound is small, the maximum need not
be computed.

| where           | keys                     | what runs                                          |
|-----------------|--------------------------|----------------------------------------------------|
| CPU             | at most 1024             | one block; the shift is the query's largest score; |
|                 |                          | heads one by one, or all at once up to 256 keys    |
| CPU             | more, bound below 64     | blocks of 512; nothing is subtracted               |
| CPU             | more, bound below 128    | blocks of 512; the shift is max(0, |q| max|k| - 64)|
| CPU             | more, bound of 128 or    | blocks of 512, twice: a running maximum finds the  |
|                 | above                    | largest score, which is the shift of the sums      |
| CPU, backward   | any                      | blocks of 512 queries and 1024 keys                |
| other platforms | any                      | `jax.nn.dot_product_attention`, also backward      |

The table's bound is the largest |q| max|k| of a head. A masked key adds nothing to the sums, and
repeats the first key, so that it changes neither a largest score nor the bound.
"""

import jax
from jaxtyping import Bool, Float

from anchor_jax.compiling import on_cpu
from anchor_jax.models.cpu_attention import chunked_attention
from anchor_jax.shapes import Array


def attention(
    query: Float[Array, "b s m d"],
    key: Float[Array, "b t m d"],
    value: Float[Array, "b t m d"],
    key_mask: Bool[Array, "b t"] | None = None,
) -> Float[Array, "b s m d"]:
    """Compute softmax(Q K^T / sqrt(d)) V, equation (5) of the paper.

    Args:
        query: queries of m heads.
        key: keys.
        value: values.
        key_mask: False for tokens that no query attends to. The first token of each row is True.

    Returns:
        The attended values, in the type of `value`. The softmax is taken in float32.
    """
    if on_cpu():
        return chunked_attention(query, key, value, key_mask)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=mask)
