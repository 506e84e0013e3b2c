"""Compares runs on a test clip: the scores and the picture of docs/own-video.md.

    python -m benchmarks.own_video 64=runs/seth-150 64=runs/seth-500 128=runs/large-150 \\
        128=runs/large-500 --out docs/own-video.png

The clip is resized to each run's size. The picture has a line for each number of steps, in rising
order, and some moments of the clip at each size, the smallest size first.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from anchor_jax import checkpoint
from anchor_jax.assets import open_assets
from anchor_jax.data.pictures import resize
from anchor_jax.data.preview import moments
from anchor_jax.files import placed
from anchor_jax.shapes import Images
from anchor_jax.studies.clip import StudyClip, Variant, ceiling, generate_and_measure, read_clip
from anchor_jax.studies.sheet import sheet

_MOMENTS = 4  # frames of each video in the picture
_SIDE = 128  # pixels of a frame in the picture
_REGIONS = "body", "face", "hands"
_TRUTH = 0  # the line of the truth, above the line of the fewest steps


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_video", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="SIZE=RUN")
    parser.add_argument("--clip", type=Path, help="folder of a test clip (default: the shipped)")
    parser.add_argument("--frames", type=int, help="number of its frames (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a .png")
    args = parser.parse_args(words)
    folder = open_assets().test if args.clip is None else args.clip
    clip = read_clip(folder, args.frames)
    runs = sorted(map(_parse, args.runs))
    lines: dict[int, dict[int, Images]] = {_TRUTH: {}}
    print("| size | steps | whole frame | face | hands | autoencoder alone |\n" + "|---" * 6 + "|")
    for size, steps, anchor in runs:
        frames, scores = _measure(anchor, small := _resized(clip, size))
        print(f"| {size} | {steps} | {' | '.join(f'{score:.1f}' for score in scores)} |")
        assert small.truth is not None
        lines[_TRUTH][size] = _shown(small.truth)
        lines.setdefault(steps, {})[size] = _shown(frames)
    blank = np.zeros((_MOMENTS, _SIDE, _SIDE, 3), np.uint8)  # a run that was not measured
    rows = [
        (
            f"{steps:,} steps" if steps else "truth",
            np.concatenate([line.get(size, blank) for size in lines[_TRUTH]]),
        )
        for steps, line in sorted(lines.items())
    ]
    with placed(args.out) as partial:
        Image.fromarray(sheet(rows)).save(partial, "png", optimize=True)


def _parse(text: str) -> tuple[int, int, Path]:
    """From SIZE=RUN, return the size, the steps of the run and its ANCHOR."""
    size, run = text.split("=", 1)
    anchor = Path(run) / "anchor"
    steps = checkpoint.load(anchor, networks=()).provenance["training"][-1]["steps"]
    return int(size), steps, anchor


def _measure(path: Path, clip: StudyClip) -> tuple[Images, list[float]]:
    """Generate the clip from an ANCHOR, without a face stage.

    Returns:
        The frames, and the PSNR in dB of the whole frame, the face and the hands, and of the whole
        frame after the autoencoder alone.
    """
    anchor = checkpoint.load(path)
    variant = Variant(anchor.settings, faces=False).resolved()
    frames, scores = generate_and_measure(anchor, clip, variant)
    best = ceiling(anchor, clip, variant)["body/psnr"]
    return frames, [*(scores[f"{region}/psnr"] for region in _REGIONS), best]


def _resized(clip: StudyClip, side: int) -> StudyClip:
    """Resize poses, truth and face region to squares. The landmarks are left out."""

    def each(images: Images) -> Images:
        return np.stack([resize(image, (side, side)) for image in images])

    assert clip.truth is not None and clip.masks is not None
    masks = each(clip.masks.astype(np.uint8) * 255) > 127
    return replace(clip, poses=each(clip.poses), truth=each(clip.truth), masks=masks, track=None)


def _shown(frames: Images) -> Images:
    """Choose some moments of a video, and enlarge them without smoothing."""
    chosen = [Image.fromarray(frames[number]) for number in moments(len(frames), _MOMENTS)]
    size = _SIDE, _SIDE
    return np.stack([np.asarray(x.resize(size, Image.Resampling.NEAREST)) for x in chosen])


if __name__ == "__main__":
    main()
