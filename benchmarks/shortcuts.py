"""Measures what each shortcut of sampling saves and costs.

    python -m benchmarks.shortcuts --out docs/benchmarks

Generates the test clip with the anchor's settings, then with each shortcut, all in one process, and
compares the frames with those of the first row and with the truth. Times are those of all cores
together, which other work on the machine hardly changes, of a second run over a part of the clip,
so that everything is compiled. Also counts the operations of the body's steps, for the anchor and
for networks of the published sizes with the published settings. Writes `shortcuts.json` and
`shortcuts.md`.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anchor_jax import checkpoint, pages
from anchor_jax.assets import open_assets
from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion import Sampling
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.files import check_parent, write_text
from anchor_jax.planning.generation import published_sizes, sampling_flops
from anchor_jax.shapes import Images
from anchor_jax.studies.clip import StudyClip, Variant, generate_clip, measure, read_clip
from anchor_jax.versions import versions
from benchmarks.arguments import clip_parser

_TIMED = 36  # frames
_PUBLISHED_SHAPE = (100, 512, 512, 3)  # pose images
_COLUMNS = {
    "flops": ("operations", 3),
    "published_flops": ("operations, published sizes", 3),
    "seconds": ("time", 2),
    "exact/psnr": ("PSNR to exact", 1),
    "exact/ssim": ("SSIM to exact", 3),
    "body/psnr": ("PSNR", 2),
    "body/ssim": ("SSIM", 3),
    "face/psnr": ("face PSNR", 2),
    "hands/psnr": ("hands PSNR", 2),
    "flicker": ("flicker", 3),
    "temporal_error": ("temporal error", 3),
}
_TRAILING = {"solver": "unipc", "spacing": "trailing"}
# Title: the share of the steps, and other settings.
ROWS: dict[str, tuple[float, dict[str, Any]]] = {
    "exact": (1, {}),
    "half of the steps": (1 / 2, {}),
    "DPM-Solver++(2M), half": (1 / 2, {"solver": "dpm++"}),
    "UniPC, half": (1 / 2, {"solver": "unipc"}),
    "trailing, half": (1 / 2, {"spacing": "trailing"}),
    "UniPC, trailing, half": (1 / 2, _TRAILING),
    "UniPC, trailing, a quarter (--fast)": (1 / 4, _TRAILING),
    "deep features reused": (1, {"reuse": "deep"}),
    "encoder reused": (1, {"reuse": "encoder"}),
    "attention reused": (1, {"reuse": "attention"}),
    "control branch reused": (1, {"reuse": "control"}),
    "UniPC, trailing, half, deep": (1 / 2, {**_TRAILING, "reuse": "deep"}),
    "UniPC, trailing, a quarter, deep": (1 / 4, {**_TRAILING, "reuse": "deep"}),
    "guidance for t/T of 0.2 to 0.7": (1, {"guidance_interval": (0.2, 0.7)}),
}


def changed(sampling: Sampling, share: float, settings: dict[str, Any]) -> Sampling:
    """Return sampling settings with a share of the steps and other changes. Rounds as `fast`."""
    return sampling.updated(steps=max(2, round(sampling.steps * share)), **settings)


def generate_timed(anchor: Anchor, clip: StudyClip, variant: Variant) -> tuple[Images, float]:
    """Generate a clip, and a part of it again to take the time of all cores.

    Returns:
        uint8 (n, h, w, 3), and seconds for the part.
    """
    frames = generate_clip(anchor, clip, variant)
    start = time.process_time()
    generate_clip(anchor, clip[:_TIMED], variant)
    return frames, time.process_time() - start


def measure_rows(
    anchor: Anchor, clip: StudyClip, variant: Variant
) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure the rows of the table. A row whose settings change nothing for this anchor, such as
    an interval of guidance at scale 1, has the numbers of operations alone.

    Args:
        anchor: the anchor, loaded.
        clip: the clip with its ground truth.
        variant: how to generate exactly.

    Yields:
        The title of a row and its columns; `flops` and `seconds` are shares of the first row's.
    """
    sampling, published = variant.settings.sampling, published_sizes()
    exact, whole = None, {}
    for title, (share, settings) in ROWS.items():
        ours, theirs = (changed(base, share, settings) for base in (sampling, Sampling()))
        row = {
            "flops": sampling_flops(anchor, clip.poses.shape, ours),
            "published_flops": sampling_flops(published, _PUBLISHED_SHAPE, theirs),
        }
        if exact is None or row["flops"] != whole["flops"] or ours.steps != sampling.steps:
            used = variant.with_sampling(steps=ours.steps, **settings)
            frames, row["seconds"] = generate_timed(anchor, clip, used)
            row |= measure(frames, clip)
            if exact is not None:
                row["exact/psnr"] = float(psnr(frames, exact).mean())
                row["exact/ssim"] = float(ssim(frames, exact).mean())
            exact = frames if exact is None else exact
        whole = whole or dict(row)
        shares = {name: row[name] / whole[name] for name in ("flops", "published_flops")}
        if "seconds" in row:
            shares["seconds"] = row["seconds"] / whole["seconds"]
        yield title, row | shares


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """Format the table."""
    lines = [["", *(heading for heading, _ in _COLUMNS.values())]]
    for title, row in rows.items():
        cells = [
            f"{row[name]:.{decimals}f}" if name in row else ""
            for name, (_, decimals) in _COLUMNS.items()
        ]
        lines.append([title, *cells])
    return pages.markdown(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    parser = clip_parser("shortcuts", __doc__)
    parser.add_argument("--frames", type=int, help="use only the clip's first frames (all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args(words)
    try:
        check_parent(args.out / "results")
        clip = read_clip(args.clip or open_assets().test, args.frames)
        header = checkpoint.load(args.anchor, networks=())
        variant = Variant(header.settings).resolved()
        loaded = checkpoint.load(args.anchor, kernels=variant.settings.sampling.dtype)
        facts = {
            "frames": len(clip),
            "settings": asdict(variant.settings),
            "versions": versions(),
        }
        rows = {}
        for title, row in measure_rows(loaded, clip, variant):
            rows[title] = row
            print(markdown({title: row}).splitlines()[-1], flush=True)
            record = json.dumps(facts | {"rows": rows}, indent=1) + "\n"
            for suffix, text in {"json": record, "md": markdown(rows)}.items():
                write_text(args.out / f"shortcuts.{suffix}", text)
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
