"""Implement `anchor-jax demo`."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from anchor_jax.cli.options import (
    AnchorsInt,
    Folder,
    check_count,
    check_seed,
    need_extra,
    use_compile_cache,
    without_logs,
)
from anchor_jax.cli.train import MODULES
from anchor_jax.errors import AnchorError

if TYPE_CHECKING:
    from anchor_jax.assets import Assets

_REGIONS = "body", "face", "hands"


@tyro.conf.configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the whole system on a shipped anchor, which shows a synthetic person.

        anchor-jax demo

    Let the person follow a motion file (needs the extra `render`):

        anchor-jax demo --motion talk.npy

    Finetune the pretrained anchor on that person in about ten minutes (needs the extra `train`):

        anchor-jax demo --finetune

    Attributes:
        out: folder for video.mp4, sheet.png, metrics.json and report.html.
        motion: a motion file to follow, in any format that `anchor-jax render` reads.
        finetune: finetune an anchor in OUT-finetune and show it; a stopped run continues.
        finetune_steps: optimizer steps.
        data: data set to finetune on.
        frames: number of frames to generate.
        fast: take shortcuts that hardly cost quality, see docs/shortcuts.md.
        steps: denoising steps.
        seed: seed of the noise.
        assets: folder with other assets, from `python -m benchmarks.synthetic.assets`.
    """

    out: Folder = Path("demo")
    motion: Annotated[
        Path | None,
        arg(metavar="MOTION", help_behavior_hint="(default: poses of the test clip)"),
    ] = None
    finetune: bool = False
    finetune_steps: int = 1200
    data: Annotated[
        Path | None, arg(metavar="DATASET", help_behavior_hint="(default: the shipped one)")
    ] = None
    frames: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: as many as the test clip has)")
    ] = None
    fast: bool = False
    steps: AnchorsInt = None
    seed: AnchorsInt = None
    assets: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the shipped ones)")
    ] = None

    def run(self) -> None:
        """Finetune if asked to, generate, and write the demo's folder."""
        check_seed(self.seed)
        check_count("frames", self.frames)
        if self.data is not None and not self.finetune:
            raise AnchorError(f"--data {self.data}: only --finetune uses a data set")
        use_compile_cache()
        from anchor_jax.assets import open_assets
        from anchor_jax.demo.demo import check_place, read_inputs, show

        check_place(self.out)
        shipped = open_assets(self.assets)
        clip, variant = read_inputs(shipped, self.motion, self.fast, self.steps, self.seed)
        anchor, before, grids = shipped.anchor, None, None
        if self.finetune:
            before, anchor = self._finetune(shipped)
            grids = anchor.with_name("grids")
        scores = show(
            shipped,
            clip,
            self.out,
            anchor=anchor,
            before=before,
            motion=self.motion,
            count=self.frames,
            variant=variant,
            grids=grids,
        )
        psnr = [f"{name} {scores[f'{name}/psnr']:.1f} dB" for name in _REGIONS if scores]
        report = self.out / "report.html"
        print(f"{report}: complete" + (f"; PSNR of {', '.join(psnr)}" if psnr else ""))

    def _finetune(self, assets: "Assets") -> tuple[Path, Path]:
        """Finetune in OUT-finetune, and return the folders of the ANCHOR before and after."""
        need_extra("train", *MODULES)
        from anchor_jax.data import dataset as datasets
        from anchor_jax.demo.demo import finetune, prepare_start, prepare_training
        from anchor_jax.progress import bars

        folder = self.out.with_name(f"{self.out.name}-finetune")
        data = self.data or prepare_training(assets, folder / "data", bars())
        datasets.load(data)
        folder.mkdir(parents=True, exist_ok=True)
        # The shipped face part is of the shipped person.
        start = prepare_start(assets, folder / "start") if self.data is None else assets.pretrained
        program = import_module("anchor_jax.train.finetune")
        with without_logs():
            run = folder / "run"
            return start, finetune(start, data, run, self.finetune_steps, program.main)
