"""What commands share: types and parsing of options, settings of sampling, notes to the user."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from tyro.conf import FlagCreatePairsOff, arg

from anchor_jax.errors import AnchorError

if TYPE_CHECKING:
    from anchor_jax.diffusion import Sampling
    from anchor_jax.face.settings import FaceSampling

T = TypeVar("T")
Folder = Annotated[Path, arg(metavar="DIR")]
AnchorFolder = Annotated[Path, arg(metavar="ANCHOR")]
OfAnchor = Annotated[T, arg(help_behavior_hint="(default: the anchor's)")]
OneEachCore = Annotated[
    int | None, arg(metavar="N", help_behavior_hint="(default: one for each core)")
]
Flag = FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Settings of sampling; what is left out is the anchor's own (`anchor-jax inspect` shows it).

    Attributes:
        steps: denoising steps.
        guidance: how strongly the appearance picture counts (classifier-free guidance).
        control_scale: how strongly the poses count.
        crossfade: let each window pass gradually into the next, against flicker.
        no_crossfade: weigh windows equally where they overlap, as published.
    """

    steps: OfAnchor[int | None] = None
    guidance: OfAnchor[float | None] = None
    control_scale: OfAnchor[float | None] = None
    crossfade: Annotated[Flag, arg(help_behavior_hint="(default: the anchor's)")] = False
    no_crossfade: Annotated[Flag, arg(help_behavior_hint="")] = False

    def over(self, recommended: "Sampling", **more: object) -> "Sampling":
        """The anchor's settings with those that are given here, and more."""
        return recommended.updated(
            steps=self.steps,
            guidance=self.guidance,
            control_scale=self.control_scale,
            crossfade=choice(self, "crossfade"),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Settings of the face stage; what is left out is the anchor's own.

    Attributes:
        face_guidance: how strongly the picture of the face counts.
        face_control_scale: how strongly the poses count for the face.
        face_windows: denoise faces in overlapping windows, too, against flicker.
        no_face_windows: denoise the face of each frame alone, as published.
        face_blend: what is pasted: the whole square (published), or the face alone.
        face_size: side of the repainted crop; published models were trained at 256.
        face_fit: how the picture of the face is made square: squash (published), or crop.
    """

    face_guidance: OfAnchor[float | None] = None
    face_control_scale: OfAnchor[float | None] = None
    face_windows: Annotated[Flag, arg(help_behavior_hint="(default: the anchor's)")] = False
    no_face_windows: Annotated[Flag, arg(help_behavior_hint="")] = False
    face_blend: OfAnchor[Literal["square", "face"] | None] = None
    face_size: Annotated[
        int | None, arg(metavar="PX", help_behavior_hint="(default: the anchor's)")
    ] = None
    face_fit: OfAnchor[Literal["squash", "crop"] | None] = None

    def over(self, recommended: "FaceSampling") -> "FaceSampling":
        """The anchor's settings with those that are given here."""
        return recommended.updated(
            guidance=self.face_guidance,
            control_scale=self.face_control_scale,
            windows=choice(self, "face_windows"),
            blend=self.face_blend,
            size=self.face_size,
            fit=self.face_fit,
        )


def choice(options: object, name: str) -> bool | None:
    """True for `--name`, False for `--no-name`, None for neither.

    Raises:
        AnchorError: both.
    """
    yes, no = getattr(options, name), getattr(options, f"no_{name}")
    if yes and no:
        flag = name.replace("_", "-")
        raise AnchorError(f"--{flag} and --no-{flag} contradict each other: give one of them")
    return yes if yes or no else None


def help_text(command: type) -> str:
    """The docstring of a command up to its attributes, which tyro shows as options."""
    text = cleandoc(command.__doc__ or "").partition("\nAttributes:")[0]
    return text.replace("\n\n    ", "\n    ")  # tyro sets off indented lines itself


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `512` or `640x384`."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise AnchorError(f"--size {text}: expected pixels such as 512 or 640x384") from None


def parse_fps(text: str) -> Fraction:
    """Frames per second of `30`, `29.97` or `30000/1001`."""
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise AnchorError(f"--fps {text}: expected a number such as 30, 29.97 or 30000/1001")
    return rate


def check_seed(seed: int | None) -> None:
    """Raise AnchorError for a seed that JAX does not take."""
    if seed is not None and not 0 <= seed < 1 << 32:
        raise AnchorError(f"--seed {seed}: expected 0 to {(1 << 32) - 1}")


def check_count(option: str, count: int | None) -> None:
    """Raise AnchorError unless there is at least one, where a number is given."""
    if count is not None and count < 1:
        raise AnchorError(f"--{option} {count}: expected at least 1")


def need_extra(extra: str, *modules: str) -> None:
    """Raise AnchorError unless the packages of an extra are installed."""
    if any(find_spec(module) is None for module in modules):
        raise AnchorError(f"this needs more packages: pip install 'anchor-jax[{extra}]'")


def use_compile_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that a second run starts at once.

    `JAX_COMPILATION_CACHE_DIR` names another folder, or none when it is empty. A folder that
    cannot be written costs only the time to compile.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(home) / "anchor-jax" / "jax")
    import jax

    try:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        usable = bool(folder) and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    jax.config.update("jax_compilation_cache_dir", folder if usable else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_compilation_cache_max_size", 4 << 30)  # a limit makes jax lock, too


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence the log: Orbax logs the tracebacks of its threads besides raising what went wrong."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def note(message: str) -> None:
    """Say something on standard error that is no error."""
    print(f"anchor-jax: note: {message}", file=sys.stderr)
