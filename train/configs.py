"""Define the settings of the training programs and their presets. `sd15` has the paper's values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, arg

from anchor_jax.errors import LARGEST_SEED, note, require
from anchor_jax.models.remat import Remat
from anchor_jax.training.optimizer import OptimizerConfig

_C = TypeVar("_C", bound="LoopConfig")
_J = TypeVar("_J", bound="LoopConfig")
_HINT = "(default: the anchor's)"
_AnchorsInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint=_HINT)]
_AnchorsFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_HINT)]

# Settings that may change when a run continues: they do not change what is computed.
FREE = frozenset(
    {
        *("workers", "log_every", "save_every", "save_minutes", "keep_last", "keep_best"),
        *("validate_every", "validation_frames", "validation_steps"),
        *("data", "anchor", "out", "preset", "encodings", "coordinator", "ema_memory"),
    }
)


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every training program.

    Attributes:
        steps: optimizer steps.
        batch_size: examples in a step, over all devices.
        accumulate: number of parts that a batch is split into, to save memory.
        optimizer: AdamW, its learning rate and its clipping.
        ema: decay of the moving average of the parameters, which the anchor then gets; 0: none.
        ema_memory: memory of the moving average; "host" saves 4 bytes a parameter on the device.
        tf32: let GPUs round the factors of float32 products to TF32.
        seed: seed of noise, order and references.
        workers: processes that read the data; 0: threads of this process.
        held_out: fraction of each clip, its last frames, that is kept for validation.
        fsdp: distribute parameters and optimizer state over the devices, too.
        log_every: steps between logged scalars.
        save_every: steps between checkpoints.
        save_minutes: longest time between checkpoints, minutes; 0: only by steps.
        keep_last: number of newest checkpoints to keep.
        keep_best: number of checkpoints with the best validation scores to keep.
        validate_every: steps between validation grids; 0: only at the end.
        validation_frames: number of frames in a validation grid.

    Raises:
        AnchorError: settings that contradict each other.
    """

    steps: int = 50_000
    batch_size: int = 4
    accumulate: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: float = 0.0
    ema_memory: Literal["device", "host"] = "device"
    tf32: bool = False
    seed: int = 42
    workers: int = 0
    held_out: float = 0.1
    fsdp: bool = False
    log_every: int = 50
    save_every: int = 1000
    save_minutes: float = 5.0
    keep_last: int = 2
    keep_best: int = 1
    validate_every: int = 1000
    validation_frames: int = 6

    def __post_init__(self):
        require(*self._conditions())

    def _conditions(self) -> list[tuple[bool, str]]:
        """Return what must hold, each with the message for when it does not."""
        batch = self.batch_size
        least = {"workers": 0, "keep_best": 0, "validate_every": 0, "steps": 1, "batch_size": 1}
        least |= {"log_every": 1, "save_every": 1, "keep_last": 1, "validation_frames": 1}
        values = {name: getattr(self, name) for name in least}
        return [
            (
                self.accumulate >= 1 and batch % self.accumulate == 0,
                f"accumulate is {self.accumulate}: expected a divisor of batch_size, which is"
                f" {batch}",
            ),
            (0 <= self.ema < 1, f"ema is {self.ema}: expected 0 to below 1"),
            (
                0 <= self.seed <= LARGEST_SEED,
                f"seed is {self.seed}: expected 0 to {LARGEST_SEED}",
            ),
            (
                0 <= self.save_minutes < math.inf,
                f"save_minutes is {self.save_minutes}: expected at least 0",
            ),
            (0 <= self.held_out <= 0.9, f"held_out is {self.held_out}: expected 0 to 0.9"),
            *(
                (value >= least[name], f"{name} is {value}: expected at least {least[name]}")
                for name, value in values.items()
            ),
        ]


@dataclass(frozen=True)
class Config(LoopConfig):
    """Settings of pretraining, finetuning and the face. The defaults are the paper's.

    Attributes:
        min_snr: gamma of min-SNR weighting of the loss (arXiv:2303.09556); 0: none, as published.
        drop_condition: probability of dropping the appearance, which trains the unconditional
            prediction of guidance (arXiv:2207.12598); published: 0.
        dtype: type that the networks compute in: bfloat16 on GPUs and float32 elsewhere if "auto".
            Parameters are float32.
        remat: what the backward pass computes again to save memory: nothing, the activations of
            each block, or those but the results of attention.
        flip: probability of mirroring an example; published: 0.
        cached: encode every frame with the frozen networks once, before the first step.
        background: grey level behind the person if mattes remove the background.
        validation_steps: denoising steps of a validation grid.
        guidance: guidance of a validation grid, which the resulting anchor then recommends.
        control_scale: control scale of a validation grid, which the anchor then recommends.

    Raises:
        AnchorError: settings that contradict each other.
    """

    min_snr: float = 0.0
    drop_condition: float = 0.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Remat = "none"
    flip: float = 0.0
    cached: bool = True
    background: int = 0
    validation_steps: _AnchorsInt = None
    guidance: _AnchorsFloat = None
    control_scale: _AnchorsFloat = None

    def _conditions(self) -> list[tuple[bool, str]]:
        """Return what must hold, each with the message for when it does not."""
        drop, steps = self.drop_condition, self.validation_steps
        return [
            *super()._conditions(),
            (self.min_snr >= 0, f"min_snr is {self.min_snr}: expected at least 0"),
            (0 <= drop < 1, f"drop_condition is {drop}: expected 0 to below 1"),
            (0 <= self.flip <= 1, f"flip is {self.flip}: expected 0 to 1"),
            (
                0 <= self.background <= 255,
                f"background is {self.background}: expected 0 to 255",
            ),
            (
                steps is None or 1 <= steps <= 1000,
                f"validation_steps is {steps}: expected 1 to 1000",
            ),
            (
                not (self.flip and self.cached),
                "flip mirrors pictures, but cached encodings cannot be mirrored: add --no-cached or"
                " leave out --flip",
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class Places:
    """The files and folders of a run.

    Attributes:
        data: the data set, from `anchor-jax prepare`.
        out: folder of the run; an existing run continues.
    """

    data: Annotated[Path, arg(metavar="DATASET")]
    out: Annotated[Path, arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class StagePlaces(Places):
    """The files and folders of a stage, its preset and its processes.

    Attributes:
        anchor: the ANCHOR to start from.
        preset: named settings, which the other options change.
        encodings: folder for the cached encodings of the frames.
        coordinator: for training with several processes: address of the first one, number of
            processes, and index of this one.
    """

    anchor: Annotated[Path, arg(metavar="ANCHOR")]
    preset: Literal["sd15", "sd15-24gb", "small", "debug"] = "sd15"
    encodings: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: in the data set)")
    ] = None
    coordinator: Annotated[
        str | None,
        arg(metavar="HOST:PORT,COUNT,INDEX", help_behavior_hint="(default: one process)"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Job(Config, StagePlaces):
    """A run of a stage: its settings, files and folders."""


_SMALL = Config(
    steps=6000,
    batch_size=4,
    optimizer=OptimizerConfig(
        learning_rate=1.2e-3, schedule="cosine", warmup=100, clip="global", weight_decay=1e-3
    ),
    ema=0.998,
    log_every=20,
    save_every=500,
    validate_every=500,
)
_DEBUG = replace(
    _SMALL,
    steps=4,
    batch_size=2,
    optimizer=OptimizerConfig(learning_rate=1e-4),
    log_every=1,
    save_every=2,
    validate_every=2,
    validation_frames=2,
    validation_steps=2,
)

# The published numbers of steps. Both sizes are those of GPUs, for bfloat16 at 512x512: `sd15` fits
# into 40 GB and `sd15-24gb` into 24.
_STEPS = {"pretrain": 300_000, "finetune": 50_000, "face": 80_000}
PRESETS: dict[str, dict[str, Config]] = {
    stage: {
        "sd15": Config(steps=steps),
        "sd15-24gb": Config(steps=steps, remat="all-but-attention", ema_memory="host"),
        "small": _SMALL,
        "debug": _DEBUG,
    }
    for stage, steps in _STEPS.items()
}


def parse(
    job: type[_J],
    places: type[Places],
    presets: Mapping[str, _C],
    stage: str,
    text: str,
    args: Sequence[str],
) -> _J:
    """Parse the command line of a training program; `--help` and mistakes end the program.

    The defaults of the options, and those that `--help` shows, are the values of the preset that
    the command line names. A warm-up of more than a tenth of the steps is cut, with a note.

    Args:
        job: the class of the result, with the fields of `places` and of a preset.
        places: the class of options that are not settings. Its `preset` names one of `presets`.
        presets: settings by their names; the first one is the default.
        stage: the command after `anchor-jax train`.
        text: the first part of the help.
        args: the words after the command.
    """
    name = _preset_name(args, presets)
    chosen = presets[name]
    text = f"{text}\nThe defaults below are those of --preset {name}.\n"

    def read(
        *,
        places: OmitArgPrefixes[places],  # pyright: ignore[reportInvalidTypeForm]
        config: OmitArgPrefixes[type(chosen)] = chosen,  # pyright: ignore[reportInvalidTypeForm]
    ):
        return job(**vars(places), **vars(config))

    program = f"anchor-jax train {stage}"
    return _cut_warmup(tyro.cli(read, prog=program, description=text, args=list(args)))


def _cut_warmup(job: _J) -> _J:
    """Cut a warm-up to a tenth of the steps, so that a short run also learns at the full rate."""
    longest, warmup = job.steps // 10, job.optimizer.warmup
    if warmup <= longest:
        return job
    note(f"warmup is cut from {warmup} to {longest} steps, a tenth of the run's {job.steps}")
    return replace(job, optimizer=replace(job.optimizer, warmup=longest))


def _preset_name(args: Sequence[str], presets: Mapping[str, _C]) -> str:
    """Find the preset in a command line. Tyro reports an unknown name later."""
    name = first = next(iter(presets))
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.removeprefix("--preset=")
    return name if name in presets else first


def settings(job: Any) -> dict[str, Any]:
    """Make a flat dict of JSON values from the settings of a run."""
    flat: dict[str, Any] = {}
    for name, value in asdict(job).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = str(value) if isinstance(value, Path) else value
    return flat


# Settings that runs of earlier versions did not have, and what they did instead.
_ADDED = {"tf32": False, "optimizer.first_moment": "float32"}


def translate(old: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the settings of a run that an earlier version started to those of this version."""
    new = _ADDED | dict(old)
    if "remat" in new:  # was a switch
        new["remat"] = {False: "none", True: "blocks"}.get(new["remat"], new["remat"])
    return new
