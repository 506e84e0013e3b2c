"""Attention in blocks, for CPUs, equals attention with one score matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.models.cpu_attention import chunked_attention


def draw(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def qkv(b: int, s: int, t: int, m: int, d: int):
    return draw(0, b, s, m, d), draw(1, b, t, m, d), draw(2, b, t, m, d)


@pytest.mark.parametrize(
    ("s", "t", "chunk"),
    [(12, 12, 64), (5, 300, 512), (12, 12, 4), (13, 29, 8), (7, 1, 4), (1, 40, 8)],
    ids=["one block", "one for each head", "exact", "uneven", "one key", "one query"],
)
@pytest.mark.parametrize("width", [5, 8])
def test_blocks_change_nothing(s: int, t: int, chunk: int, width: int):
    """Catches padded queries or keys that change the softmax, a block of keys that is not added to
    the previous ones, swapped heads or rows, and a norm that is read from the columns that pad the
    values to whole vectors (width 8)."""
    query, key, value = qkv(2, s, t, 3, width)
    expected = jax.nn.dot_product_attention(query, key, value)
    out = chunked_attention(query, key, value, chunks=(chunk, chunk))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [4, 64])
def test_masked_keys_do_not_exist(chunk: int):
    """Catches a mask that is ignored, shifted by a block, or shared by rows; and NaN from a block
    with only masked keys."""
    query, key, value = qkv(2, 9, 12, 2, 4)
    lengths = [12, 5]
    mask = jnp.arange(12) < jnp.array(lengths)[:, None]
    out = chunked_attention(query, key, value, mask, chunks=(chunk, chunk))
    for row, length in enumerate(lengths):
        alone = jax.nn.dot_product_attention(
            query[row : row + 1], key[row : row + 1, :length], value[row : row + 1, :length]
        )
        np.testing.assert_allclose(out[row], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [10, 63, 100, 127, 129, 1000])
@pytest.mark.parametrize("shift", [0, -110])
@pytest.mark.parametrize("chunk", [2, 64], ids=["many blocks", "one block"])
def test_scores_of_any_size(size: int, shift: int, chunk: int):
    """Catches exponentials that overflow, or that all underflow; a bound that is too low; a mean
    key that is not subtracted, so that all scores are far below the bound; in one block, a maximum
    that is not subtracted, or is another query's."""
    query, key, value = (np.asarray(x, np.float64) for x in qkv(1, 6, 9, 1, 4))
    key -= key.mean(1)
    longest = key[0, np.linalg.norm(key, axis=-1).argmax(), 0]
    query = longest + 0.1 * query  # all similar, so that one shift of the keys moves all scores
    query *= 2 * size / np.linalg.norm(query, axis=-1).max() / np.linalg.norm(longest)
    query[:, -1] *= -1  # whose largest score is far below the bound
    key += 2 * shift * query[:, :1] / np.square(query[:, :1]).sum()
    scores = np.einsum("bsmd,btmd->bmst", query, key) / 2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bmst,btmd->bsmd", weights / weights.sum(-1, keepdims=True), value)
    out = chunked_attention(*map(jnp.float32, (query, key, value)), chunks=(4, chunk))
    np.testing.assert_allclose(out, expected, atol=1e-6 * (size - shift))


def test_heads_may_need_their_maximum_or_not():
    """Catches a head that is computed in the regime of another head."""
    query, key, value = qkv(2, 6, 6, 3, 4)
    query *= jnp.array([1, 1000, 0.1])[:, None]
    out = chunked_attention(query, key, value, chunks=(2, 2))
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [4, 64], ids=["many blocks", "one block"])
def test_gradients_are_those_of_plain_attention(chunk: int):
    """Catches a block that the backward pass leaves out, and a wrong norm from the forward pass of
    one block."""
    args = qkv(1, 6, 10, 2, 4)

    def loss(attend):
        return jax.grad(lambda args: (attend(*args) ** 2).sum())(args)

    chunks = {"chunks": (4, chunk), "gradient_chunks": (3, 5)}
    ours = loss(lambda *args: chunked_attention(*args, **chunks))
    for a, b in zip(ours, loss(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 12])
def test_gradients_across_many_chunks(scale: int):
    """Catches a backward pass that leaves out a block, the mask or the gradient of the norm, that
    counts the padding of the last block, or whose norm differs where scores are large."""
    query, key, value = qkv(2, 11, 9, 3, 8)
    query = scale * query
    mask = (jnp.arange(18) % 3 != 2).reshape(2, 9)
    weights = draw(3, 2, 11, 3, 8)

    def whole(query, key, value):
        scores = jnp.einsum("bsmd,btmd->bmst", query, key) * 8**-0.5
        scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
        return jnp.einsum("bmst,btmd->bsmd", jax.nn.softmax(scores), value)

    def gradients(function):
        loss = lambda *args: (weights * function(*args)).sum()
        return jax.grad(loss, argnums=(0, 1, 2))(query, key, value)

    chunks = {"chunks": (4, 4), "gradient_chunks": (3, 5)}
    ours = gradients(lambda *args: chunked_attention(*args, key_mask=mask, **chunks))
    for gradient, expected in zip(ours, gradients(whole), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=2e-5 * scale)


def test_the_backward_pass_keeps_no_scores():
    """Catches residuals of the size of the scores. With them, training takes four times the
    memory."""
    shape = (1, 4096, 1, 8)
    loss = lambda *args: chunked_attention(*args).sum()
    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    lowered = step.lower(*[jax.ShapeDtypeStruct(shape, jnp.float32)] * 3)
    memory: Any = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 4096 * 4 / 2
