"""Implement `anchor-jax bench`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from anchor_jax.cli.options import (
    AnchorFolder,
    AnchorsInt,
    Folder,
    SamplingOptions,
    need_extra,
    parse_size,
    use_compile_cache,
)
from anchor_jax.errors import AnchorError

if TYPE_CHECKING:
    from anchor_jax.studies.clip import Variant
    from anchor_jax.studies.run import Study

_ShippedClip = Annotated[
    Path | None, arg(metavar="DIR", help_behavior_hint="(default: the shipped test clip)")
]


@dataclass(frozen=True, kw_only=True)
class _SeededStudy:
    """Options of studies that generate a clip from several seeds.

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
        out: folder for the results.
        clip: folder with poses/, truth/, appearance.png and, for faces, poses-conditions/.
        seeds: seeds of the noise; confidence intervals are over these.
        frames: number of frames from the start of the clip.
    """

    anchor: Positional[AnchorFolder] = Path("shipped")
    out: Folder
    clip: _ShippedClip = None
    seeds: tuple[int, ...] = (0, 1, 2)
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    sampling: OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)

    def _open(self) -> "tuple[Study, Variant]":
        """Return what all rows share, and the anchor's settings, changed by the options."""
        need_extra("train", "matplotlib")
        from anchor_jax import checkpoint
        from anchor_jax.assets import open_assets
        from anchor_jax.studies.clip import Variant
        from anchor_jax.studies.run import Study

        clip = self.clip or open_assets().test
        settings = checkpoint.load(self.anchor, networks=()).settings
        settings = replace(settings, sampling=self.sampling.over(settings.sampling))
        return Study(clip, self.frames, self.seeds), Variant(settings)


@dataclass(frozen=True, kw_only=True)
class BenchWindows(_SeededStudy):
    """Compare windows and overlaps by quality, time and memory (table 2 of the paper).

        anchor-jax bench windows seth --clip test/ --out windows/

    Writes windows.json, windows.md (a table), windows.svg (a plot) and windows.png (frames of each
    pair). Settings that you leave out come from the anchor.

    Attributes:
        pairs: windows and overlaps in frames.
        face: repaint faces, if anchor and clip have them.
    """

    pairs: tuple[str, ...] = ("4/1", "8/2", "16/4", "32/8", "16/0", "16/8", "16/12")
    face: bool = True

    def run(self) -> None:
        """Run the study."""
        study, variant = self._open()
        from anchor_jax.studies.windows import study_windows

        variant = replace(variant, faces=self.face)
        study_windows(self.anchor, study, self.pairs, variant, self.out)


@dataclass(frozen=True, kw_only=True)
class BenchFaces(_SeededStudy):
    """Compare faces that are not repainted, repainted frame by frame, and in overlapping windows.

        anchor-jax bench faces seth --clip test/ --out faces/

    Writes faces.json, faces.md (a table), faces.svg (a plot) and faces.png (frames of each way).
    Settings that you leave out come from the anchor.
    """

    def run(self) -> None:
        """Run the study."""
        study, variant = self._open()
        from anchor_jax.studies.faces import study_faces

        study_faces(self.anchor, study, variant, self.out)


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Find the guidance, the control scale and the number of steps of an anchor.

        anchor-jax bench settings seth --clip test/ --out settings/

    Generates some frames of the clip with each combination; the other settings are the anchor's.
    Writes settings.html, a page to choose from and with the commands that store a choice, and its
    parts: settings.png, a frame of each combination; settings.md, a table of scores; and
    settings.json. Without truth in the clip there are no scores.

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
        out: folder for the results.
        clip: folder of this anchor's person with poses/, appearance.png, perhaps truth/ and, for
            faces, poses-conditions/. Only `shipped` may leave it out.
        guidances: scales of classifier-free guidance; all but 1 take twice the time.
        control_scales: weights of the poses.
        step_counts: numbers of denoising steps.
        frames: number of consecutive frames, in the middle of the clip.
        size: resize poses and truth to a square or to WxH, as generate --size does.
        seed: seed of the noise.
        face: repaint faces, if anchor and clip have them.
    """

    anchor: Positional[AnchorFolder]
    out: Folder
    clip: _ShippedClip = None
    guidances: tuple[float, ...] = (1.0, 2.5, 5.0, 7.5, 10.0)
    control_scales: tuple[float, ...] = (1.0, 2.0)
    step_counts: tuple[int, ...] = (10, 20)
    frames: int = 8
    size: Annotated[
        str | None, arg(metavar="PX|WxH", help_behavior_hint="(default: the size of the poses)")
    ] = None
    seed: AnchorsInt = None
    face: bool = True

    def run(self) -> None:
        """Run the study."""
        use_compile_cache()
        from anchor_jax import checkpoint
        from anchor_jax.assets import is_shipped, open_assets
        from anchor_jax.data.pictures import round_size
        from anchor_jax.progress import bars
        from anchor_jax.studies.clip import Variant
        from anchor_jax.studies.settings import Grid, Part, study_settings

        settings = checkpoint.load(self.anchor, networks=()).settings
        clip = self.clip
        if clip is None:
            if not is_shipped(self.anchor):
                raise AnchorError(
                    "--clip is missing: give a folder with poses/ and appearance.png of the"
                    " anchor's person, and truth/ for scores"
                )
            clip = open_assets().test
        grid = Grid(self.guidances, self.control_scales, self.step_counts)
        variant = Variant(settings, faces=self.face).with_sampling(seed=self.seed)
        size = None if self.size is None else round_size(parse_size(self.size))
        part = Part(clip, self.frames, size)
        study_settings(self.anchor, part, grid, variant, self.out, bars())


@dataclass(frozen=True)
class Bench:
    """Measure an anchor: find its settings, compare windows and overlaps, or ways to repaint faces.

        anchor-jax bench settings seth --clip test/ --out settings/
        anchor-jax bench windows seth --clip test/ --out windows/
        anchor-jax bench faces seth --clip test/ --out faces/

    Attributes:
        study: what varies; each study has its own --help.
    """

    study: OmitSubcommandPrefixes[
        OmitArgPrefixes[
            Annotated[BenchSettings, subcommand("settings")]
            | Annotated[BenchWindows, subcommand("windows")]
            | Annotated[BenchFaces, subcommand("faces")]
        ]
    ]

    def run(self) -> None:
        """Run the study."""
        self.study.run()
