"""What the programs look up in data set and anchor before they begin, and what the anchor that they
make tells of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import clip_spans
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.training.run import PACKAGES
from anchor_jax.versions import versions

from .configs import FREE, LoopConfig, settings


def check_factor(dataset: Dataset, pictures: Sequence[str], factor: int) -> None:
    """Raise AnchorError for pictures whose sides the autoencoder's factor does not divide."""
    bad = [
        f"{name} is {width}x{height}"
        for name in pictures
        for width, height in [dataset.pictures[name]]
        if width % factor or height % factor
    ]
    if bad:
        raise AnchorError(
            f"{dataset.path}: {shorten(bad)}: expected multiples of {factor}, the autoencoder's"
            " factor; prepare the data set with another --size"
        )


def contents(
    dataset: Dataset, anchor: Anchor | None = None, networks: Sequence[str] = ()
) -> dict[str, Any]:
    """What must be the same when a run goes on, wherever data set and anchor lie by then: flat, as
    JSON has it."""
    digest = hashlib.sha256("".join(clip.sha256 for clip in dataset.clips).encode())
    found: dict[str, Any] = {"data.sha256": digest.hexdigest()}
    if anchor is not None:
        present = anchor.networks()
        configs: dict[str, Any] = {name: present[name].config for name in networks}
        for name, config in (configs | {"schedule": anchor.schedule}).items():
            found |= {f"{name}.{key}": value for key, value in asdict(config).items()}
    return found


def history(
    before: Mapping[str, Any], stage: str, job: LoopConfig, dataset: Dataset
) -> dict[str, Any]:
    """Provenance of an anchor that a run has made of one with the provenance `before`: the same,
    with the run as the last entry of "training"."""
    run = {"stage": stage, "data": dataset.path.name, **contents(dataset)}
    run |= {name: value for name, value in settings(job).items() if name not in FREE}
    run["versions"] = versions(PACKAGES)
    return {**before, "training": [*before.get("training", []), run]}


def validation_numbers(dataset: Dataset, share: float, count: int) -> list[int]:
    """The numbers of `count` frames, spread evenly over what is held out for validation: the last
    share of every clip or, where that is nothing, all frames."""
    spans = clip_spans(dataset, 1 - share if share else 0.0, 1.0)
    spans = [span for span in spans if span[1] > span[0]] or clip_spans(dataset)
    frames = np.concatenate([np.arange(start, end) for start, end in spans])
    return [int(frames[i]) for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
