"""Compile a program for a device, and tell what it needs there."""

from dataclasses import dataclass
from typing import Any

import jax

from anchor_jax.memory import MEMORY_SHARE
from anchor_jax.planning.flops import count_flops
from anchor_jax.planning.targets import TARGETS


@dataclass(frozen=True)
class Program:
    """A program that is not compiled yet.

    Attributes:
        name: what it does.
        jitted: result of `jax.jit`.
        args: its arguments, `jax.ShapeDtypeStruct` with shardings.
        calls: how often a frame of a video, or a step, calls it.
        flops: operations of one call if the trace cannot tell them, because it loops while a
            condition holds; None counts them.
    """

    name: str
    jitted: Any
    args: tuple[Any, ...]
    calls: float = 1.0
    flops: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a program needs: bytes of its arguments (parameters, state and inputs), of temporaries
    and of results that do not overwrite arguments, floating-point operations of products and
    convolutions in one call, and how often a frame or a step calls it."""

    name: str
    arguments: int
    temporaries: int
    results: int
    flops: float
    calls: float

    @property
    def total(self) -> int:
        """Bytes of the device that the program needs while it runs."""
        return self.arguments + self.temporaries + self.results


def estimate(program: Program, options: dict[str, Any] | None) -> Estimate:
    """Compile a program for the device of its arguments.

    Args:
        program: the program.
        options: `compiler_options` of the device.
    """
    lowered = program.jitted.lower(*program.args)
    flops = program.flops
    if flops is None:
        flops = count_flops(program.jitted, *program.args)
    memory: Any = lowered.compile(compiler_options=options).memory_analysis()
    return Estimate(
        program.name,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        float(flops),
        program.calls,
    )


def roofline_seconds(estimates: list[Estimate], device: str, kind: str) -> float | None:
    """Compute a lower bound of the seconds of a frame or a step; None for a device whose rates are
    not known.

    A call takes at least as long as its operations at the rate of the data sheet, and as long as
    reading its arguments and writing its results and temporaries once
    (https://doi.org/10.1145/1498765.1498785).

    Args:
        estimates: the programs.
        device: one of `TARGETS`.
        kind: of the products: "bfloat16", "float32" or "tf32".
    """
    target = TARGETS.get(device)
    if target is None:
        return None
    rates = {"bfloat16": target.bfloat16, "tf32": target.bfloat16 / 2, "float32": target.float32}
    return sum(
        item.calls * max(item.flops / rates[kind], item.total / target.bandwidth)
        for item in estimates
    )


def peak(estimates: list[Estimate]) -> int:
    """Compute the bytes of the arguments of all programs and of the largest of the rest."""
    return sum(item.arguments for item in estimates) + max(
        item.temporaries + item.results for item in estimates
    )


def table(estimates: list[Estimate]) -> str:
    """Format estimates as a table, in GB (1e9 bytes)."""
    width = max(len(item.name) for item in estimates)
    head = f"{'program':<{width}}  arguments  temporaries  results     all   TFLOPs"
    rows = [
        f"{item.name:<{width}}  {item.arguments / 1e9:9.2f}  {item.temporaries / 1e9:11.2f}"
        f"  {item.results / 1e9:7.2f}  {item.total / 1e9:6.2f}  {item.flops / 1e12:7.2f}"
        for item in estimates
    ]
    return "\n".join([head, *rows])


def device_memory(device: str) -> int | None:
    """Return the bytes of a device that our commands may use; None if it does not tell."""
    if device in TARGETS:
        return int(MEMORY_SHARE * TARGETS[device].memory)
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")
