"""Implement `anchor-jax bench`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from anchor_jax.cli.options import Folder, SamplingOptions, need_extra


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure an anchor: compare windows and overlaps by quality, time and memory.

        anchor-jax bench windows seth --clip test/ --out windows/

    Writes windows.json, windows.md (a table), windows.svg (a plot) and windows.png (frames of each
    pair). Without an ANCHOR it measures the shipped one. Settings that you leave out come from the
    anchor: `anchor-jax inspect` shows them.

    Attributes:
        study: what varies: "windows" (table 2 of the paper, and further pairs).
        anchor: the anchor to generate from.
        out: folder for the results.
        clip: folder with poses/, truth/, appearance.png and, for faces, poses-conditions/.
        pairs: windows and overlaps in frames.
        seeds: seeds of the noise; confidence intervals are over these.
        frames: number of frames from the start of the clip.
        face: repaint faces, if anchor and clip have them.
    """

    study: Positional[Literal["windows"]]
    anchor: Positional[
        Annotated[Path | None, arg(metavar="ANCHOR", help_behavior_hint="(default: shipped)")]
    ] = None
    out: Folder
    clip: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the shipped test clip)")
    ] = None
    pairs: tuple[str, ...] = ("4/1", "8/2", "16/4", "32/8", "16/0", "16/8", "16/12")
    seeds: tuple[int, ...] = (0, 1, 2)
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    sampling: OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    face: bool = True

    def run(self) -> None:
        """Run the study."""
        need_extra("train", "matplotlib")
        from anchor_jax import checkpoint
        from anchor_jax.assets import or_shipped
        from anchor_jax.studies.clip import Variant
        from anchor_jax.studies.run import Study
        from anchor_jax.studies.windows import study_windows

        anchor, clip = or_shipped(self.anchor, self.clip)
        settings = checkpoint.load(anchor, networks=()).settings
        settings = replace(settings, sampling=self.sampling.over(settings.sampling))
        study = Study(clip, self.frames, self.seeds)
        study_windows(anchor, study, self.pairs, Variant(settings, faces=self.face), self.out)
