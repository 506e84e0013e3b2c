"""Implement `anchor-jax evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, arg

from anchor_jax.cli.options import AnchorFolder, Folder, need_extra, use_compile_cache
from anchor_jax.errors import note

_OfFrames = Literal["psnr", "ssim", "l1", "lpips", "stlpips", "sharpness", "colour"]
_OfChanges = Literal["flicker", "temporal_error", "flow_error"]
_OfPeople = Literal["lmd_body", "lmd_face", "lmd_hands", "jitter", "identity"]
_OfSets = Literal["fid", "kid", "clip_frechet", "clip_kernel", "fvd"]
_Metric = _OfFrames | _OfChanges | _OfPeople | _OfSets
_Videos = Annotated[tuple[Path, ...], arg(metavar="DIR|VIDEO...")]
_Landmarks = Annotated[
    tuple[Path, ...] | None,
    arg(metavar="DIR|JSON...", help_behavior_hint="(default: found by MediaPipe's models)"),
]


@tyro.conf.configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare generated videos, of any method, with true ones: numbers, curves, worst frames.

        anchor-jax evaluate --generated talk.mp4 --truth real.mp4 --out scores
        anchor-jax evaluate --generated a.mp4 b.mp4 --truth real/a.mp4 real/b.mp4 --out scores

    Left out, all metrics are computed whose weight files are there; a note says which files are
    missing and how to get them. An evaluation that was interrupted goes on when the same command is
    given again. FVDs of other clips, or of another number of clips, are not comparable.

    Attributes:
        generated: videos or folders of images.
        truth: as many, in the same order; equal number of frames, rate and size.
        out: folder for evaluation.json, evaluation.md and report.html.
        metrics: psnr, ssim, l1, lpips, stlpips, sharpness, colour; flicker, temporal_error,
            flow_error; lmd_body, lmd_face, lmd_hands, jitter, identity; fid, kid, clip_frechet,
            clip_kernel, fvd.
        poses: as many pose images of `render`, or conditions folders: where the landmarks of body,
            face and hands should be, for lmd_body, lmd_face and lmd_hands.
        generated_landmarks: as many folders of OpenPose's JSON files, or files of COCO-WholeBody,
            in place of landmarks that are found in the generated frames.
        truth_landmarks: the same for the true frames.
        anchor: an ANCHOR, or `shipped`, whose image encoder clip_frechet and clip_kernel use. These
            are no FID, and only comparable with the same encoder.
        clip: frames of a row of the table, and of what the bootstrap draws; the paper has 300.
        fvd_length: frames of a clip of FVD.
        fvd_stride: frames from one clip of FVD to the next one.
        fvd_resize: how FVD makes frames of 224x224: as published, without antialiasing, or with it.
        resize: resize generated frames of another size to that of the truth (Lanczos).
        weights: folder with the weight files of metrics.
        restart: begin anew instead of going on with an interrupted evaluation.
    """

    generated: _Videos
    truth: _Videos
    out: Folder
    metrics: Annotated[
        tuple[_Metric, ...] | None,
        arg(metavar="METRIC...", help_behavior_hint="(default: all whose weights are there)"),
    ] = None
    poses: Annotated[
        tuple[Path, ...] | None,
        arg(metavar="DIR|VIDEO...", help_behavior_hint="(default: the truth's landmarks)"),
    ] = None
    generated_landmarks: _Landmarks = None
    truth_landmarks: _Landmarks = None
    anchor: Annotated[
        AnchorFolder | None, arg(metavar="ANCHOR", help_behavior_hint="(default: none)")
    ] = None
    clip: int = 300
    fvd_length: int = 16
    fvd_stride: int = 16
    fvd_resize: Literal["published", "antialiased"] = "published"
    resize: bool = False
    weights: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: ~/.cache/anchor-jax/metrics)")
    ] = None
    restart: bool = False

    def run(self) -> None:
        """Evaluate, and write the folder."""
        need_extra("evaluate", "matplotlib")
        use_compile_cache()
        from anchor_jax.assets import find_anchor
        from anchor_jax.checkpoint import load
        from anchor_jax.evaluation.fvd import Clips
        from anchor_jax.files import check_results
        from anchor_jax.generation.unfinished import open_unfinished
        from anchor_jax.progress import bars
        from anchor_jax.studies.evaluate import Comparison
        from anchor_jax.studies.evaluation_report import FILES, table, write_evaluation
        from anchor_jax.studies.video_pairs import stamp

        check_results(self.out, FILES)
        encoder = None if self.anchor is None else load(self.anchor, ["image_encoder"])
        comparison = Comparison(
            self.generated,
            self.truth,
            self.metrics,
            poses=self.poses,
            landmarks=(self.generated_landmarks, self.truth_landmarks),
            anchor=encoder,
            clips=Clips(self.fvd_length, self.fvd_stride, self.fvd_resize),
            clip=self.clip,
            resized=self.resize,
            weights=self.weights,
        )
        for line in comparison.notes:
            note(line)
        facts = comparison.facts | {"inputs": comparison.stamps}
        if self.anchor is not None:
            facts["anchor"] = [str(self.anchor), stamp(find_anchor(self.anchor))]
        with open_unfinished(self.out, facts, self.restart) as unfinished:
            if unfinished.count:
                note(f"goes on after the {unfinished.count} frames of an earlier run")
            try:
                result = comparison.run(bars(), unfinished)
            except KeyboardInterrupt:
                if not unfinished.kept:
                    raise
                words = f"the same command goes on after {unfinished.count} frames"
                raise KeyboardInterrupt(words) from None
            write_evaluation(self.out, result)
        for line in result.notes[len(comparison.notes) :]:
            note(line)
        print(table(result))
