"""The programs of the published size, lowered for GPUs and TPUs on a machine that has neither."""

import re
from dataclasses import replace

import jax
import pytest
from jax import export

from anchor_jax.planning.generation import generation_programs, published_sizes
from anchor_jax.train.configs import PRESETS
from anchor_jax.train.plan import training_program

LONGEST = 2048  # keys whose scores with as many queries may be held at once


def large_squares(text: str) -> set[str]:
    """Find the shapes of arrays in a program with two axes of more than `LONGEST` tokens, as scores
    of all tokens with all tokens have. At 512x512, numbers of tokens are powers of two, and numbers
    of so many features are not."""
    found = set()
    for shape in set(re.findall(r"tensor<((?:\d+x)+)\w+>", text)):
        sizes = [int(size) for size in shape.split("x")[:-1]]
        if sum(size > LONGEST and size.bit_count() == 1 for size in sizes) > 1:
            found.add(shape)
    return found


def lowered(jitted, args, platform: str) -> str:
    """Lower a program for a platform."""
    here = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
    # Kernels in Pallas have no promise to be readable by later versions, which nothing here asks.
    checks = [export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    exported = export.export(jitted, platforms=[platform], disabled_checks=checks)(*here)
    return exported.mlir_module()


@pytest.fixture(scope="module")
def programs():
    anchor = published_sizes()
    settings = anchor.settings
    face = replace(settings.face, size=512, windows=True)
    settings = replace(settings, sampling=replace(settings.sampling, dtype="bfloat16"), face=face)
    made = generation_programs(anchor, settings, (512, 512), jax.local_devices()[0], face=True)
    return {program.name.split(",")[0]: (program.jitted, program.args) for program in made}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", ["window step", "decoding", "face step", "training step"])
def test_nothing_holds_all_tokens_with_all_tokens(name: str, platform: str, programs):
    """Catches attention that holds every score, which takes 415 GB in a window step, and a program
    that cannot be lowered for a platform. The kernels must be in the program for CUDA."""
    if name == "training step":
        job = replace(PRESETS["finetune"]["sd15"], dtype="bfloat16", ema=0.999)
        jitted, args = training_program(job, devices=jax.local_devices()[:1])
        text = lowered(jitted, args, platform)
        assert ("attention_gradients_of_keys" in text) == (platform == "cuda")
    else:
        jitted, args = programs[name]
        text = lowered(jitted, args, platform)
    assert ("triton" in text) == (platform == "cuda" and name != "decoding")
    assert not large_squares(text)


def test_large_squares_are_found():
    """Catches a search that finds nothing."""
    assert large_squares("tensor<2x8x65536x65536xbf16> tensor<65536x320xf32>") == {
        "2x8x65536x65536x"
    }
