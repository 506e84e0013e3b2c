"""Compares our speed and memory with the same computation in PyTorch.

    python -m benchmarks.peer [--case 50m-window ...] [--pairs 5] [--out docs/benchmarks/peer.json]

There are two sides, ours and PyTorch's. Each runs in its own process, with the same random weights,
inputs and number of threads. The sides take turns: one waits on a pipe while the other computes.
The ratio is the median over the pairs. The run also compares their outputs. If other work runs on
the machine, the sides get less than their cores, which the column "cores used" shows. The time
ratio is then unreliable, and the ratio of CPU times is more reliable.

Peak memory is that of each process (ru_maxrss), with imports and weights. Ours is measured twice:
in a process that compiles, with an empty compilation cache, and in one that loads the compiled
program from the cache. The second process is timed. `torch_peer.py` describes the PyTorch side.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anchor_jax.files import write_text
from anchor_jax.processes import num_cores

TIMESTEP, CONTROL_SCALE = 481, 2.0
INPAINTING_CHANNELS = 5  # the mask and four of the masked image


@dataclass(frozen=True)
class Case:
    """A computation to measure.

    Attributes:
        what: its description in the table.
        work: "window" (control branch and UNet, both halves of guidance), "face" (the same for the
            inpainting networks, each frame alone), "decode", or "train" in `train_step`.
        size: key of `random_checkpoint.SIZES`.
        frames: number of frames.
        side: height and width of the latents.
    """

    what: str
    work: str
    size: str
    frames: int
    side: int


CASES = {
    "50m-window": Case("50M model, 16 frames, 32x32 latents", "window", "50m", 16, 32),
    "sd15-window": Case("SD1.5, 4 frames, 32x32 latents", "window", "sd15", 4, 32),
    "sd15-frame": Case("SD1.5, 1 frame, 64x64 latents", "window", "sd15", 1, 64),
    "50m-face": Case("50M face model, 16 frames, 32x32 latents", "face", "50m", 16, 32),
    "sd15-face": Case("SD1.5 face model, 4 frames, 32x32 latents", "face", "sd15", 4, 32),
    "decode-frame": Case("SD1.5 decoder, 1 frame, 64x64 latents", "decode", "sd15", 1, 64),
    "decode-4": Case("SD1.5 decoder, 4 frames, 32x32 latents", "decode", "sd15", 4, 32),
}


def inputs(case: Case, context_dim: int) -> tuple[np.ndarray, ...]:
    """Draw latents (f, h, w, 4), tokens (2, 50, c), uint8 poses (f, 8h, 8w, 3) and the inputs of
    inpainting (f, h, w, 5): mask and masked latents."""
    rng = np.random.default_rng(7)
    latents = rng.standard_normal((case.frames, case.side, case.side, 4), dtype=np.float32)
    tokens = rng.standard_normal((2, 50, context_dim), dtype=np.float32)
    pixels = 8 * case.side
    poses = rng.integers(0, 256, (case.frames, pixels, pixels, 3), dtype=np.uint8)
    inpainting = rng.standard_normal((*latents.shape[:3], INPAINTING_CHANNELS), dtype=np.float32)
    return latents, tokens, poses, inpainting


def unet_config(case: Case):
    """Return the config of the case's UNet, which has more input channels for inpainting."""
    from benchmarks.random_checkpoint import SIZES

    config = SIZES[case.size].unet
    more = INPAINTING_CHANNELS if case.work == "face" else 0
    return replace(config, in_channels=config.in_channels + more)


def build_ours(case: Case):
    """Build our side: a function without arguments that computes and returns the result."""
    import jax
    import jax.numpy as jnp

    from anchor_jax.compiling import return_freed_memory
    from anchor_jax.diffusion.sample import predict_windows
    from anchor_jax.generation.autoencoder import decode_images
    from anchor_jax.generation.networks import WindowDenoiser
    from anchor_jax.models import PER_FRAME, PUBLISHED, Denoiser
    from benchmarks.random_checkpoint import SEEDS, SIZES, random_params

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    configs, unet = SIZES[case.size], unet_config(case)
    latents, tokens, poses, inpainting = map(jnp.asarray, inputs(case, unet.context_dim))
    if case.work == "decode":
        params = random_params(configs.vae, SEEDS["vae"])
        return lambda: np.asarray(decode_images(configs.vae, params, latents, "float32"))
    params = {
        "unet": random_params(unet, SEEDS["unet"]),
        "control": random_params(configs.control, SEEDS["control"]),
        "context": tokens,
        "control_scale": jnp.float32(CONTROL_SCALE),
    }
    inflation, condition = PUBLISHED, {"poses": poses}
    if case.work == "face":
        inflation, condition = PER_FRAME, {"poses": poses, "inpainting": inpainting}
    denoise = WindowDenoiser(Denoiser(unet, configs.control, inflation=inflation))
    window = jax.tree.map(lambda x: x[None], (latents, condition))  # a group of one
    numbers = np.array([TIMESTEP], np.int32), np.array([case.frames], np.int32)
    compiled = False

    def step():
        nonlocal compiled
        predicted = predict_windows(denoise, params, *window, *numbers)
        if not compiled:
            return_freed_memory()
            compiled = True
        return np.asarray(predicted[0])

    return step


def build_torch(case: Case):
    """Build the PyTorch side, which returns the same array."""
    import torch

    from benchmarks import torch_peer
    from benchmarks.random_checkpoint import SEEDS, SIZES

    torch.set_num_threads(num_cores())
    configs, config = SIZES[case.size], unet_config(case)
    latents, tokens, poses, inpainting = map(torch.from_numpy, inputs(case, config.context_dim))
    latents, poses, inpainting = (x.permute(0, 3, 1, 2) for x in (latents, poses, inpainting))
    if case.work == "decode":
        vae = torch_peer.random_network(configs.vae, SEEDS["vae"])

        def decode():
            images = vae.decode(latents / configs.vae.scaling_factor, return_dict=False)[0]
            return (images / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()

        return torch.inference_mode()(decode)
    unet = torch_peer.random_network(config, SEEDS["unet"])
    control = torch_peer.random_network(configs.control, SEEDS["control"])
    face = case.work == "face"
    torch_peer.inflate(unet, control, case.frames, per_frame=face)

    def step():
        both = torch.cat([latents, latents]).contiguous(memory_format=torch.channels_last)
        more = torch.cat([inpainting, inpainting]) if face else None
        noise = torch_peer.window_step(
            unet, control, both, TIMESTEP, tokens, poses.float() / 255, CONTROL_SCALE, more
        )
        return noise.unflatten(0, (2, -1)).permute(0, 1, 3, 4, 2).contiguous().numpy()

    return torch.inference_mode()(step)


def work(module: str, side: str, case: Case, threads: int, cache: str, pipe) -> None:
    """Run a side's process: build the side, then answer the commands of the pipe until "stop"."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    step = getattr(importlib.import_module(module), f"build_{side}")(case)
    pipe.send({"ready_mb": _resident_mb()})
    while (command := pipe.recv()) != "stop":
        start, busy = time.perf_counter(), time.process_time()
        output = step()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        pipe.send(
            {
                "seconds": seconds,
                "cpu_seconds": busy,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "output": output if command == "output" else None,
            }
        )


@contextmanager
def worker(module: str, side: str, case: Case, threads: int, cache: str):
    """Start a side's process. Yields a function from a command to its answer, and the memory in MB
    that the process has after its weights are loaded."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    process = spawn.Process(
        target=work, args=(module, side, case, threads, cache, theirs), daemon=True
    )
    process.start()
    theirs.close()

    def ask(command: str) -> dict:
        pipe.send(command)
        return pipe.recv()

    try:
        yield ask, pipe.recv()["ready_mb"]
        pipe.send("stop")
        process.join()
    finally:
        process.kill()


def measure(module: str, case: Case, pairs: int, threads: int) -> dict:
    """Measure one case, whose sides `module` builds.

    First calls are timed separately: ours with an empty compilation cache, then in a new process
    with a filled one.
    """
    with tempfile.TemporaryDirectory() as cache:
        with worker(module, "ours", case, threads, cache) as (ours, _):
            cold = ours("run")
        with (
            worker(module, "ours", case, threads, cache) as (ours, our_ready),
            worker(module, "torch", case, threads, cache) as (torch, torch_ready),
        ):
            first, torch_first = ours("output"), torch("output")
            rounds = []
            for _ in range(pairs):
                rounds.append((ours("run"), torch("run")))
                print(".", end="", flush=True, file=sys.stderr)
    our_last, torch_last = rounds[-1]
    reference = torch_first["output"]
    difference = np.linalg.norm(first["output"] - reference) / np.linalg.norm(reference)
    return {
        **asdict(case),
        "seconds": [(ours["seconds"], torch["seconds"]) for ours, torch in rounds],
        "our_median_s": statistics.median(ours["seconds"] for ours, _ in rounds),
        "torch_median_s": statistics.median(torch["seconds"] for _, torch in rounds),
        "ratio": statistics.median(o["seconds"] / t["seconds"] for o, t in rounds),
        "our_cores": statistics.median(o["cpu_seconds"] / o["seconds"] for o, _ in rounds),
        "torch_cores": statistics.median(t["cpu_seconds"] / t["seconds"] for _, t in rounds),
        "cpu_time_ratio": statistics.median(o["cpu_seconds"] / t["cpu_seconds"] for o, t in rounds),
        "our_compiling_peak_mb": cold["peak_mb"],
        "our_peak_mb": our_last["peak_mb"],
        "torch_peak_mb": torch_last["peak_mb"],
        "memory_ratio": our_last["peak_mb"] / torch_last["peak_mb"],
        "compiling_memory_ratio": cold["peak_mb"] / torch_last["peak_mb"],
        "our_ready_mb": our_ready,
        "torch_ready_mb": torch_ready,
        "our_first_call_s": cold["seconds"],
        "our_first_call_cached_s": first["seconds"],
        "torch_first_call_s": torch_first["seconds"],
        "relative_difference": float(difference),
        "load_average": os.getloadavg()[0],
    }


def table(results: dict[str, dict]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| case | CPU | ours | PyTorch | time ratio | CPU time ratio | cores used "
        "| peak memory | memory ratio (compiling) | first call (with cache) | of it compiling "
        "| difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results.values():
        lines.append(
            f"| {r['what']} | {r['cpu']} | {r['our_median_s']:.2f} s | {r['torch_median_s']:.2f} s "
            f"| **{r['ratio']:.2f}** | {r['cpu_time_ratio']:.2f} "
            f"| {r['our_cores']:.1f}, {r['torch_cores']:.1f} "
            f"| {r['our_peak_mb']:,.0f}, {r['torch_peak_mb']:,.0f} MB "
            f"| {r['memory_ratio']:.2f} ({r['compiling_memory_ratio']:.2f}) "
            f"| {r['our_first_call_s']:.1f} s ({r['our_first_call_cached_s']:.1f} s) "
            f"| {r['our_first_call_s'] - r['our_median_s']:.1f} s "
            f"({r['our_first_call_cached_s'] - r['our_median_s']:.1f} s) "
            f"| {r['relative_difference']:.0e} |"
        )
    return "\n".join(lines)


def environment(module: str, threads: int) -> dict:
    """Return the commit, command, CPU and versions that a result was measured with."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit,
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": _cpu(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "torch", "diffusers")},
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def add_arguments(parser: argparse.ArgumentParser, cases: Mapping[str, Case]) -> None:
    """Add the options that all paired benchmarks have."""
    parser.add_argument("--case", choices=cases, nargs="+", default=list(cases))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument(
        "--out", type=Path, help="JSON file that gets the results; the table is written next to it"
    )


def run(cases: Mapping[str, Case], args: argparse.Namespace, module: str) -> None:
    """Measure the chosen cases, whose sides `module` builds; write and print the results."""
    results = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.case:
        print(f"{name} ", end="", flush=True, file=sys.stderr)
        result = measure(module, cases[name], args.pairs, args.threads)
        result |= environment(module, args.threads)
        results[f"{name}, {result['cpu']}"] = result
        print(f" {result['ratio']:.2f}x", file=sys.stderr)
        if args.out:
            write_text(args.out, json.dumps(results, indent=1) + "\n")
            write_text(args.out.with_suffix(".md"), table(results) + "\n")
    print(table(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compares our networks with those of diffusers on this CPU."
    )
    add_arguments(parser, CASES)
    run(CASES, parser.parse_args(), "benchmarks.peer")


if __name__ == "__main__":
    main()
