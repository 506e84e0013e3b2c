"""Measures kernels, programs and whole videos on the GPU of this machine, in at most 8 minutes.

    python -m benchmarks.gpu [--out docs/benchmarks] [--only matmul attention ...] [--minutes 8]

It needs a checkout and an environment with jax, flax, optax, orbax-checkpoint and what they bring,
but no installation of this project; PyTorch is measured beside it if it is there. Results are
printed and saved after each section, so that a run that is cut keeps them: a JSON file and a table,
named after the device. `--toy` runs everything with tiny networks on any device.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# PyTorch's part needs memory of the same device, and the largest size in use is to be seen.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.7")

import jax

from anchor_jax.checkpoint import Anchor
from benchmarks.gpu import golden, kernels, report, scale, steps, videos
from benchmarks.gpu.report import Report, Section

OUT = report.ROOT / "docs" / "benchmarks"


# In their order, and the share of the time that each may take. The shares add up to more than 1,
# for few sections need all of theirs. PyTorch's compiler comes late: it takes longest.
SECTIONS = {
    "matmul": 0.05,
    "attention": 0.15,
    "programs": 0.3,
    "videos": 0.4,
    "training": 0.2,
    "golden": 0.12,
    "PyTorch": 0.4,
}


class Run:
    """The sections of a run, and what they share: random parameters, the measured matmul rate and
    the compiled window step.

    Args:
        results: gets the results.
        toy: whether the networks are tiny.
    """

    def __init__(self, results: Report, toy: bool):
        self.results, self.toy = results, toy
        self.scale = scale.toy() if toy else scale.full()

    def run(self, name: str, limit: float) -> None:
        """Run one section for at most `limit` seconds."""
        work = {
            "matmul": lambda section: kernels.measure_products(section, self.toy),
            "attention": lambda section: kernels.measure_attention(section, self.toy),
            "golden": lambda section: golden.measure_golden(section, self.toy),
            "programs": lambda section: self.measure_programs(section),
            "videos": lambda section: videos.measure_videos(section, self.scale, self.anchor),
            "training": lambda section: steps.measure_training(section, self.scale, self.rate),
            "PyTorch": lambda section: self.measure_pair(section),
        }
        self.results.run(name, work[name], limit)

    @cached_property
    def anchor(self) -> Anchor:
        """An anchor with random parameters."""
        return scale.random_anchor(self.scale)

    @property
    def rate(self) -> float | None:
        """The measured rate of bfloat16 matrix products in TFLOP/s."""
        section = self.results.content["sections"].get("matmul", {})
        return section.get("results", {}).get("bfloat16", {}).get("tflops")

    @cached_property
    def window(self) -> tuple[steps.Program, Any]:
        """The window step, and its compiled program."""
        program = steps.window_program(self.anchor, self.scale, self.anchor.body)
        return program, steps.compile_program(program)

    def measure_programs(self, section: Section) -> None:
        """Measure the programs of generation, and keep the window step."""
        self.window = steps.measure_steps(section, self.scale, self.anchor, self.rate)

    def measure_pair(self, section: Section) -> None:
        """Measure our window step beside PyTorch's."""
        if find_spec("torch") is None:
            section.notes.append("Skipped: PyTorch is not installed.")
            return
        from benchmarks.gpu import torch_pair

        torch_pair.measure_pair(section, self.scale, self.window, self.rate)


def run(names: Iterable[str], minutes: float, out: Path | None, toy: bool) -> Report:
    """Run sections by their names; the process ends after `minutes`."""
    about = report.environment("benchmarks.gpu")
    name = "gpu-" + report.slug(about["device"]) + ("-toy" if toy else "")
    results = Report(about, 60 * minutes, out, name)
    watch = results.watch()
    sections = Run(results, toy)
    with tempfile.TemporaryDirectory() as folder:
        if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for name in names:
            if results.left() > 0:
                sections.run(name, SECTIONS[name] * 60 * minutes)
    watch.cancel()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measures the library on this machine's GPU."
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION"
    )
    parser.add_argument("--skip", nargs="+", choices=SECTIONS, default=[], metavar="SECTION")
    parser.add_argument("--minutes", type=float, default=8, help="the run ends after this time")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: docs/benchmarks; --toy: none)"
    )
    parser.add_argument("--toy", action="store_true", help="tiny networks, on any device")
    args = parser.parse_args()
    if not args.toy and jax.default_backend() != "gpu":
        print("no GPU: jax sees none here; --toy runs on any device", file=sys.stderr)
        sys.exit(2)
    names = [name for name in SECTIONS if name in args.only and name not in args.skip]
    out = args.out or (None if args.toy else OUT)
    results = run(names, args.minutes, out, args.toy)
    print(report.table(results.content))


if __name__ == "__main__":
    main()
