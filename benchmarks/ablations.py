"""Reproduces table 1 of the paper: the effect of each part of the method.

    python -m benchmarks.ablations --setting-one ANCHOR --setting-two ANCHOR \\
        --perturbed ANCHOR --out DIR

Generates the test clip with the full method and with one part left out at a time. Some rows need an
anchor that was trained for them; a row whose anchor is not given is left out. Setting I is trained
on the target person alone, setting II on the target together with other persons. Both train for as
many steps as the two stages of the full method together. The perturbed anchor is trained on poses
with noise. Writes `ablations.json`, `.md`, `.svg` and `.png`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from anchor_jax import checkpoint
from anchor_jax.assets import open_assets
from anchor_jax.errors import AnchorError
from anchor_jax.studies.clip import Variant
from anchor_jax.studies.run import Row, Study, run_study
from benchmarks.arguments import clip_parser


def make_rows(anchor: Path, others: dict[str, Path | None], full: Variant) -> dict[str, Row]:
    """Make the rows of the table. Without temporal denoising each frame is a window by itself."""
    alone = full.with_sampling(window=1, overlap=0)
    rows = {
        "full": Row(anchor, full),
        "full, windows cross-faded": Row(anchor, full.with_sampling(crossfade=True)),
        "without temporal denoising, fresh noise": Row(anchor, replace(alone, fresh_noise=True)),
        "without temporal denoising, shared noise": Row(anchor, alone),
        "without face enhancement": Row(anchor, replace(full, faces=False)),
    }
    return rows | {name: Row(path, full) for name, path in others.items() if path is not None}


def main(words: list[str] | None = None) -> int:
    parser = clip_parser("ablations", __doc__, "the full method's ANCHOR")
    parser.add_argument("--setting-one", type=Path, help="ANCHOR trained on the target alone")
    parser.add_argument("--setting-two", type=Path, help="ANCHOR trained on all persons at once")
    parser.add_argument("--perturbed", type=Path, help="ANCHOR trained on perturbed poses")
    parser.add_argument("--frames", type=int, help="use only the clip's first frames (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args(words)
    others = {
        "without two stages, setting I": args.setting_one,
        "without two stages, setting II": args.setting_two,
        "with SMPL perturbation": args.perturbed,
    }
    try:
        args.clip = args.clip or open_assets().test
        settings = checkpoint.load(args.anchor, networks=()).settings
        full = Variant(settings).with_sampling(steps=args.steps, crossfade=False)
        rows = make_rows(args.anchor, others, full)
        run_study("ablations", rows, Study(args.clip, args.frames, tuple(args.seeds)), args.out)
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
