"""Measures how far a video in bfloat16 is from the same video in float32, frame by frame.

    python -m benchmarks.precision --out docs/benchmarks/precision.json

Generates the test clip in both types, with the same noise, the anchor's settings and repainted
faces. Prints the PSNR between the two for each frame, and the PSNR of each to the ground truth.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from anchor_jax import checkpoint
from anchor_jax.assets import open_assets
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.files import write_text
from anchor_jax.progress import bars
from anchor_jax.studies.clip import Variant, generate_clip, read_clip
from anchor_jax.versions import versions
from benchmarks.arguments import clip_parser

_TYPES = ("float32", "bfloat16")


def compare(anchor: Path, clip_folder: Path, frames: int | None, steps: int | None) -> dict:
    """Generate a clip in both types and compare the frames.

    Args:
        anchor: the ANCHOR.
        clip_folder: folder of the clip, see `studies.clip.read_clip`.
        frames: number of frames from the start; None: all.
        steps: denoising steps; None: the anchor's.

    Returns:
        JSON values: "psnr" (dB, one for each frame), "max" (grey levels, likewise), the mean PSNR
        of each type to the ground truth, the steps, the device and the versions.

    Raises:
        AnchorError: bad input.
    """
    clip, header = read_clip(clip_folder, frames), checkpoint.load(anchor, networks=())
    videos = {}
    for dtype in _TYPES:
        variant = Variant(header.settings).with_sampling(steps=steps, dtype=dtype)
        loaded = checkpoint.load(anchor, kernels=dtype)
        videos[dtype] = generate_clip(loaded, clip, variant, bars())
    full, half = (videos[dtype] for dtype in _TYPES)
    truth = clip.truth
    assert truth is not None, "read_clip reads it"
    return {
        "psnr": [round(float(x), 2) for x in psnr(half, full)],
        "max": np.abs(half.astype(int) - full).max((1, 2, 3)).tolist(),
        "to truth": {dtype: float(psnr(videos[dtype], truth).mean()) for dtype in _TYPES},
        "steps": header.settings.sampling.updated(steps=steps).steps,
        "device": jax.local_devices()[0].device_kind,
        "versions": versions(),
    }


def main(words: list[str] | None = None) -> int:
    parser = clip_parser("precision", __doc__)
    parser.add_argument("--frames", type=int, help="use only the clip's first frames (all)")
    parser.add_argument("--steps", type=int, help="denoising steps (the anchor's)")
    parser.add_argument("--out", type=Path, help="file for the numbers, JSON")
    args = parser.parse_args(words)
    try:
        args.clip = args.clip or open_assets().test
        record = compare(args.anchor, args.clip, args.frames, args.steps)
        if args.out is not None:
            write_text(args.out, json.dumps(record, indent=1) + "\n")
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    values = np.array(record["psnr"])
    print(f"bfloat16 to float32, {len(values)} frames on {record['device']}:")
    print(f"PSNR {values.min():.1f} to {values.max():.1f} dB, mean {values.mean():.1f}")
    print(f"largest difference {max(record['max'])} grey levels")
    for dtype, value in record["to truth"].items():
        print(f"{dtype} to the ground truth: {value:.3f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
