"""Implement `anchor-jax bench`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from anchor_jax.cli.options import AnchorFolder, Folder, SamplingOptions, need_extra


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure an anchor: compare windows and overlaps, or ways to repaint faces, by quality, time
    and memory.

        anchor-jax bench windows seth --clip test/ --out windows/
        anchor-jax bench faces seth --clip test/ --out faces/

    Writes windows.json, windows.md (a table), windows.svg (a plot) and windows.png (frames of each
    pair), or faces.json and so on. Settings that you leave out come from the anchor: `anchor-jax
    inspect` shows them.

    Attributes:
        study: what varies: "windows" (table 2 of the paper, and further pairs), or "faces" (not
            repainted, frame by frame, in overlapping windows).
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
        out: folder for the results.
        clip: folder with poses/, truth/, appearance.png and, for faces, poses-conditions/.
        pairs: windows and overlaps in frames, for "windows".
        seeds: seeds of the noise; confidence intervals are over these.
        frames: number of frames from the start of the clip.
        face: repaint faces, if anchor and clip have them.
    """

    study: Positional[Literal["windows", "faces"]]
    anchor: Positional[AnchorFolder] = Path("shipped")
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
        from anchor_jax.assets import open_assets
        from anchor_jax.studies.clip import Variant
        from anchor_jax.studies.faces import study_faces
        from anchor_jax.studies.run import Study
        from anchor_jax.studies.windows import study_windows

        clip = self.clip or open_assets().test
        settings = checkpoint.load(self.anchor, networks=()).settings
        settings = replace(settings, sampling=self.sampling.over(settings.sampling))
        study = Study(clip, self.frames, self.seeds)
        variant = Variant(settings, faces=self.face)
        if self.study == "faces":
            study_faces(self.anchor, study, variant, self.out)
        else:
            study_windows(self.anchor, study, self.pairs, variant, self.out)
