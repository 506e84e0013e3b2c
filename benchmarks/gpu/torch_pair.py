"""The window step in PyTorch and in ours, by turns on the same device."""

# torch is typed too loosely.
# pyright: reportPrivateImportUsage=false

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import torch

from benchmarks.gpu.report import Section
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.steps import Program
from benchmarks.gpu.torch_window import random_step

_PAIRS = 5
_TIMESTEP, _CONTROL_SCALE = 481.0, 2.0


def measure_pair(
    section: Section, scale: Scale, window: tuple[Program, Any], peak: float | None
) -> None:
    """Compare our window step with PyTorch's, eager and compiled, in bfloat16.

    Both have networks of the same sizes with random weights, and compute one window with both
    halves of guidance. ratio: median over the pairs of our seconds over PyTorch's.

    Args:
        section: gets the results.
        scale: sizes.
        window: our window step, compiled.
        peak: the device's rate of bfloat16 matrix products in TFLOP/s, if measured.
    """
    on_gpu = torch.cuda.is_available()
    if jax.default_backend() == "gpu" and not on_gpu:
        section.notes.append("Skipped: PyTorch sees no GPU.")
        return
    section.notes.append("Window step in bfloat16, by turns. ratio: our time over PyTorch's.")
    program, compiled = window
    ours = lambda: jax.block_until_ready(compiled(*program.arguments))
    step, inputs = _torch_step(scale, "cuda" if on_gpu else "cpu")
    kinds: dict[str, Callable] = {"eager": step, "torch.compile": _compiled(step, on_gpu)}

    for name, run in kinds.items():
        if section.out_of_time(name):
            continue
        with section.measuring(name) as result, torch.inference_mode():

            def theirs(run: Callable = run) -> None:
                run(*inputs)
                if on_gpu:
                    torch.cuda.synchronize()

            began = time.perf_counter()
            theirs()
            first = time.perf_counter() - began
            theirs()
            ours()
            result |= _pairs(ours, theirs, program.calls, section.left)
            result["torch_first_call_s"] = first
            if peak is not None:
                for side in ("our", "torch"):
                    rate = program.flops / result[f"{side}_s"] / 1e12
                    result |= {f"{side}_tflops": rate, f"{side}_share": rate / peak}
            if on_gpu:
                result["torch_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9


def _pairs(
    ours: Callable, theirs: Callable, calls: int, left: Callable[[], float]
) -> dict[str, Any]:
    """Measure both by turns, at most `_PAIRS` times. One call of ours computes `calls` windows."""
    times = []
    while len(times) < _PAIRS and (not times or left() > 0):
        began = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        times.append(((middle - began) / calls, time.perf_counter() - middle))
    return {
        "our_s": statistics.median(our for our, _ in times),
        "torch_s": statistics.median(other for _, other in times),
        "ratio": statistics.median(our / other for our, other in times),
        "pairs": len(times),
    }


def _torch_step(scale: Scale, device: str) -> tuple[Callable, tuple]:
    """Make PyTorch's networks and their inputs."""
    torch.backends.cudnn.benchmark = True  # as XLA, which tries convolutions while it compiles
    frames, side, pixels = scale.sampling.window, scale.side, scale.pixels
    step = random_step(scale.unet, scale.control, frames, device, torch.bfloat16)
    options: Any = {"device": device, "dtype": torch.bfloat16}
    channels, tokens = scale.vae.latent_channels, scale.image_encoder.num_tokens
    last = {"memory_format": torch.channels_last}
    inputs = (
        torch.randn(frames, channels, side, side, **options).contiguous(**last),
        _TIMESTEP,
        torch.randn(2, tokens, scale.unet.context_dim, **options),
        torch.rand(frames, 3, pixels, pixels, **options).contiguous(**last),
        _CONTROL_SCALE,
    )
    return step, inputs


def _compiled(step: Callable, on_gpu: bool) -> Callable:
    """Return the compiled step. Without a GPU, PyTorch only traces it: its compiler takes long."""
    return torch.compile(step, backend="inductor" if on_gpu else "eager")
