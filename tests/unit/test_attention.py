"""The attention of every platform equals a softmax over all keys, in float64.

The kernels of `flash` are computed by Pallas' interpreter, which runs on a CPU.
"""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.errors import AnchorError
from anchor_jax.models.attention import attention, cpu, cudnn, flash, xla
from tests.attention_cases import HOSTILE, roundings, softmax_attention

FLASH = {"interpret": True}
# Small blocks, so that few tokens are many blocks.
CPU = {"chunks": (4, 4)}, {"chunks": (4, 4), "gradient_chunks": (3, 5)}
ONE_BLOCK = {"chunks": (4, 64)}, {"chunks": (4, 64), "gradient_chunks": (3, 5)}
XLA = {"most_scores": 64}


def draw(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def qkv(b: int, s: int, t: int, m: int, d: int):
    return draw(0, b, s, m, d), draw(1, b, t, m, d), draw(2, b, t, m, d)


def attention_of(kernel: Any, forward: dict = {}, backward: dict = {}) -> Any:  # noqa: B006
    """Return the attention of one file, with its gradient and keyword arguments of its functions,
    as a function of queries, keys, values and lengths."""

    @jax.custom_vjp
    def attend(query, key, value, lengths):
        return kernel.forward(query, key, value, lengths, **forward)[0]

    def with_residuals(*args):
        out, kept = kernel.forward(*args, **forward)
        return out, (*args, out, kept)

    def gradients(residuals, gradient):
        return *kernel.backward(*residuals, gradient, **backward), None

    attend.defvjp(with_residuals, gradients)
    return attend


KERNELS = {
    "cpu": attention_of(cpu, *CPU),
    "cpu, one block": attention_of(cpu, *ONE_BLOCK),
    "xla": attention_of(xla, XLA, XLA),
    "flash": attention_of(flash, FLASH, FLASH),
}


@pytest.fixture(params=KERNELS)
def kernel(request):
    """The attention of one file. Float32 is exact, as it is on a GPU unless told otherwise."""
    with jax.default_matmul_precision("highest"):
        yield KERNELS[request.param]


def check(kernel: Any, query: Any, key: Any, value: Any, lengths: Any, most: float) -> None:
    """Compare output and gradients with float64. A difference may be `most` of the largest value
    of the array."""
    gradient = draw(3, *query.shape).astype(query.dtype)
    out, pull = jax.vjp(partial(kernel, lengths=lengths), query, key, value)
    expected = softmax_attention(query, key, value, gradient, lengths)
    for ours, wanted, share in zip((out, *pull(gradient)), expected, (1, 2, 2, 2), strict=True):
        assert ours.dtype == query.dtype
        error = np.abs(np.asarray(ours, np.float64) - wanted).max()
        assert error < share * most * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("lengths", [None, (13, 5)], ids=["all", "padded"])
@pytest.mark.parametrize("width", [8, 40])
def test_equals_a_softmax(kernel, width: int, lengths):
    """Catches padded queries or keys that change the softmax, a block of keys that is not added to
    the previous ones, swapped heads or rows, a length that is ignored or another row's, NaN from a
    block without a real key, and in the gradients a block that is left out or counted twice."""
    query, key, value = qkv(2, 11, 13, 3, width)
    check(kernel, query, key, value, None if lengths is None else jnp.array(lengths), 1e-6)


@pytest.mark.parametrize(
    ("s", "t", "width", "dtype", "most"),
    [
        (150, 150, 40, "float32", 1e-6),
        (150, 150, 40, "bfloat16", 5e-3),
        (129, 70, 80, "float32", 1e-6),
        (128, 64, 80, "bfloat16", 5e-3),
        (20, 65, 160, "float32", 1e-6),
        (70, 130, 160, "bfloat16", 5e-3),
        (17, 40, 24, "float32", 1e-6),
        (16, 40, 136, "bfloat16", 5e-3),
        (16, 3, 256, "float32", 1e-6),
        (16, 1, 40, "float32", 1e-6),
    ],
)
def test_kernels_at_every_width(s: int, t: int, width: int, dtype: str, most: float):
    """Catches columns of a part of the width that are left out or counted twice, a last block of
    queries or keys whose padding counts, a block that starts at the wrong token, weights that are
    not those of the type; with rows of different length, a loop that ends too early."""
    query, key, value = (x.astype(dtype) for x in qkv(2, s, t, 2, width))
    lengths = jnp.array([t, max(1, t // 3)], jnp.int32)
    with jax.default_matmul_precision("highest"):
        check(KERNELS["flash"], query, key, value, lengths, most)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_scores(kernel, name: str, dtype: str):
    """Catches exponentials that overflow, or that all underflow; keys that lose digits when their
    mean is subtracted from them; a gradient of noise, because the output was rounded; NaN.

    No error may be larger than twice that of a softmax over all scores in the same type, or than
    rounding the scores to float32 and the terms of the sums to the type: who keeps no scores
    computes them again, and the second rounding is another.
    """
    query, key, value = (x.astype(dtype) for x in HOSTILE[name]())
    gradient = draw(3, *query.shape).astype(dtype)
    expected = softmax_attention(query, key, value, gradient, None)

    def errors(function):
        out, pull = jax.vjp(function, query, key, value)
        results = [np.asarray(x, np.float64) for x in (out, *pull(gradient))]
        assert all(np.isfinite(x).all() for x in results)
        return [np.abs(a - b).max() for a, b in zip(results, expected, strict=True)]

    ours, plain = errors(lambda *qkv: kernel(*qkv, None)), errors(jax.nn.dot_product_attention)
    eps, eps32 = (float(jnp.finfo(x).eps) for x in (dtype, "float32"))
    of_scores, of_terms = roundings(query, key, value, gradient)
    allowed = eps * of_terms + eps32 * of_scores
    assert (np.array(ours) <= 2 * np.maximum(plain, allowed)).all()


def test_padded_keys_of_low_scores(kernel):
    """Catches padding whose score of 0 is far above all real ones, so that its weight overflows."""
    query, key, value = qkv(2, 20, 24, 2, 8)
    query, key = 5 * (1 + query**2), -5 * (1 + key**2)
    check(kernel, query, key, value, jnp.array([24, 7]), 1e-4)


def test_an_outlier_costs_the_other_keys_no_digits(kernel):
    """Catches a mean that is subtracted although one key dominates it."""
    query, key, value = HOSTILE["an outlier key"]()
    expected = softmax_attention(query, key, value, query, None)[0]
    assert np.abs(np.asarray(kernel(query, key, value, None), np.float64) - expected).max() < 1e-6


@pytest.mark.parametrize("name", ["cpu", "flash"])
def test_small_gradients_in_half_precision(name: str):
    """Catches the gradient of a query whose weights are almost 0 or 1 that is noise, because the
    output was rounded to half precision."""
    query, key, value = (x.astype(jnp.bfloat16) for x in HOSTILE["bound of 63.9"]())
    gradient = draw(3, *query.shape).astype(jnp.bfloat16)
    pull = jax.vjp(lambda query: KERNELS[name](query, key, value, None), query)[1]
    wanted = softmax_attention(query, key, value, gradient, None)[1]
    error = np.abs(np.asarray(pull(gradient)[0], np.float64) - wanted).max()
    assert error < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("scale", [1, 1e4])
def test_half_precision_on_a_cpu(scale: float):
    """Catches NaN and wrong sums from large scores or from an outlier key, in blocks of the size
    that networks use."""
    query, key, value = qkv(1, 64, 2048, 1, 80)
    query, key, value = (scale * query, key.at[:, 5].multiply(1e3), value)
    query, key, value = (x.astype(jnp.bfloat16) for x in (query, key, value))
    expected = softmax_attention(query, key, value, query, None)[0]
    assert np.abs(np.asarray(attention(query, key, value), np.float64) - expected).max() < 2e-2


def test_heads_may_need_their_maximum_or_not():
    """Catches a head that is computed in the regime of another head on a CPU."""
    query, key, value = qkv(2, 6, 6, 3, 4)
    query *= jnp.array([1, 1000, 0.1])[:, None]
    out, _ = cpu.forward(query, key, value, chunks=(2, 2))
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_short_rows_on_a_cpu():
    """Catches a norm that is read from the columns that pad the values to whole vectors, and one
    block of 300 keys for each head."""
    query, key, value = qkv(2, 5, 300, 3, 8)
    out, _ = cpu.forward(query, key, value)
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [64, 2500])
def test_the_chosen_attention_has_gradients(tokens: int):
    """Catches a platform's forward pass whose residuals its backward pass cannot read, and a
    length that does not reach it."""
    query, key, value = qkv(2, 30, tokens, 2, 8)
    check(attention, query, key, value, jnp.array([tokens, tokens // 2]), 2e-6)


def test_the_backward_pass_keeps_no_scores():
    """Catches residuals of the size of the scores. With them, training takes four times the
    memory."""
    shape = (1, 4096, 1, 8)
    loss = lambda *args: attention(*args).sum()
    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    lowered = step.lower(*[jax.ShapeDtypeStruct(shape, jnp.float32)] * 3)
    memory: Any = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 4096 * 4 / 2


def test_remat_can_save_attention():
    """Catches a result without the name that a policy of `jax.remat` asks for: attention would be
    computed again in the backward pass."""
    policy = jax.checkpoint_policies.save_only_these_names("attention")
    query, key, value = qkv(1, 32, 32, 1, 8)
    loss = jax.checkpoint(lambda *args: attention(*args).sum(), policy=policy)
    text = str(jax.make_jaxpr(jax.grad(loss))(query, key, value))
    everything = jax.checkpoint(lambda *args: attention(*args).sum())
    more = str(jax.make_jaxpr(jax.grad(everything))(query, key, value))
    assert text.count("platform_index") < more.count("platform_index")


@pytest.mark.parametrize("value", ["cuDNN", "triton"])
def test_an_unknown_choice_is_refused(value: str, monkeypatch):
    """Catches a misspelt choice that changes nothing."""
    monkeypatch.setenv("ANCHOR_JAX_ATTENTION", value)
    query = jnp.zeros((1, 3, 1, 24))  # of no other test: what is traced is kept
    with pytest.raises(AnchorError, match=value):
        attention(query, query, query)


def test_older_gpus_can_do_without_our_kernels(monkeypatch):
    """Catches a choice that does not reach the program. Triton compiles for Ampere and newer."""
    query = jnp.zeros((1, 300, 1, 8))
    for value, kernels in (("flash", True), ("xla", False)):
        monkeypatch.setenv("ANCHOR_JAX_ATTENTION", value)
        exported = jax.export.export(
            jax.jit(lambda x: attention(x, x, x)),
            platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )
        assert ("triton" in exported(query).mlir_module()) == kernels


def test_rows_that_pad_the_last_block_have_no_gradient():
    """Catches a division by the norm of a query that only pads a block: all gradients are NaN."""
    query, key, value = qkv(1, 5, 13, 1, 8)
    check(
        attention_of(xla, {"most_scores": 30}, {"most_scores": 30}), query, key, value, None, 2e-6
    )


def test_cudnn_knows_its_limits(monkeypatch):
    """Catches a program for cuDNN with heads that it refuses, which could not be compiled."""
    half = lambda width: jnp.zeros((1, 1, 1, width), jnp.bfloat16)
    assert cudnn.serves(half(40))
    assert cudnn.serves(half(128))
    assert not cudnn.serves(half(160))
    assert not cudnn.serves(half(36))
    assert not cudnn.serves(half(40).astype(jnp.float32))


_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from anchor_jax.models.attention import flash

def attend(query, key, value, gradient):
    out, kept = flash.forward(query, key, value, lengths, interpret=True)
    return out, *flash.backward(query, key, value, lengths, out, kept, gradient, interpret=True)

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
arrays = [jax.random.normal(jax.random.key(i), (4, 32, 4, 8)) for i in range(4)]
lengths = jnp.array([32, 10, 5, 32])
alone = jax.jit(attend)(*arrays)
for gathers, spec in ((0, ("data",)), (0, (None, None, "data")), (6, (None, "data"))):
    place = NamedSharding(mesh, PartitionSpec(*spec))
    program = jax.jit(attend).lower(*[jax.device_put(x, place) for x in arrays]).compile()
    assert program.as_text().count("all-gather(") <= gathers, spec
    together = program(*[jax.device_put(x, place) for x in arrays])
    for ours, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6)
        assert ours.sharding == place, spec
"""


def test_devices_share_the_rows_and_heads_of_the_kernels():
    """Catches kernels that gather all rows or heads on every device, lengths that count from the
    first key of a device, and sums over the queries of one device."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", _DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
