"""Settings of the programs, and named presets of them. `sd15` has the paper's numbers."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, arg

from anchor_jax.errors import AnchorError, shorten
from anchor_jax.training.optimizer import OptimizerConfig

C = TypeVar("C", bound="LoopConfig")
J = TypeVar("J", bound="LoopConfig")
T = TypeVar("T")
OfAnchor = Annotated[T, arg(help_behavior_hint="(default: the anchor's)")]

# May be others when a run goes on: they do not change what is computed.
FREE = frozenset(
    {
        *("workers", "log_every", "save_every", "keep_last", "keep_best"),
        *("validate_every", "validation_frames", "validation_steps"),
        *("data", "anchor", "out", "preset", "encodings", "coordinator"),
    }
)


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every program that trains.

    Attributes:
        steps: optimizer steps.
        batch_size: examples a step, over all devices.
        accumulate: parts that a batch is computed in, one after another, to save memory.
        optimizer: AdamW, its rate and its clipping.
        ema: decay of the parameters' moving average, which is then what the anchor gets; 0: none.
        seed: of noise, order and references.
        workers: processes that read the data; 0: threads of this one.
        held_out: share of every clip's frames, its last ones, that is kept for validation.
        fsdp: also spread parameters and optimizer over the devices.
        log_every: steps between logged scalars.
        save_every: steps between checkpoints.
        keep_last: newest checkpoints that stay.
        keep_best: checkpoints with the best validation that stay, of those of a validated step.
        validate_every: steps between validation grids; 0: only at the end.
        validation_frames: frames of a grid.

    Raises:
        AnchorError: settings that contradict each other.
    """

    steps: int = 50_000
    batch_size: int = 4
    accumulate: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: float = 0.0
    seed: int = 42
    workers: int = 0
    held_out: float = 0.1
    fsdp: bool = False
    log_every: int = 50
    save_every: int = 1000
    keep_last: int = 2
    keep_best: int = 1
    validate_every: int = 1000
    validation_frames: int = 6

    def __post_init__(self):
        if wrong := [told for told, good in self._checks().items() if not good]:
            raise AnchorError(shorten(wrong, separator="; "))

    def _checks(self) -> dict[str, bool]:
        """What would be wrong, and whether it is right."""
        checks = {
            f"accumulate is {self.accumulate}: expected a divisor of batch_size, which is"
            f" {self.batch_size}": self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"ema is {self.ema}: expected 0 to below 1": 0 <= self.ema < 1,
            f"seed is {self.seed}: expected 0 to {(1 << 32) - 1}": 0 <= self.seed < 1 << 32,
            f"held_out is {self.held_out}: expected 0 to 0.9": 0 <= self.held_out <= 0.9,
            f"warmup is {self.optimizer.warmup} of {self.steps} steps: expected fewer": (
                self.optimizer.warmup < self.steps
            ),
        }
        least = dict.fromkeys(("workers", "keep_best", "validate_every"), 0) | dict.fromkeys(
            ("steps", "batch_size", "log_every", "save_every", "keep_last", "validation_frames"), 1
        )
        for name, most in least.items():
            value = getattr(self, name)
            checks[f"{name} is {value}: expected at least {most}"] = value >= most
        return checks


@dataclass(frozen=True)
class Config(LoopConfig):
    """Settings of both diffusion stages and of the face. Defaults are the paper's.

    Attributes:
        min_snr: gamma of min-SNR weighting of the loss; 0: none, as published.
        drop_condition: how often the appearance is dropped, so that guidance has a true
            unconditional half; published: 0.
        dtype: what the networks compute in; parameters are float32.
        remat: compute each block's activations again in the backward pass, to save memory.
        flip: how often an example is mirrored; published: 0.
        cached: compute what the frozen networks make of every frame once, before the first step.
        background: grey level behind the person where mattes cut the background away.
        validation_steps: denoising steps of a grid.
        guidance: guidance of a grid; the anchor that the run makes recommends it.
        control_scale: control scale of a grid; the same.

    Raises:
        AnchorError: settings that contradict each other.
    """

    min_snr: float = 0.0
    drop_condition: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    flip: float = 0.0
    cached: bool = True
    background: int = 0
    validation_steps: OfAnchor[int | None] = None
    guidance: OfAnchor[float | None] = None
    control_scale: OfAnchor[float | None] = None

    def _checks(self) -> dict[str, bool]:
        return super()._checks() | {
            f"min_snr is {self.min_snr}: expected at least 0": self.min_snr >= 0,
            f"drop_condition is {self.drop_condition}: expected 0 to below 1": (
                0 <= self.drop_condition < 1
            ),
            f"flip is {self.flip}: expected 0 to 1": 0 <= self.flip <= 1,
            f"background is {self.background}: expected 0 to 255": 0 <= self.background <= 255,
            f"validation_steps is {self.validation_steps}: expected 1 to 1000": (
                self.validation_steps is None or 1 <= self.validation_steps <= 1000
            ),
            "flip mirrors pictures, and what is cached of them cannot be mirrored: add --no-cached"
            " or leave out --flip": not (self.flip and self.cached),
        }


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run's things are.

    Attributes:
        data: the data set, from `anchor-jax prepare`.
        out: the run's folder; a run that is there goes on.
    """

    data: Annotated[Path, arg(metavar="DATASET")]
    out: Annotated[Path, arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class StagePlaces(Places):
    """Where the things of a stage are.

    Attributes:
        anchor: the ANCHOR to start from.
        preset: the settings that the others change.
        encodings: folder for what is cached of the frames; default: in the data set.
        coordinator: where several processes train together: of the first one, how many there
            are, and which one this is.
    """

    anchor: Annotated[Path, arg(metavar="ANCHOR")]
    preset: Literal["sd15", "small", "debug"] = "sd15"
    encodings: Annotated[Path | None, arg(metavar="DIR")] = None
    coordinator: Annotated[str | None, arg(metavar="HOST:PORT,COUNT,INDEX")] = None


@dataclass(frozen=True, kw_only=True)
class Job(Config, StagePlaces):
    """A run of a stage: its settings, and where things are."""


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

PRESETS: dict[str, dict[str, Config]] = {
    "pretrain": {"sd15": Config(steps=300_000), "small": _SMALL, "debug": _DEBUG},
    "finetune": {"sd15": Config(steps=50_000), "small": _SMALL, "debug": _DEBUG},
    "face": {"sd15": Config(steps=80_000), "small": _SMALL, "debug": _DEBUG},
}


def parse(
    job: type[J],
    places: type[Places],
    presets: Mapping[str, C],
    stage: str,
    text: str,
    args: Sequence[str],
) -> J:
    """The job that a command line describes; `--help` and mistakes end the program.

    Args:
        job: takes the fields of `places` and of a preset.
        places: what is not a setting. Its `preset` names one of `presets`.
        presets: by their names, the first one where none is named.
        stage: the command after `anchor-jax train`.
        text: what `--help` says first.
        args: the words after the command.
    """
    chosen = _preset(args, presets)

    def read(
        *,
        places: OmitArgPrefixes[places],  # pyright: ignore[reportInvalidTypeForm]
        config: OmitArgPrefixes[type(chosen)] = chosen,  # pyright: ignore[reportInvalidTypeForm]
    ):
        return job(**vars(places), **vars(config))

    return tyro.cli(read, prog=f"anchor-jax train {stage}", description=text, args=list(args))


def _preset(args: Sequence[str], presets: Mapping[str, C]) -> C:
    """The preset that the command line names; its other words are read later."""
    name = next(iter(presets))
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.removeprefix("--preset=")
    return presets.get(name, next(iter(presets.values())))


def settings(job: Any) -> dict[str, Any]:
    """What decides a run, flat, as JSON has it."""
    flat: dict[str, Any] = {}
    for name, value in asdict(job).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = str(value) if isinstance(value, Path) else value
    return flat


def note(message: str) -> None:
    """A word to the user beside the progress."""
    print(f"anchor-jax: note: {message}", file=sys.stderr)
