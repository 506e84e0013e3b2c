"""Data sets, command lines and results of `anchor-jax train` on tiny pictures."""

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from anchor_jax import checkpoint, cli
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import PICTURES, ClipRecord, Dataset

MEASURED = ("frames_per_second", "memory_mb")  # are other numbers each time


def write_data(
    folder: Path,
    pictures: tuple[str, ...] = tuple(PICTURES),
    size: tuple[int, int] = (32, 32),
    clips=(8, 8),
    seed: int = 0,
) -> Path:
    """A data set of a square that moves, and changes its colour. Poses have a head and a neck."""
    sizes = dict.fromkeys(pictures, size)
    rng = np.random.default_rng(seed)

    def frames(count: int) -> Iterator[dict[str, np.ndarray]]:
        for i in range(count):
            frame = {}
            for name in pictures:
                inside, outside = (0, 255) if name == "face_mask" else (255, 0)
                pixels = np.full((size[1], size[0], PICTURES[name]), outside, np.uint8)
                colour = inside if PICTURES[name] == 1 else rng.integers(20, 256, 3)
                pixels[4:-8, i : i + size[0] // 2] = colour
                if name == "pose":  # head 8 wide, neck 4, shoulders 16 at 32x32
                    quarter = size[0] // 8
                    for rows, cut in ((slice(4, 10), quarter), (slice(10, 12), 3 * quarter // 2)):
                        pixels[rows, : i + cut] = pixels[rows, i + 4 * quarter - cut :] = 0
                frame[name] = pixels if PICTURES[name] == 3 else pixels[..., 0]
            yield frame

    folder.mkdir()
    records = tuple(ClipRecord(f"clip-{i}", f"person-{i}", n) for i, n in enumerate(clips))
    made = Dataset(folder, sizes, Fraction(30), records)
    written = tuple(
        datasets.write_shard(made.shard(i), record, frames(record.frames), sizes)
        for i, record in enumerate(records)
    )
    datasets.write_metadata(replace(made, clips=written))
    return folder


def words(stage: str, anchor: Path, data: Path, out: Path, *more: object) -> list[str]:
    """The command line after `anchor-jax` of a run of a few steps."""
    places = ["--anchor", anchor, "--data", data, "--out", out]
    return ["train", stage, "--preset", "debug", *map(str, [*places, *more])]


def train(stage: str, anchor: Path, data: Path, out: Path, *more: object) -> int:
    """Run it in this process."""
    return cli.main(words(stage, anchor, data, out, *more))


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log but for what is measured of the machine."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in kept]


def state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Everything that a checkpoint holds of a run, by its name."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = run.absolute() / "checkpoints" / str(step) / "state"
        metadata = checkpointer.metadata(folder).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        tree = checkpointer.restore(folder, restore_args=arguments)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_same(ours: Path, theirs: Path, step: int) -> None:
    """That two runs ended alike to the bit: parameters, moments, average and key, and that they saw
    the same frames with the same references and had the same losses in every step."""
    expected = state(theirs, step)
    found = state(ours, step)
    assert found.keys() == expected.keys()
    for part in ("params", "moments", "average", "seed", "step"):
        assert any(part in name for name in expected), part
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert logged(ours) == logged(theirs)


def changed(anchor: Path, before: Path) -> set[str]:
    """The networks with other weights than before."""
    names = [name for name in checkpoint.NETWORKS if name != "text_encoder"]
    ours, theirs = (
        {name: x.params for name, x in checkpoint.load(path, networks=names).networks().items()}
        for path in (anchor, before)
    )
    return {
        name
        for name in names
        for x, y in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True)
        if (np.asarray(x) != np.asarray(y)).any()
    }
