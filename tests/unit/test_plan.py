"""What generation and training need on a device, computed before they run."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import anchor_jax
from anchor_jax import load
from anchor_jax.cli import main
from anchor_jax.models.attention import attention
from anchor_jax.planning import targets
from anchor_jax.planning.estimate import (
    Estimate,
    Program,
    device_memory,
    estimate,
    peak,
    roofline_seconds,
)
from anchor_jax.planning.flops import count_flops
from anchor_jax.planning.generation import (
    generation_programs,
    published_sizes,
    sampling_flops,
    step_flops,
)

MB = 10**6
SHIPPED = Path(anchor_jax.__file__).parent / "assets" / "anchor"


def test_an_estimate_is_what_the_compiler_says():
    """Catches arguments that are counted twice because the result overwrites one of them, and
    operations of a call that are not counted."""
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    program = Program("product", jax.jit(lambda x, y: x @ y, donate_argnums=0), (x, x))
    result = estimate(program, None)
    assert result.arguments == 2 * 256 * 256 * 4
    assert result.results == 0
    assert result.flops == 2 * 256**3


def test_the_roofline_is_the_slower_of_operations_and_memory():
    """Catches the rate of another type, seconds of one call in place of a frame's, and a program
    that is bound by memory but estimated by its operations."""
    slow = Estimate("products", MB, 0, 0, flops=312e12, calls=0.5)
    assert roofline_seconds([slow], "a100", "bfloat16") == pytest.approx(0.5)
    assert roofline_seconds([slow], "a100", "float32") == pytest.approx(0.5 * 312 / 19.5)
    assert roofline_seconds([slow], "a100", "tf32") == pytest.approx(1.0)
    copy = Estimate("copy", 10**9, 10**9, 39_040_000, flops=1.0, calls=2.0)
    assert roofline_seconds([copy], "a100", "bfloat16") == pytest.approx(2e-3)
    assert roofline_seconds([slow], "here", "float32") is None


def test_the_peak_keeps_all_parameters():
    """Catches the largest program alone, although the other networks stay on the device."""
    steps = Estimate("step", 100, 30, 5, 1.0, 1.0)
    decoding = Estimate("decode", 20, 50, 1, 1.0, 1.0)
    assert peak([steps, decoding]) == 100 + 20 + 51


def test_attention_counts_its_products_once():
    """Catches operations of all platforms added up, and blocks of queries or keys that are left
    out of the count."""
    shape = jax.ShapeDtypeStruct((1, 4096, 2, 40), jnp.float32)
    assert count_flops(attention, shape, shape, shape) == 2 * 2 * 2 * 4096**2 * 40


def test_steps_of_longer_windows_cost_more():
    """Catches frames in two windows that are counted once, and guidance that is free."""
    anchor = load(SHIPPED, networks=())
    sampling = replace(anchor.settings.sampling, window=4, overlap=0, guidance=2.0)
    flops = lambda **changes: step_flops(anchor, (16, 32, 32, 3), replace(sampling, **changes))
    assert flops(overlap=2) == pytest.approx(2 * flops())
    assert flops(guidance=1.0) < flops() < 2.1 * flops(guidance=1.0)


def test_shortcuts_cost_less():
    """Catches a step that is counted whole although it takes features or leaves out a half, and
    steps of a solver that are not counted."""
    anchor = load(SHIPPED, networks=())
    sampling = replace(anchor.settings.sampling, steps=4, window=4, overlap=0, guidance=2.0)
    shape = 16, 32, 32, 3
    flops = lambda **changes: sampling_flops(anchor, shape, replace(sampling, **changes))
    assert flops() == pytest.approx(4 * step_flops(anchor, shape, sampling))
    assert flops(solver="unipc", steps=2) == pytest.approx(flops() / 2)
    # Guidance at two of four steps.
    half = (flops() + flops(guidance=1.0)) / 2
    assert flops(guidance_interval=(0.2, 0.6)) == pytest.approx(half)
    assert flops(reuse="deep", reuse_every=3) < 0.7 * flops()


def test_every_program_of_generation_is_planned():
    """Catches a program that generation runs and the plan lacks, and inputs without the mask and
    the masked latents of the face."""
    anchor = published_sizes()
    settings = anchor.settings
    settings = replace(settings, sampling=replace(settings.sampling, dtype="bfloat16"))
    device = jax.local_devices()[0]
    made = {p.name: p for p in generation_programs(anchor, settings, (512, 512), device, True)}
    assert list(made) == [
        "window step, 4 windows",
        "decoding, 4 frames",
        "face step, 4 windows",
        "decoding faces, 4 frames",
    ]
    params, _, condition, *_ = made["face step, 4 windows"].args
    assert condition["inpainting"].shape[-1] == 5
    kernel = params["unet"]["conv_in"]["kernel"]
    assert kernel.dtype == jnp.bfloat16 and kernel.shape == (3, 3, 9, 320)
    _, latents, condition, *_ = made["window step, 4 windows"].args
    assert latents.shape == (4, 16, 64, 64, 4)
    assert condition["poses"].shape == (4, 16, 512, 512, 3)
    # 20 steps of a window that adds 12 frames.
    assert made["window step, 4 windows"].calls == pytest.approx(20 / 48)
    flops = made["window step, 4 windows"].flops
    assert flops is not None and flops / 4 == pytest.approx(8.5e13, rel=0.05)


def test_the_command_plans_an_anchor_here(capsys):
    """Catches a command that needs parameters or a GPU, and settings that do not reach the
    programs."""
    words = ["plan", "generate", str(SHIPPED), "--size", "64", "--window", "2"]
    assert main([*words, "--overlap", "1", "--no-face"]) == 0
    out = capsys.readouterr().out
    assert "64x64, window 2, overlap 1" in out
    assert "window step" in out and "face step" not in out
    assert "in all" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--size", "100"], "multiples of 8"),
        (["generate", "--window", "4", "--overlap", "4"], "overlap is 4: expected 0 to 3"),
        (["generate", "--guidance", "-1"], "guidance is -1"),
        (["generate", "--tf32", "--dtype", "bfloat16"], "tf32 goes with dtype float32"),
        (["train", "--batch", "3", "--accumulate", "2"], "accumulate is 2"),
    ],
)
def test_wrong_options_are_one_line(words, message, capsys):
    """Catches a traceback, or minutes of compiling before a mistake is found."""
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_absent_gpu_needs_the_extra(monkeypatch, capsys):
    """Catches an error of jax's in place of what to install."""
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    assert main(["plan", "generate", "--device", "a100"]) == 2
    assert "pip install 'anchor-jax[plan]'" in capsys.readouterr().err


def test_a_device_that_does_not_tell_its_memory_is_no_error():
    """Catches a plan that fails on CPUs, which report no limit."""
    assert device_memory("4090") == int(0.92 * targets.TARGETS["4090"].memory)
    here = device_memory("here")
    assert here is None or here > 0
