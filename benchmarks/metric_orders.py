"""Shows how metrics react: clips against disturbed copies of themselves.

    python -m benchmarks.metric_orders student.mkv help.mkv truth.mp4

Each clip is compared with itself, with noise, blurred, with shuffled frames, with each frame shown
four times, and with the clip that follows it in the list, cut to the shorter of the two. Prints a
table for each clip, with the noise floors.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from anchor_jax.data.pictures import resize
from anchor_jax.data.video import read_frames, write_frames
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.fvd import Clips
from anchor_jax.pages import markdown
from anchor_jax.progress import bars
from anchor_jax.shapes import Images
from anchor_jax.studies.evaluate import Comparison
from anchor_jax.studies.evaluation_report import METRICS as HEADINGS

METRICS = (
    *("stlpips", "flow_error", "lmd_body", "lmd_face", "lmd_hands", "jitter", "identity"),
    "fvd",
)
FVD_STRIDE = 4  # the clips are short


def copies(clip: Images, other: Images) -> Iterator[tuple[str, Images]]:
    """Make disturbed copies of a clip, uint8 (n, h, w, 3), by their names."""
    rng = np.random.default_rng(0)
    yield "itself", clip
    noise = rng.normal(0, 10, clip.shape)
    yield "noise, 10 grey levels", (clip + noise).round().clip(0, 255).astype(np.uint8)
    yield "blur, 2 pixels", gaussian_filter(clip, (0, 2, 2, 0))
    yield "each frame four times", clip.repeat(4, 0)[: len(clip)]
    yield "shuffled frames", clip[rng.permutation(len(clip))]
    yield "another clip", other


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metric_orders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="+", type=Path, help="videos or folders of images")
    parser.add_argument("--weights", type=Path, help="folder of the weights (the cache folder)")
    parser.add_argument("--metrics", nargs="+", default=METRICS, help=f"({' '.join(METRICS)})")
    args = parser.parse_args(words)
    try:
        clips = [read_frames(path)[0] for path in args.clips]
        for path, clip, other in zip(args.clips, clips, clips[1:] + clips[:1], strict=True):
            print(f"\n{path.name}\n\n{_measure(clip, other, args)}", flush=True)
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(clip: Images, other: Images, args: argparse.Namespace) -> str:
    """Measure all copies of a clip; return the table."""
    count = min(len(clip), len(other))
    clip, (height, width) = clip[:count], clip.shape[1:3]
    other = np.stack([resize(frame, (width, height)) for frame in other[:count]])
    rows: list[tuple[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth"
        write_frames(truth, clip)
        for number, (title, images) in enumerate(copies(clip, other)):
            made = Path(folder) / str(number)
            write_frames(made, images)
            comparison = Comparison(
                [made], [truth], args.metrics, clips=Clips(stride=FVD_STRIDE), weights=args.weights
            )
            result = comparison.run(bars())
            rows.append((title, result.scores))
    rows.append(("noise floor", result.floors))
    names = list(rows[0][1])
    lines = [["", *(HEADINGS[name][0] for name in names)]]
    for title, scores in rows:
        cells = [f"{scores[x]:.{HEADINGS[x][1]}f}" if x in scores else "" for x in names]
        lines.append([title, *cells])
    return markdown(lines)


if __name__ == "__main__":
    sys.exit(main())
