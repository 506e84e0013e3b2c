"""Write the synthetic anchors: data sets to train on, and a test clip with its truth.

    python -m benchmarks.synthetic --out FOLDER

Writes these data sets and files into FOLDER:

pretrain          people for pretraining, with mattes
target            the person for finetuning: gestures and speech
target-wide       the same person with motion in the ranges of motion files
target-all        both, to finetune on
everybody         all of these clips
pretrain-test     the same people with other motion
target-test       the same person with other motion
test              the target's test clip as files: poses/, poses-conditions/, truth/, mattes/,
                  appearance.png
sheets            overview images
target-perturbed  with --perturbed: the target's clips with noise on the motion of the pose images,
                  for the paper's study of imperfect fits
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from anchor_jax.data.dataset import Dataset
from anchor_jax.data.prepare import prepare
from anchor_jax.data.preview import write_sheets
from anchor_jax.errors import AnchorError
from anchor_jax.processes import num_cores
from anchor_jax.progress import Progress, bars
from benchmarks.synthetic.output import join, write_test_clip
from benchmarks.synthetic.people import OTHERS, TARGET, Person
from benchmarks.synthetic.sheet import write_people_sheet
from benchmarks.synthetic.source import FRAMES, Talking

TEST = range(900, 901)  # clip numbers: their motion differs from all training clips
NOISE = 0.03, 0.1  # pose and expression noise of --perturbed, as in `anchor_jax.body.perturb`


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a new folder, or an incomplete one to continue"
    )
    parser.add_argument("--size", type=int, default=128, help="side of the frames (128)")
    parser.add_argument("--face-size", type=int, default=64, help="side of the face crops (64)")
    parser.add_argument("--clips", type=int, default=9, help="training clips per person (9)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames per clip (300)")
    parser.add_argument(
        "--wide-clips", type=int, default=9, help="clips of the target with wide motion (9)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of motion and rooms (0)")
    parser.add_argument("--perturbed", action="store_true", help="also write target-perturbed")
    parser.add_argument("--processes", type=int, default=num_cores())
    args = parser.parse_args(words)
    try:
        check(args)
        make(args)
    except AnchorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; repeat the command to continue after the last complete clip",
            file=sys.stderr,
        )
        return 130
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise AnchorError for options out of range."""
    limits = {
        "size": (32, 512, 8),
        "face-size": (64, 512, 8),
        "clips": (1, TEST.start, 1),
        "wide-clips": (1, TEST.start, 1),
        "frames": (16, 3000, 1),
        "seed": (0, 2**31, 1),
        "processes": (1, 256, 1),
    }
    for name, (least, most, step) in limits.items():
        value = getattr(args, name.replace("-", "_"))
        if not least <= value <= most or value % step:
            words = f", a multiple of {step}" if step > 1 else ""
            raise AnchorError(f"--{name} {value}: expected {least} to {most}{words}")


def make(args: argparse.Namespace) -> None:
    """Write everything that is not complete yet."""
    (args.out / "sheets").mkdir(parents=True, exist_ok=True)
    made: dict[str, Dataset] = {}
    progress = bars()
    training = range(args.clips)
    wanted: list[tuple[str, tuple[Person, ...], range, dict[str, Any]]] = [
        ("target", (TARGET,), training, {}),
        ("target-wide", (TARGET,), range(args.wide_clips), {"wide": True}),
        ("target-test", (TARGET,), TEST, {}),
        ("pretrain", OTHERS, training, {}),
        ("pretrain-test", OTHERS, TEST, {}),
    ]
    if args.perturbed:
        wanted.append(("target-perturbed", (TARGET,), training, {"noise": NOISE}))
    for name, people, clips, changes in wanted:
        made[name] = _dataset(args, name, people, clips, changes, progress)
        with progress("previewing", len(made[name].clips), "clip") as advance:
            write_sheets(made[name], args.out / "sheets" / name, advance)
        if name == "target-test":
            source = _source(args, TARGET, TEST)
            write_test_clip(source, args.out / "test", progress)
    join([made["target"], made["target-wide"]], args.out / "target-all")
    join([made["pretrain"], made["target"]], args.out / "everybody")
    tests = [args.out / name for name in ("target-test", "pretrain-test")]
    write_people_sheet(tests, args.out / "sheets" / "people.png")


def _dataset(
    args: argparse.Namespace,
    name: str,
    people: tuple[Person, ...],
    clips: range,
    changes: dict[str, Any],
    progress: Progress,
) -> Dataset:
    """Draw a data set; `changes` are fields of `Talking` that differ from the usual clips."""
    options: dict[str, object] = {
        "people": people,
        "clips": list(clips),
        "frames": args.frames,
        "sizes": (args.size, args.face_size),
        "seed": args.seed,
        **changes,
    }
    return prepare(
        [replace(_source(args, person, clips), **changes) for person in people],
        args.out / name,
        inputs=[],
        options=options,
        processes=args.processes,
        progress=progress,
    )


def _source(args: argparse.Namespace, person: Person, clips: range) -> Talking:
    return Talking(person, clips, args.size, args.face_size, args.seed, args.frames)


if __name__ == "__main__":
    raise SystemExit(main())
