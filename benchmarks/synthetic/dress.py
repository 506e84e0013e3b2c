"""Draw the shipped person doing what a motion file says: pose images and the true frames.

    python -m benchmarks.synthetic.dress MOTION --out FOLDER

Writes a clip as `anchor-jax bench windows --clip` reads it: poses/, poses-conditions/, truth/ and
appearance.png. Body, framing and frames are those of `anchor-jax demo --motion`.
"""

import argparse
import shutil
import sys
from pathlib import Path

from anchor_jax.assets import open_assets
from anchor_jax.demo.demo import read_posed
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_new, placed
from anchor_jax.progress import bars
from anchor_jax.studies.clip import read_clip
from benchmarks.synthetic.output import write_clip
from benchmarks.synthetic.people import TARGET
from benchmarks.synthetic.source import Studio


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic.dress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("motion", type=Path, help="a motion file")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--frames", type=int, default=150, help="number of frames (150)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the room (0)")
    args = parser.parse_args(words)
    try:
        dress(args.motion, args.out, args.frames, args.seed)
    except AnchorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def dress(path: Path, out: Path, count: int, seed: int) -> None:
    """Write the clip of a motion file."""
    check_new(out)
    assets = open_assets()
    like = read_clip(assets.test)
    motion, _, view = read_posed(path, assets, like, count)
    with (
        placed(out) as partial,
        Studio(TARGET, view.size[0], seed) as studio,
        bars()("drawing", len(motion.poses), "frame") as advance,
    ):
        partial.mkdir()
        write_clip(studio.shoot_motion(motion, view), view, motion.fps, partial, advance)
        shutil.copyfile(assets.test / "appearance.png", partial / "appearance.png")


if __name__ == "__main__":
    raise SystemExit(main())
