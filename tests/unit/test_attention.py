"""Attention in blocks equals attention in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.models.attention import chunked_attention


def draw(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def qkv(b: int, s: int, t: int, m: int, d: int):
    return draw(0, b, s, m, d), draw(1, b, t, m, d), draw(2, b, t, m, d)


@pytest.mark.parametrize(
    ("s", "t", "chunk"),
    [(12, 12, 64), (12, 12, 4), (13, 29, 8), (7, 1, 4), (1, 40, 8)],
    ids=["one block", "exact blocks", "uneven blocks", "one key", "one query"],
)
def test_blocks_change_nothing(s: int, t: int, chunk: int):
    """Catches padded queries or keys that leak into the softmax, a running maximum that is not
    applied to what was mixed before, heads or rows that swap places."""
    query, key, value = qkv(2, s, t, 3, 5)
    expected = jax.nn.dot_product_attention(query, key, value)
    out = chunked_attention(query, key, value, chunk=chunk)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [4, 64])
def test_masked_keys_do_not_exist(chunk: int):
    """Catches a mask that is ignored, shifted by a block, or shared by rows; also NaN from a block
    in which every key is masked."""
    query, key, value = qkv(2, 9, 12, 2, 4)
    lengths = [12, 5]
    mask = jnp.arange(12) < jnp.array(lengths)[:, None]
    out = chunked_attention(query, key, value, mask, chunk=chunk)
    for row, length in enumerate(lengths):
        alone = jax.nn.dot_product_attention(
            query[row : row + 1], key[row : row + 1, :length], value[row : row + 1, :length]
        )
        np.testing.assert_allclose(out[row], alone[0], rtol=1e-5, atol=1e-6)


def test_large_scores_stay_finite():
    """Catches exponentials taken without subtracting the maximum."""
    query, key, value = qkv(1, 6, 6, 1, 4)
    out = chunked_attention(100 * query, 100 * key, value, chunk=2)
    expected = jax.nn.dot_product_attention(100 * query, 100 * key, value)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_plain_attention():
    """Catches a block that the backward pass does not see."""
    args = qkv(1, 6, 10, 2, 4)

    def loss(attend):
        return jax.grad(lambda args: (attend(*args) ** 2).sum())(args)

    ours = loss(lambda *args: chunked_attention(*args, chunk=4))
    for a, b in zip(ours, loss(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
