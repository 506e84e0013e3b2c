"""The type and the precision that a machine computes in."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from anchor_jax.compiling import matmul_precision, resolve_dtype
from anchor_jax.diffusion import Sampling


@pytest.mark.parametrize(
    ("platform", "expected"), [("gpu", "bfloat16"), ("cpu", "float32"), ("tpu", "float32")]
)
def test_auto_is_the_type_of_the_first_local_device(monkeypatch, platform, expected):
    """Catches float32 on a GPU, bfloat16 on a CPU, and a type that was asked for and replaced."""
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform=platform)])
    assert resolve_dtype("auto") == Sampling().resolved().dtype == expected
    assert resolve_dtype("float32") == "float32" and resolve_dtype("bfloat16") == "bfloat16"
    assert Sampling(tf32=True).resolved().dtype == "float32"


def test_float32_products_are_exact_unless_tf32_is_asked_for():
    """Catches a GPU that rounds factors of float32 products to TF32 unasked, --tf32 without effect,
    and a precision that stays after the block."""

    def precision() -> str:
        return str(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 2)), jnp.ones((2, 2))).eqns[0].params)

    with jax.default_matmul_precision("default"):
        with matmul_precision("float32"):
            assert "HIGHEST" in precision()
        with matmul_precision("float32", tf32=True):
            assert "HIGHEST" not in precision() and "HIGH" in precision()
        with matmul_precision("bfloat16"):
            assert "HIGH" not in precision()
        assert "HIGH" not in precision()
