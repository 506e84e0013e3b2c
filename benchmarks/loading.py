"""Compares the frames per second of the input pipeline with those of a reader of PNG folders.

    python -m benchmarks.loading ../shared/data --out docs/benchmarks/loading.json

Both do the same work for each example: decode a frame, its pose image and a random other frame of
the same clip, 512x512. Ours is `anchor_jax.data.loader.Batches` over a data set that is made here
from the real clips. The other is a PyTorch `DataLoader` over folders with the same PNG bytes, as is
usual in training code. They take turns in one process. The result is the ratio in each round, and
its median over the rounds. If other work runs on the machine, the ratio of CPU times is more
reliable.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches
from anchor_jax.data.request import Request
from anchor_jax.files import write_text
from anchor_jax.processes import num_cores
from anchor_jax.progress import silent
from benchmarks.peer import environment

BATCH = 4


class Folders:
    """A PyTorch data set of PNG files: for each clip a folder of frames and one of pose images."""

    def __init__(self, clips: list[list[tuple[Path, Path]]]):
        self.frames = [(clip, number) for clip in clips for number in range(len(clip))]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        clip, number = self.frames[index]
        other = random.choice([n for n in range(len(clip)) if n != number])
        paths = *clip[number], clip[other][0]
        return tuple(np.asarray(Image.open(path).convert("RGB")) for path in paths)


def write_folders(dataset: Dataset, folder: Path) -> list[list[tuple[Path, Path]]]:
    """Write the pictures of a data set as PNG files, without encoding them again."""
    source, clips = dataset.source(), []
    for clip, start in zip(dataset.clips, dataset.starts, strict=False):
        frames = []
        for number in range(clip.frames):
            example = source[start + number]
            places = []
            for name in ("target", "pose"):
                path = folder / f"{clip.name}-{name}" / f"{number + 1:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(example[name])
                places.append(path)
            frames.append((places[0], places[1]))
        clips.append(frames)
    return clips


def collate(examples: list[tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
    """Stack the pictures of each kind: tensors of uint8 (b, h, w, 3)."""
    import torch

    return tuple(torch.from_numpy(np.stack(pictures)) for pictures in zip(*examples, strict=True))


def folder_batches(folders: Folders, workers: int) -> Iterator[tuple[Any, ...]]:
    """Yield batches without end from a PyTorch `DataLoader`."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        folders,  # pyright: ignore[reportArgumentType]
        BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def measure(start: Callable[[], Any], count: int) -> dict[str, float]:
    """Measure seconds to the first batch, then frames per second and CPU milliseconds per frame."""
    began = time.perf_counter()
    batches = start()
    next(batches)
    first, cpu = time.perf_counter(), _cpu_seconds()
    for batch in islice(batches, count):
        pictures = batch["target"] if isinstance(batch, dict) else batch[0]
        assert pictures.shape == (BATCH, 512, 512, 3)
    seconds, cpu = time.perf_counter() - first, _cpu_seconds() - cpu
    batches.close()
    return {
        "first_batch_s": round(first - began, 3),
        "frames_per_s": round(BATCH * count / seconds, 2),
        "cpu_ms_per_frame": round(1000 * cpu / (BATCH * count), 2),
        "cores": round(cpu / seconds, 2),
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its running children."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def compare(dataset: Dataset, folders: Folders, workers: int, rounds: int, count: int) -> dict:
    """Measure both readers in turns."""
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: Batches(dataset, BATCH, seed=0, workers=workers),
        "plain": lambda: folder_batches(folders, workers),
    }
    results: list[dict[str, dict[str, float]]] = []
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        results.append({name: measure(sides[name], count) for name in order})
        print(f"{workers} workers: {results[-1]}", file=sys.stderr)

    def ratio(field: str) -> float:
        return statistics.median(each["ours"][field] / each["plain"][field] for each in results)

    medians = {
        name: {field: statistics.median(each[name][field] for each in results) for field in fields}
        for name, fields in results[0].items()
    }
    return {
        "workers": workers,
        **medians,
        "speed_ratio": round(ratio("frames_per_s"), 3),
        "cpu_time_ratio": round(ratio("cpu_ms_per_frame"), 3),
        "rounds": results,
    }


def table(cases: list[dict]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| workers | ours | PNG folders | speed ratio | CPU time ratio | cores used "
        "| first batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        ours, peer = case["ours"], case["plain"]
        lines.append(
            f"| {case['workers']} | {ours['frames_per_s']:.0f} frames/s | "
            f"{peer['frames_per_s']:.0f} frames/s | **{case['speed_ratio']:.2f}** | "
            f"{case['cpu_time_ratio']:.2f} | {ours['cores']:.1f}, {peer['cores']:.1f} | "
            f"{ours['first_batch_s']:.1f}, {peer['first_batch_s']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compares the input pipeline with a reader of PNG folders."
    )
    parser.add_argument("data", type=Path, help="folder with video/*.mkv and poses/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="batches in each measurement")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    videos = tuple(sorted((args.data / "video").glob("*.mkv")))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        request = Request(videos=videos, poses=(args.data / "poses",), loop_poses=True)
        dataset = request.make(folder / "data", 2, silent)
        folders = Folders(write_folders(dataset, folder / "png"))
        cases = [
            compare(dataset, folders, workers, args.rounds, args.batches) for workers in (0, 2)
        ]
        megabytes = sum(clip.bytes for clip in dataset.clips) / 1e6
    print(table(cases))
    if args.out:
        result = environment("benchmarks.loading", num_cores()) | {
            "frames": len(dataset),
            "megabytes": round(megabytes, 1),
            "batch_size": BATCH,
            "cases": cases,
        }
        write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
