"""Programs compiled for GPUs that are not here, by XLA's own compiler: `make test-gpu-compile`.

They need jax's CUDA plugin and ptxas (the extra `plan`), and are skipped without. No GPU runs them:
what they tell is that the kernels fit the shared memory of each GPU, and how much memory programs
ask for.
"""

import importlib.util
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from anchor_jax.compiling import matmul_precision
from anchor_jax.models.attention import flash
from anchor_jax.models.attention.residuals import Residuals
from anchor_jax.planning.estimate import Program, estimate, peak
from anchor_jax.planning.generation import generation_programs, published_sizes
from anchor_jax.planning.targets import TARGETS, open_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None,
        reason="needs pip install '.[plan]'; make test-gpu-compile installs it",
    ),
    pytest.mark.filterwarnings("default"),  # of the plugin, which finds no driver
]
GB = 1e9
# Widths of the published networks with the tokens of a window of 16 frames of 512x512.
SHAPES = ((40, 65536), (80, 16384), (160, 4096))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", TARGETS)
def test_the_kernels_fit_every_gpu(name: str, dtype: str):
    """Catches blocks that exceed the shared memory of a GPU, a product or a load that Triton
    refuses, and gradients that hold more than numbers of queries."""
    device, options = open_device(name)
    place = jax.sharding.SingleDeviceSharding(device)
    for width, tokens in SHAPES:
        array: Any = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        vectors, lengths = array(2, tokens, 8, width), array(2, dtype=jnp.int32)
        numbers = array(2, 8, tokens, dtype=jnp.float32)
        kept = Residuals(numbers, numbers, vectors if dtype == "bfloat16" else None)

        def compiled(function: Any, *args: Any, options=options) -> Any:
            with matmul_precision(dtype):
                lowered = jax.jit(function).lower(*args)
            return lowered.compile(compiler_options=options).memory_analysis()

        qkv = vectors, vectors, vectors, lengths
        forward = compiled(flash.forward, *qkv)
        assert forward.temp_size_in_bytes < 1e6
        backward = compiled(flash.backward, *qkv, vectors, kept, vectors)
        assert backward.temp_size_in_bytes < 2 * 4 * vectors.size  # dO / norm and its row sums


@pytest.mark.parametrize(
    ("name", "dtype", "window", "most"),
    [("a100", "bfloat16", (16, 4), 4.0), ("4090", "float32", (16, 4), 7.5)],
)
def test_a_window_fits(name: str, dtype: str, window: tuple[int, int], most: float):
    """Catches temporaries of a window step that grow: scores, copies of the features in float32, or
    features of several windows at once."""
    device, options = open_device(name)
    anchor = published_sizes()
    sampling = replace(anchor.settings.sampling, dtype=dtype, window=window[0], overlap=window[1])
    settings = replace(anchor.settings, sampling=sampling)
    step, decoding = generation_programs(anchor, settings, (512, 512), device, face=False)
    assert estimate(step, options).temporaries < most * GB
    if dtype == "bfloat16":
        assert estimate(decoding, options).temporaries < 1.5 * GB


@pytest.mark.parametrize(
    ("name", "preset", "most"), [("4090", "sd15-24gb", 22), ("a100", "sd15", 36)]
)
def test_a_training_step_fits(name: str, preset: str, most: float):
    """Catches a training step that keeps activations which `remat` says to compute again, gradients
    beside a second copy of the parameters, or moving averages on the device that belong on the
    host."""
    from anchor_jax.train.configs import PRESETS
    from anchor_jax.train.plan import training_program

    device, options = open_device(name)
    job = replace(PRESETS["finetune"][preset], dtype="bfloat16", ema=0.9999)
    jitted, args = training_program(job, devices=[device])
    assert peak([estimate(Program("step", jitted, args, flops=0.0), options)]) < most * GB
