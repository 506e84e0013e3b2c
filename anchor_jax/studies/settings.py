"""Compare guidances, control scales and numbers of steps on a few frames, to find the settings of
an anchor."""

from dataclasses import dataclass
from pathlib import Path

from anchor_jax import checkpoint
from anchor_jax.assets import is_shipped
from anchor_jax.checkpoint import Anchor
from anchor_jax.errors import AnchorError, require
from anchor_jax.files import check_parent
from anchor_jax.generation.pipeline import count_tasks, networks_needed
from anchor_jax.progress import Progress, silent, within
from anchor_jax.shapes import Size
from anchor_jax.studies.clip import (
    StudyClip,
    Variant,
    check_clip,
    face_of,
    generate_clip,
    measure,
    read_clip,
)
from anchor_jax.studies.run import relative
from anchor_jax.studies.settings_report import Choice, Report, Tried, table, write_report


@dataclass(frozen=True)
class Part:
    """The frames of a clip that are generated: consecutive ones from its middle.

    Attributes:
        folder: folder of the clip, see `read_clip`; without truth there are no scores.
        count: number of frames.
        size: width and height to resize pose images and truth to; None: their own.
    """

    folder: Path
    count: int = 8
    size: Size | None = None

    def read(self) -> tuple[StudyClip, int]:
        """Return the clip of these frames, and the index of the first of them.

        Raises:
            AnchorError: as `read_clip`, or there are fewer frames.
        """
        clip = read_clip(self.folder, need_truth=False, size=self.size)
        if not 1 <= self.count <= len(clip):
            raise AnchorError(
                f"frames is {self.count}: expected 1 to {len(clip)}, as many as {self.folder} has"
            )
        first = (len(clip) - self.count) // 2
        return clip[first : first + self.count], first


@dataclass(frozen=True)
class Grid:
    """The values that are combined.

    Attributes:
        guidances: scales of classifier-free guidance.
        control_scales: weights of the poses.
        step_counts: numbers of denoising steps.

    Raises:
        AnchorError: there is no value of one of them.
    """

    guidances: tuple[float, ...]
    control_scales: tuple[float, ...]
    step_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        require(
            (self.guidances, "there are no guidances: expected at least one"),
            (self.control_scales, "there are no control scales: expected at least one"),
            (self.step_counts, "there are no step counts: expected at least one"),
        )

    def choices(self, present: Choice) -> list[Choice]:
        """List all combinations, each once, after the present settings of the anchor."""
        combined = [
            Choice(guidance, scale, steps)
            for guidance in self.guidances
            for scale in self.control_scales
            for steps in self.step_counts
        ]
        return list(dict.fromkeys([present, *combined]))


def study_settings(
    anchor: Path,
    part: Part,
    grid: Grid,
    variant: Variant,
    out: Path,
    progress: Progress = silent,
) -> list[Tried]:
    """Generate some frames with each combination, and write `settings.json`, `settings.md`,
    `settings.png` and `settings.html`. They are written again after each combination.

    The frames are consecutive, from the middle of the clip, because frames of a window attend to
    each other, and the temporal error needs neighbours. All combinations take the same noise and
    share the compiled programs, of which there are two: with guidance, and without at 1.

    Args:
        anchor: the ANCHOR.
        part: the frames.
        grid: what is combined.
        variant: the anchor's settings, and whether faces are repainted.
        out: the folder of the results.
        progress: shows how many windows are done.

    Returns:
        What came out, the present settings first.

    Raises:
        AnchorError: bad input, reported before the first combination; sampling failed.
    """
    present = Choice.of(variant)
    choices = grid.choices(present)
    clip, first = part.read()
    variant = variant.resolved()
    header = checkpoint.load(anchor, networks=())
    for choice in choices:
        check_clip(header, clip, choice.over(variant))
    check_parent(out / "settings.json")
    face = face_of(header, clip, variant)
    dtype = variant.settings.sampling.dtype
    loaded = checkpoint.load(anchor, networks_needed(face is not None), kernels=dtype)
    report = Report(
        anchor=relative(anchor),
        clip=relative(part.folder),
        first=first,
        present=present,
        variant=variant,
        poses=clip.poses,
        truth=clip.truth,
        storable=not is_shipped(anchor),
    )
    total = sum(count_tasks(choice.over(variant).settings, len(clip), face) for choice in choices)
    written = 0
    try:
        with progress("generating", total, "window") as advance:
            for choice in choices:
                report.tried.append(_try(loaded, clip, choice, variant, within(advance)))
                write_report(out, report)
                written += 1
    except KeyboardInterrupt:
        if not written:
            raise
        done = f"{written} of {len(choices)} combinations"
        raise KeyboardInterrupt(f"{out / 'settings.html'} shows {done}") from None
    print(table(report))
    print(f"{out / 'settings.html'}: look at the pictures, and choose")
    return report.tried


def _try(
    anchor: Anchor, clip: StudyClip, choice: Choice, variant: Variant, progress: Progress
) -> Tried:
    """Generate the clip with a combination, and measure it.

    Raises:
        AnchorError: naming the combination.
    """
    try:
        frames = generate_clip(anchor, clip, choice.over(variant), progress)
    except AnchorError as error:
        raise AnchorError(f"{choice.options}: {error}") from error
    return Tried(choice, frames[len(frames) // 2], measure(frames, clip))
