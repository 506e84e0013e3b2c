"""Prints tables 1 and 2 of the paper with your numbers beside the paper's.

    python -m benchmarks.tables --anchor ANCHOR --clips DIR... --out DIR
    python -m benchmarks.tables --anchor ANCHOR --clips DIR... --out DIR \\
        --setting-one ANCHOR --setting-two ANCHOR --perturbed ANCHOR \\
        --others DisCo=DIR TPS=DIR mine=DIR

Each clip is a folder with poses, truth and appearance.png, as for `anchor-jax bench windows`. Other
methods are folders with a video (NAME.mp4) or a folder of images (NAME/) for each clip, by the name
of the clip's folder. Rows without an anchor or folder show the paper's numbers alone.

Generated frames lie in OUT/videos/ROW/CLIP, and are used again by a later run with the same
anchors, clips and settings. Writes `tables.md` and `tables.json`. Without Inception's weights FID
is left out, and the Fréchet distance on the anchor's image encoder is shown in a column of its own.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anchor_jax import checkpoint
from anchor_jax.assets import SHIPPED_NAME, find_anchor, open_assets
from anchor_jax.checkpoint import Anchor
from anchor_jax.data.video import write_frames
from anchor_jax.errors import AnchorError, note
from anchor_jax.evaluation.fvd import Clips
from anchor_jax.files import placed, write_text
from anchor_jax.pages import markdown
from anchor_jax.progress import bars
from anchor_jax.studies.clip import Variant, folder_or_video, generate_clip, read_clip
from anchor_jax.studies.evaluate import Comparison
from anchor_jax.studies.results import json_text
from anchor_jax.studies.run import Row
from anchor_jax.studies.video_pairs import stamp
from anchor_jax.versions import versions
from benchmarks import ablations

# Columns: metric, heading, decimals, and whether the paper has it.
COLUMNS = (
    ("fid", "FID", 2, True),
    ("clip_frechet", "Fréchet, CLIP", 3, False),
    ("fvd", "FVD", 2, True),
    ("lmd_face", "LMD (Face)", 2, True),
    ("lmd_body", "LMD (Body)", 2, True),
    ("lmd_hands", "LMD (Hand)", 2, True),
    ("identity", "identity", 3, False),
)
OURS, SETTING_ONE, SETTING_TWO = "Ours", "w/o Two-Stage Setting I", "w/o Two-Stage Setting II"
PERTURBED, NO_TD, NO_FE = "SMPL perturbation", "w/o TD", "w/o FE"
# The paper's numbers, in the order of the columns that it has (section 4).
TABLE_1: dict[str, tuple[float | None, ...]] = {
    "Pose2Img": (51.92, 328.18, 3.73, 4.78, 6.96),
    "TPS": (136.02, 884.97, 5.22, 8.37, 18.72),
    "DreamPose": (83.47, 868.20, 4.21, 5.92, 13.85),
    "DisCo": (60.95, 390.77, 4.15, 5.11, 11.21),
    OURS: (40.33, 139.82, 1.44, 4.88, 5.41),
    NO_TD: (48.84, 344.85, 1.45, 4.74, 5.61),
    NO_FE: (40.84, 124.10, 1.56, None, None),
    SETTING_ONE: (55.87, 278.73, 4.38, 6.92, 7.25),
    SETTING_TWO: (53.99, 178.79, 1.56, 4.96, 6.01),
    PERTURBED: (39.56, 136.21, 1.40, 4.33, 5.25),
}
TABLE_2: dict[str, tuple[float | None, ...]] = {
    "ws = 8, os = 2": (39.64, 140.29, 1.45, 4.86, 5.46),
    "ws = 16, os = 4": (40.33, 139.82, 1.44, 4.88, 5.41),
    "ws = 32, os = 8": (41.01, 138.48, 1.44, 4.89, 5.33),
}
WINDOWS = {"ws = 8, os = 2": (8, 2), "ws = 16, os = 4": (16, 4), "ws = 32, os = 8": (32, 8)}


def make_rows(anchor: Path, others: Mapping[str, Path | None], full: Variant) -> dict[str, Row]:
    """Make the rows that an anchor generates. "w/o TD" denoises each frame alone, from noise of its
    own."""
    found = ablations.make_rows(anchor, dict(others), full)
    rows = {
        OURS: found["full"],
        NO_TD: found["without temporal denoising, fresh noise"],
        NO_FE: found["without face enhancement"],
    }
    rows |= {name: found[name] for name in others if name in found}
    for name, (window, overlap) in WINDOWS.items():
        rows[name] = Row(anchor, full.with_sampling(window=window, overlap=overlap))
    return rows


def generate(row: Row, clips: Sequence[Path], folder: Path, frames: int | None) -> list[Path]:
    """Generate all clips, each as a folder of PNG files; those that are there stay.

    Returns:
        The folders of the clips.

    Raises:
        AnchorError: those that are there were made with other settings.
    """
    anchor = None
    _check_made(
        folder / "made.json",
        {
            "anchor": [str(row.anchor), stamp(find_anchor(row.anchor))],
            "clips": {str(clip): stamp(clip) for clip in clips},
            "frames": frames,
            **asdict(row.variant),
        },
    )
    made = [folder / clip.name for clip in clips]
    for source, target in zip(clips, made, strict=True):
        if target.exists():
            continue
        anchor = anchor or checkpoint.load(row.anchor)
        images = generate_clip(anchor, read_clip(source, frames), row.variant, bars())
        with placed(target) as partial:
            write_frames(partial, images)
    return made


def _check_made(path: Path, facts: Mapping[str, Any]) -> None:
    """Check that earlier videos were made with the same facts; else write them into `path`.

    Raises:
        AnchorError: they were not.
    """
    text = json_text(facts)
    if not path.exists():
        write_text(path, text)
    elif path.read_text("utf-8") != text:
        raise AnchorError(
            f"{path.parent} has videos of another anchor, clip or setting: remove it, or choose"
            " another --out"
        )


def measure(
    generated: Sequence[Path], truth: Sequence[Path], anchor: Anchor, args: argparse.Namespace
) -> dict[str, Any]:
    """Measure the videos of a row, with the anchor's image encoder; return the scores, noise
    floors, facts and notes."""
    comparison = Comparison(
        generated,
        truth,
        [name for name, *_ in COLUMNS],
        required=False,
        anchor=anchor,
        clips=Clips(stride=args.fvd_stride),
        resized=True,
        weights=args.weights,
    )
    result = comparison.run(bars())
    return {
        "scores": result.scores,
        "intervals": result.intervals,
        "noise floors": result.floors,
        "notes": result.notes,
        **result.facts,
    }


def table(paper: Mapping[str, Sequence[float | None]], measured: Mapping[str, Any]) -> str:
    """Format a table: in each cell our number, and the paper's in brackets."""
    shown = [
        column
        for column in COLUMNS
        if column[3] or any(column[0] in row["scores"] for row in measured.values())
    ]
    lines = [["Method", *(heading for _, heading, _, _ in shown)]]
    for name in [*paper, *(name for name in measured if name not in paper)]:
        theirs = iter(paper.get(name, [None] * 5))
        scores = measured[name]["scores"] if name in measured else {}
        cells = []
        for metric, _, decimals, in_paper in shown:
            ours = f"{scores[metric]:.{decimals}f}" if metric in scores else "-"
            value = next(theirs) if in_paper else None
            cells.append(ours if value is None else f"{ours} ({value:.2f})")
        lines.append([name, *cells])
    return markdown(lines)


def main(words: list[str] | None = None) -> int:
    args = _parse(words)
    try:
        _run(args)
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--anchor", type=Path, default=Path(SHIPPED_NAME), help="the full method's (shipped)")
    add("--clips", type=Path, nargs="+", help="folders of test clips (the shipped one)")
    add("--frames", type=int, help="use only the first frames of each clip (all)")
    add("--setting-one", type=Path, help="ANCHOR trained on the target alone")
    add("--setting-two", type=Path, help="ANCHOR trained on all persons at once")
    add("--perturbed", type=Path, help="ANCHOR trained on perturbed poses")
    add("--others", nargs="+", default=[], metavar="NAME=DIR", help="other methods' videos")
    add("--steps", type=int, help="denoising steps (the anchor's)")
    add("--seed", type=int, help="of the noise (the anchor's)")
    add("--fvd-stride", type=int, default=16, help="frames between clips of FVD (16)")
    add("--weights", type=Path, help="folder of the metrics' weights (the cache folder)")
    add("--out", type=Path, required=True, help="folder for the videos and results")
    return parser.parse_args(words)


def _run(args: argparse.Namespace) -> None:
    clips = args.clips or [open_assets().test]
    if len({clip.name for clip in clips}) < len(clips):
        raise AnchorError("two clips have the same name: rename one of the folders")
    truth = [folder_or_video(clip, "truth") for clip in clips]
    others = dict(_other(text) for text in args.others)
    settings = checkpoint.load(args.anchor, networks=()).settings
    full = Variant(settings).with_sampling(steps=args.steps, seed=args.seed, crossfade=False)
    trained = {
        SETTING_ONE: args.setting_one,
        SETTING_TWO: args.setting_two,
        PERTURBED: args.perturbed,
    }
    rows = make_rows(args.anchor, trained, full)
    if taken := sorted(set(others) & set(rows)):
        raise AnchorError(
            f"--others {taken[0]}=...: the anchor gives this row; choose another name"
        )
    if args.frames is not None:
        truth = _first_frames(truth, clips, args)
    videos = {
        name: [folder_or_video(folder, clip.name) for clip in clips]
        for name, folder in others.items()
    }
    encoder = checkpoint.load(args.anchor, ["image_encoder"])
    measured: dict[str, Any] = {}
    names: dict[Row, str] = {}  # table 2 has the full method too
    for number, name in enumerate([*videos, *rows], 1):
        print(f"{number}/{len(videos) + len(rows)}: {name}", flush=True)
        if name in rows:
            first = names.setdefault(rows[name], name)
            folder = args.out / "videos" / first.replace("/", "-")
            videos[name] = generate(rows[name], clips, folder, args.frames)
            if first in measured:
                measured[name] = measured[first]
        if name not in measured:
            measured[name] = measure(videos[name], truth, encoder, args)
        _write(args.out, measured)
    for line in dict.fromkeys(line for row in measured.values() for line in row["notes"]):
        note(line)
    print((args.out / "tables.md").read_text("utf-8"), end="")


def _other(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not (name and separator and Path(folder).is_dir()):
        raise AnchorError(f"{text}: expected NAME=DIR, a folder with a video for each clip")
    return name, Path(folder)


def _first_frames(
    truth: Sequence[Path], clips: Sequence[Path], args: argparse.Namespace
) -> list[Path]:
    """Write the first frames of each truth as PNG files."""
    made = [args.out / "videos" / "truth" / clip.name for clip in clips]
    facts = {"clips": {str(clip): stamp(clip) for clip in clips}, "frames": args.frames}
    _check_made(args.out / "videos" / "truth" / "made.json", facts)
    for source, target in zip(clips, made, strict=True):
        if not target.exists():
            images = read_clip(source, args.frames).truth
            assert images is not None
            with placed(target) as partial:
                write_frames(partial, images)
    return made


def _write(out: Path, measured: Mapping[str, Any]) -> None:
    """Write both tables, and everything that was measured."""
    second = {name: row for name, row in measured.items() if name in TABLE_2}
    first = {name: row for name, row in measured.items() if name not in TABLE_2}
    parts = [
        "Ours, and in brackets the paper's numbers, which are of other videos.",
        f"Table 1\n\n{table(TABLE_1, first)}",
        f"Table 2\n\n{table(TABLE_2, second)}",
    ]
    content = {"rows": measured, "paper": {"table 1": TABLE_1, "table 2": TABLE_2}}
    files = {
        "tables.md": "\n\n".join(parts) + "\n",
        "tables.json": json_text(content | {"versions": versions()}) + "\n",
    }
    for name, text in files.items():
        write_text(out / name, text)


if __name__ == "__main__":
    sys.exit(main())
