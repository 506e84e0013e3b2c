"""Share options between commands: types, parsing, sampling settings, and notes to the user."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from anchor_jax.errors import LARGEST_SEED, AnchorError
from anchor_jax.files import cache_folder

if TYPE_CHECKING:
    from anchor_jax.diffusion import Sampling
    from anchor_jax.face.settings import FaceSampling

Folder = Annotated[Path, arg(metavar="DIR")]
AnchorFolder = Annotated[Path, arg(metavar="ANCHOR")]
_HINT = "(default: the anchor's)"
AnchorsInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint=_HINT)]
AnchorsFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_HINT)]
OneEachCore = Annotated[
    int | None, arg(metavar="N", help_behavior_hint="(default: one for each core)")
]
_Flag = FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class StoredOptions:
    """Settings of sampling that an anchor stores; those left out come from the anchor (`anchor-jax
    inspect` shows them).

    Attributes:
        fast: take shortcuts that hardly cost quality (docs/shortcuts.md): UniPC, trailing timesteps
            and a quarter of the steps. Other options change what it sets.
        steps: denoising steps; with dpm++ or unipc fewer are enough than with ddim.
        solver: solver of the diffusion equation; ddim is published.
        spacing: timesteps of the steps; trailing, for few steps, starts at the last of training.
        guidance: scale of classifier-free guidance: the weight of the appearance picture.
        guidance_interval: apply guidance only where the noise level, the timestep divided by that
            of pure noise, is between these two numbers from 0 to 1. Elsewhere half of the work is
            left out.
        control_scale: weight of the poses.
        reuse: features that steps take from an earlier step instead of computing them
            (docs/shortcuts.md); worth it with many steps.
        reuse_every: compute these features at each so many-th step.
        crossfade: fade from one window into the next where they overlap, against flicker.
        no_crossfade: weight windows equally where they overlap, as published.
    """

    fast: _Flag = False
    steps: AnchorsInt = None
    solver: Annotated[
        Literal["ddim", "dpm++", "unipc"] | None,
        arg(metavar="{ddim,dpm++,unipc}", help_behavior_hint=_HINT),
    ] = None
    spacing: Annotated[
        Literal["leading", "trailing"] | None,
        arg(metavar="{leading,trailing}", help_behavior_hint=_HINT),
    ] = None
    guidance: AnchorsFloat = None
    guidance_interval: Annotated[
        tuple[float, float] | None, arg(metavar="LOW HIGH", help_behavior_hint=_HINT)
    ] = None
    control_scale: AnchorsFloat = None
    reuse: Annotated[
        Literal["none", "deep", "encoder", "attention", "control", "control+attention"] | None,
        arg(metavar="FEATURES", help_behavior_hint=_HINT),
    ] = None
    reuse_every: AnchorsInt = None
    crossfade: Annotated[_Flag, arg(help_behavior_hint=_HINT)] = False
    no_crossfade: Annotated[_Flag, arg(help_behavior_hint="")] = False

    def over(self, recommended: "Sampling", **more: object) -> "Sampling":
        """Return the recommended settings, changed by these options and by `more`."""
        return recommended.updated(
            fast=self.fast,
            steps=self.steps,
            solver=self.solver,
            spacing=self.spacing,
            guidance=self.guidance,
            guidance_interval=self.guidance_interval,
            control_scale=self.control_scale,
            reuse=self.reuse,
            reuse_every=self.reuse_every,
            crossfade=_choose_flag(self, "crossfade"),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(StoredOptions):
    """Settings of sampling; those left out come from the anchor (`anchor-jax inspect` shows them).

    Attributes:
        dtype: type that the networks compute in; auto is bfloat16 on GPUs, float32 elsewhere.
        tf32: compute in float32, and let GPUs round the factors of products to TF32.
        devices: number of devices that share the windows.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tf32: _Flag = False
    devices: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None

    def over(self, recommended: "Sampling", **more: object) -> "Sampling":
        """Return the recommended settings, changed by these options and by `more`."""
        machine = {"dtype": self.dtype, "tf32": self.tf32, "devices": self.devices}
        return super().over(recommended, **machine, **more)


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Settings of repainting faces; those left out come from the anchor.

    Attributes:
        face_guidance: scale of guidance for the face: the weight of its picture.
        face_control_scale: weight of the poses for the face.
        face_windows: also denoise faces in overlapping windows, against flicker.
        no_face_windows: denoise the face of each frame alone, as published.
        face_blend: paste the whole square (published), or only the face.
        face_size: side of the repainted crop; published models were trained at 256.
        face_fit: how to make the picture of the face square: squash (published), or crop.
    """

    face_guidance: AnchorsFloat = None
    face_control_scale: AnchorsFloat = None
    face_windows: Annotated[_Flag, arg(help_behavior_hint=_HINT)] = False
    no_face_windows: Annotated[_Flag, arg(help_behavior_hint="")] = False
    face_blend: Annotated[
        Literal["square", "face"] | None, arg(metavar="{square,face}", help_behavior_hint=_HINT)
    ] = None
    face_size: Annotated[int | None, arg(metavar="PX", help_behavior_hint=_HINT)] = None
    face_fit: Annotated[
        Literal["squash", "crop"] | None, arg(metavar="{squash,crop}", help_behavior_hint=_HINT)
    ] = None

    def over(self, recommended: "FaceSampling") -> "FaceSampling":
        """Return the recommended settings, changed by these options."""
        return recommended.updated(
            guidance=self.face_guidance,
            control_scale=self.face_control_scale,
            windows=_choose_flag(self, "face_windows"),
            blend=self.face_blend,
            size=self.face_size,
            fit=self.face_fit,
        )


def _choose_flag(options: object, name: str) -> bool | None:
    """Return True for `--name`, False for `--no-name`, None for neither.

    Raises:
        AnchorError: both are given.
    """
    yes, no = getattr(options, name), getattr(options, f"no_{name}")
    if yes and no:
        flag = name.replace("_", "-")
        raise AnchorError(f"--{flag} and --no-{flag} contradict each other: use one of them")
    return yes if yes or no else None


def help_text(command: type) -> str:
    """Return the docstring of a command up to its attributes, which tyro shows as options."""
    text = cleandoc(command.__doc__ or "").partition("\nAttributes:")[0]
    return text.replace("\n\n    ", "\n    ")  # tyro separates indented lines itself


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size in pixels to width and height.

    >>> parse_size("512"), parse_size("640x384")
    ((512, 512), (640, 384))

    Raises:
        AnchorError: the text is not a size.
    """
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise AnchorError(f"--size {text}: expected pixels such as 512 or 640x384") from None


def parse_fps(text: str) -> Fraction:
    """Parse frames per second.

    >>> parse_fps("30"), parse_fps("29.97"), parse_fps("30000/1001")
    (Fraction(30, 1), Fraction(2997, 100), Fraction(30000, 1001))

    Raises:
        AnchorError: the text is not a number above 0 and up to 1000.
    """
    try:
        rate = Fraction(text).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise AnchorError(f"--fps {text}: expected a number such as 30, 29.97 or 30000/1001")
    return rate


def check_seed(seed: int | None) -> None:
    """Raise AnchorError for a seed outside 0 to 2^32 - 1, which JAX does not accept."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise AnchorError(f"--seed {seed}: expected 0 to {LARGEST_SEED}")


def check_count(option: str, count: int | None) -> None:
    """Raise AnchorError for a count below 1; None is accepted."""
    if count is not None and count < 1:
        raise AnchorError(f"--{option} {count}: expected at least 1")


def need_extra(extra: str, *modules: str) -> None:
    """Raise AnchorError unless `modules`, which come with an extra, are installed."""
    if any(find_spec(module) is None for module in modules):
        raise AnchorError(f"this needs more packages: pip install 'anchor-jax[{extra}]'")


def use_compile_cache() -> None:
    """Cache compiled programs in the user's cache folder, so that a second run starts faster; and
    show when a program compiles.

    `JAX_COMPILATION_CACHE_DIR` names another folder; if it is empty, nothing is cached. Without a
    writable folder programs are compiled each time.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        folder = str(cache_folder() / "jax")
    import jax

    from anchor_jax.compiling import announce

    announce()
    try:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            _remove_incomplete(Path(folder))
        usable = bool(folder) and os.access(folder, os.W_OK)
    except OSError:
        usable = False
    jax.config.update("jax_compilation_cache_dir", folder if usable else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # With a limit JAX also locks the folder.
    jax.config.update("jax_compilation_cache_max_size", 4 << 30)


def _remove_incomplete(folder: Path) -> None:
    """Remove what killed processes left: a program without the time of its last use, which is
    written after it. While there is one, JAX warns at each new program and keeps none of them."""
    from filelock import FileLock, Timeout

    with suppress(Timeout), FileLock(folder / ".lockfile", timeout=10):  # jax's own lock
        names = set(os.listdir(folder))
        for name in names:
            if name.endswith("-cache") and f"{name.removesuffix('-cache')}-atime" not in names:
                (folder / name).unlink()


@contextmanager
def without_logs() -> Iterator[None]:
    """Disable logging, since Orbax logs tracebacks of its threads besides raising errors."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
