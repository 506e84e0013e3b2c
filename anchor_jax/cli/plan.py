"""Implement `anchor-jax plan`."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from anchor_jax.cli.options import (
    AnchorsFloat,
    AnchorsInt,
    need_extra,
    parse_size,
    use_compile_cache,
)
from anchor_jax.cli.train import MODULES
from anchor_jax.errors import AnchorError, require, scale_condition

if TYPE_CHECKING:
    from anchor_jax.checkpoint import Anchor
    from anchor_jax.planning.estimate import Estimate, Program

_PRESETS = "(default: the preset's)"
_Device = Literal["here", "a100", "h100", "4090"]
_Anchor = Positional[
    Annotated[
        Path | None, arg(metavar="ANCHOR", help_behavior_hint="(default: the published sizes)")
    ]
]


@dataclass(frozen=True, kw_only=True)
class PlanGenerate:
    """Compute the memory that generation needs, and a lower bound of its time.

        anchor-jax plan generate --device 4090 --size 768 --window 8 --overlap 2
        anchor-jax plan generate seth --device here

    Nothing is generated: the programs are compiled, which takes a minute or two, for a device that
    need not be here.

    Attributes:
        anchor: the anchor, whose networks and settings are taken.
        device: the GPU to compile for, or "here" for the first device of this machine.
        size: size of the video in pixels.
        window: frames that are denoised together.
        overlap: frames that neighbouring windows share.
        guidance: scale of classifier-free guidance; at 1 half of the work is left out.
        dtype: type that the networks compute in; auto is bfloat16 on GPUs, float32 elsewhere.
        tf32: compute in float32, and let GPUs round the factors of products to TF32.
        devices: number of such devices that share the windows.
        face: repaint faces too, if the anchor has a face part.
    """

    anchor: _Anchor = None
    device: _Device = "here"
    size: Annotated[str, arg(metavar="PX|WxH")] = "512"
    window: AnchorsInt = None
    overlap: AnchorsInt = None
    guidance: AnchorsFloat = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tf32: bool = False
    devices: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: all here, or one absent)")
    ] = None
    face: bool = True

    def run(self) -> None:
        """Compile the programs and print what they need."""
        anchor = _sizes(self.anchor)
        size = _checked_size(self.size, anchor)
        if self.guidance is not None:
            require(scale_condition("guidance", self.guidance))
        from anchor_jax.devices import count_devices
        from anchor_jax.planning.generation import bytes_beside, generation_programs
        from anchor_jax.planning.targets import open_device

        sampling = anchor.settings.sampling.updated(
            window=self.window,
            overlap=self.overlap,
            guidance=self.guidance,
            dtype=self.dtype,
            tf32=self.tf32,
            devices=self.devices,
        )
        device, options = open_device(self.device)
        if self.device == "here":
            sampling = sampling.updated(devices=count_devices(self.devices))
        sampling = sampling.resolved(device)
        settings = replace(anchor.settings, sampling=sampling)
        programs = generation_programs(anchor, settings, size, device, self.face)
        estimates = _compile(programs, options)
        count = f"{sampling.devices} x " if sampling.devices != 1 else ""
        print(
            f"generation, {size[0]}x{size[1]}, window {sampling.window}, overlap"
            f" {sampling.overlap}, guidance {sampling.guidance:g}, {sampling.steps} steps,"
            f" {sampling.dtype}, {count}{_name(self.device)}\n"
        )
        kind = "tf32" if sampling.tf32 else sampling.dtype
        beside = bytes_beside(anchor, sampling, size)
        _report(estimates, beside, self.device, kind, "frame", "generate")


@dataclass(frozen=True, kw_only=True)
class PlanTrain:
    """Compute the memory that a training step needs, and a lower bound of its time.

        anchor-jax plan train --device a100
        anchor-jax plan train --device 4090 --preset sd15-24gb

    Nothing is trained: the step is compiled, which takes some minutes, for a device that need not
    be here. Options that you leave out come from the preset.

    Attributes:
        anchor: the anchor to start from, whose networks are taken.
        stage: stage of training.
        device: the GPU to compile for, or "here" for the first device of this machine.
        preset: named settings, which the other options change.
        size: size of the pictures in pixels.
        batch: examples in a step.
        accumulate: number of parts that a batch is split into, to save memory.
        dtype: type that the networks compute in; auto is bfloat16 on GPUs, float32 elsewhere.
        remat: what the backward pass computes again: nothing, blocks, or blocks but their
            attention.
        ema: decay of the moving average of the parameters; 0: none.
        ema_memory: memory of the moving average.
        first_moment: type of AdamW's first moment.
        tf32: let GPUs round the factors of float32 products to TF32.
    """

    anchor: _Anchor = None
    stage: Literal["pretrain", "finetune", "face"] = "finetune"
    device: _Device = "here"
    preset: Literal["sd15", "sd15-24gb", "small", "debug"] = "sd15"
    size: Annotated[str, arg(metavar="PX|WxH")] = "512"
    batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_PRESETS)] = None
    accumulate: Annotated[int | None, arg(metavar="INT", help_behavior_hint=_PRESETS)] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        arg(metavar="{auto,float32,bfloat16}", help_behavior_hint=_PRESETS),
    ] = None
    remat: Annotated[
        Literal["none", "blocks", "all-but-attention"] | None,
        arg(metavar="{none,blocks,all-but-attention}", help_behavior_hint=_PRESETS),
    ] = None
    ema: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_PRESETS)] = None
    ema_memory: Annotated[
        Literal["device", "host"] | None,
        arg(metavar="{device,host}", help_behavior_hint=_PRESETS),
    ] = None
    first_moment: Annotated[
        Literal["float32", "bfloat16"] | None,
        arg(metavar="{float32,bfloat16}", help_behavior_hint=_PRESETS),
    ] = None
    tf32: bool = False

    def run(self) -> None:
        """Compile the step and print what it needs."""
        need_extra("train", *MODULES)
        anchor = _sizes(self.anchor)
        size = _checked_size(self.size, anchor)
        if anchor.part("face" if self.stage == "face" else "body") is None:
            raise AnchorError(f"{self.anchor} has no face part: convert one with --face")
        from anchor_jax.compiling import resolve_dtype
        from anchor_jax.planning.estimate import Program
        from anchor_jax.planning.targets import open_device
        from anchor_jax.train.configs import PRESETS
        from anchor_jax.train.plan import bytes_beside, training_program

        given = {
            "batch_size": self.batch,
            "accumulate": self.accumulate,
            "dtype": self.dtype,
            "remat": self.remat,
            "ema": self.ema,
            "ema_memory": self.ema_memory,
        }
        given = {name: value for name, value in given.items() if value is not None}
        job = replace(PRESETS[self.stage][self.preset], tf32=self.tf32, **given)
        if self.first_moment is not None:
            job = replace(job, optimizer=replace(job.optimizer, first_moment=self.first_moment))
        device, options = open_device(self.device)
        job = replace(job, dtype=resolve_dtype(job.dtype, device))
        jitted, args = training_program(job, anchor, self.stage, size, devices=[device])
        estimates = _compile([Program("training step", jitted, args)], options)
        print(
            f"training, {self.stage}, preset {self.preset}, {size[0]}x{size[1]}, batch"
            f" {job.batch_size} in {job.accumulate} part(s), {job.dtype}, remat {job.remat}, ema"
            f" {job.ema:g}, {_name(self.device)}\n"
        )
        beside = bytes_beside(anchor)
        kind = "tf32" if job.tf32 else job.dtype
        _report(estimates, beside, self.device, kind, "step", "train")


@dataclass(frozen=True)
class Plan:
    """Compute what generation or training needs on a device, before it runs.

        anchor-jax plan generate --device a100
        anchor-jax plan train --device 4090 --preset sd15-24gb

    A GPU that is not here needs jax's CUDA plugin and compiler: pip install 'anchor-jax[plan]'.

    Attributes:
        what: what to plan; each has its own --help.
    """

    what: OmitSubcommandPrefixes[
        OmitArgPrefixes[
            Annotated[PlanGenerate, subcommand("generate")]
            | Annotated[PlanTrain, subcommand("train")]
        ]
    ]

    def run(self) -> None:
        """Plan it."""
        if self.what.device != "here":  # what is here does not matter, and need not be free
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
            os.environ.setdefault(
                "TF_CPP_MIN_LOG_LEVEL", "1"
            )  # the plugin notes that it has no GPU
        use_compile_cache()
        self.what.run()


def _sizes(path: Path | None) -> "Anchor":
    """Read the header of an anchor, or return the published sizes."""
    from anchor_jax import checkpoint
    from anchor_jax.planning.generation import published_sizes

    return published_sizes() if path is None else checkpoint.load(path, networks=())


def _checked_size(text: str, anchor: "Anchor") -> tuple[int, int]:
    """Parse a size; raise AnchorError unless the networks accept it."""
    factor, size = anchor.vae.config.factor, parse_size(text)
    if any(side < factor or side % factor for side in size):
        raise AnchorError(f"--size {text}: expected sides that are multiples of {factor}")
    return size


def _name(device: str) -> str:
    from anchor_jax.planning.targets import TARGETS

    if device in TARGETS:
        return f"{TARGETS[device].name} (absent: compiled for it, not run)"
    import jax

    return f"{jax.local_devices()[0].device_kind} (here)"


def _compile(programs: "list[Program]", options: dict[str, Any] | None) -> "list[Estimate]":
    """Compile programs with options of the compiler, with a progress bar."""
    from anchor_jax.planning.estimate import estimate
    from anchor_jax.progress import bars

    estimates = []
    with bars(True)("compiling", len(programs), "program") as advance:
        for program in programs:
            estimates.append(estimate(program, options))
            advance(1)
    return estimates


def _report(
    estimates: "list[Estimate]", beside: int, device: str, kind: str, unit: str, command: str
) -> None:
    """Print what programs need, whether it fits, and the lower bound of the time.

    Args:
        estimates: the programs.
        beside: bytes that the command keeps on the device beside them.
        device: the device.
        kind: of the products, as for `roofline_seconds`.
        unit: what the time is of.
        command: what is planned.
    """
    from anchor_jax.compiling import LESS_MEMORY
    from anchor_jax.planning.estimate import device_memory, peak, roofline_seconds, table

    print(table(estimates))
    print("(GB; arguments are parameters, state and inputs)\n")
    need, memory = peak(estimates) + beside, device_memory(device)
    others = "frozen networks" if command == "train" else "image encoder and pose images"
    print(
        f"in all {need / 1e9:.1f} GB: arguments of all programs, the largest of the rest, and up to"
        f" {beside / 1e9:.1f} GB for {others}"
    )
    if memory is not None:
        fits = need <= memory
        share = f"of the device's memory {memory / 1e9:.1f} GB can be used"
        print(f"fits: {share}" if fits else f"does not fit: {share}; use {LESS_MEMORY[command]}")
    seconds = roofline_seconds(estimates, device, kind)
    if seconds is not None:
        print(
            f"at least {seconds:.3g} s a {unit}: a roofline estimate from the rates of the data"
            " sheet, not a measurement"
        )
