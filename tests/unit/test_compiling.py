"""The type and the precision that a machine computes in, and what happens if its memory is full."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from anchor_jax.checkpoint import parameters
from anchor_jax.cli import entry
from anchor_jax.compiling import explained_memory, matmul_precision, resolve_dtype
from anchor_jax.diffusion import Sampling
from anchor_jax.errors import AnchorError

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\n\tbuffers: ..."
)


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


def fail(error: Exception):
    def function(*_, **__):
        raise error

    return function


@pytest.mark.parametrize(
    ("command", "settings"),
    [("generate", ("window", "size", "dtype")), ("train", ("batch", "remat", "dtype"))],
)
def test_a_full_device_is_told_in_one_line(command, settings):
    """Catches a traceback of a page, and advice without the settings or the command that helps."""
    with pytest.raises(AnchorError) as caught, explained_memory(command):
        fail(OUT_OF_MEMORY)()
    message = str(caught.value)
    assert "\n" not in message and "17179869184 bytes" in message
    assert all(word in message for word in (*settings, f"anchor-jax plan {command}"))
    for other in (jax.errors.JaxRuntimeError("INTERNAL: a bug"), ValueError("RESOURCE_EXHAUSTED")):
        with pytest.raises(type(other), match=str(other)), explained_memory(command):
            fail(other)()


def test_parameters_that_do_not_fit_are_not_called_damaged(monkeypatch, tmp_path):
    """Catches advice to copy the ANCHOR again where the device is full."""
    monkeypatch.setattr(ocp.Checkpointer, "restore", fail(OUT_OF_MEMORY))
    with pytest.raises(AnchorError, match=r"too little memory.*dtype bfloat16"):
        parameters.read_params(tmp_path, {"bias": jax.ShapeDtypeStruct((1,), jnp.float32)})


def test_training_on_a_full_device_ends_with_2(monkeypatch, capsys):
    """Catches a training that shows a traceback where generation shows one line."""
    from anchor_jax.train import finetune

    monkeypatch.setattr(finetune, "main", fail(OUT_OF_MEMORY))
    assert entry.main(["train", "finetune", "--help"]) == 2
    assert "anchor-jax plan train" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_commands_use_most_of_a_gpu_unless_told(monkeypatch, capsys, name):
    """Catches a quarter of a GPU that lies idle, a share of the user's that is replaced, and both
    variables set, which JAX refuses."""
    both = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    for variable in both:
        monkeypatch.delenv(variable, raising=False)
    assert entry.main(["--version"]) == 0
    assert os.environ[both[0]] == "0.92" and both[1] not in os.environ
    monkeypatch.delenv(both[0])
    monkeypatch.setenv(name, "0.3")
    assert entry.main(["--version"]) == 0
    assert [os.environ.get(variable) for variable in both].count("0.3") == 1
    assert "0.92" not in map(os.environ.get, both)


def test_a_killed_process_does_not_spoil_the_cache(tmp_path):
    """Catches a cache that keeps no program any more, and a warning at each, because a process was
    killed between the two files of a program."""
    whole, half = ("whole-cache", "whole-atime"), "half-cache"
    for name in (*whole, half):
        (tmp_path / name).write_bytes(bytes(8))
    code = "import jax; from anchor_jax.cli.options import use_compile_cache as use"
    code = f"{code}; use(); jax.jit(lambda x: x + 1)(1.0)"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, env=environment, cwd=ROOT).returncode == 0
    found = set(os.listdir(tmp_path)) - {".lockfile", *whole}
    assert {name.rpartition("-")[2] for name in found} == {"cache", "atime"}
    assert half not in found
