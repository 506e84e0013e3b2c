"""Check the inputs of training programs, and record them in the resulting anchor."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.data.dataset import Dataset, decode
from anchor_jax.data.loader import clip_spans
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.poses import framing
from anchor_jax.training.run import PACKAGES
from anchor_jax.versions import versions

from .configs import FREE, LoopConfig, settings


def check_factor(dataset: Dataset, pictures: Sequence[str], factor: int) -> None:
    """Raise AnchorError for pictures whose sides are not multiples of the autoencoder's factor."""
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
    """Describe data set and anchor by their contents, which must be the same when a run continues.

    Args:
        dataset: the data set.
        anchor: the start anchor, or None.
        networks: names of its networks whose configs are included.

    Returns:
        A flat dict of JSON values. The folders may have moved, so paths are not included.
    """
    digest = hashlib.sha256("".join(clip.sha256 for clip in dataset.clips).encode())
    values: dict[str, Any] = {"data.sha256": digest.hexdigest()}
    if anchor is not None:
        present = anchor.networks()
        configs: dict[str, Any] = {name: present[name].config for name in networks}
        for name, config in (configs | {"schedule": anchor.schedule}).items():
            values |= {f"{name}.{key}": value for key, value in asdict(config).items()}
    return values


def history(
    before: Mapping[str, Any], stage: str, job: LoopConfig, dataset: Dataset
) -> dict[str, Any]:
    """Append a run to the entry "training" of an anchor's provenance.

    Args:
        before: provenance of the start anchor.
        stage: name of the stage.
        job: settings of the run.
        dataset: its data set.

    Returns:
        The provenance of the resulting anchor.
    """
    run = {"stage": stage, "data": dataset.path.name, **contents(dataset)}
    run |= {name: value for name, value in settings(job).items() if name not in FREE}
    run["versions"] = versions(PACKAGES)
    return {**before, "training": [*before.get("training", []), run]}


def measure_framing(dataset: Dataset) -> framing.Framing | None:
    """Measure where the pose images of a data set have the person, on frames spread evenly.

    Returns:
        None if too few of them show a person with head and neck.
    """
    source = dataset.source()
    numbers = framing.spread(len(dataset))
    return framing.summarise(decode("pose", source[number]["pose"]) for number in numbers)


def first_picture(dataset: Dataset) -> np.ndarray:
    """Read the first frame of a data set, uint8 (h, w, 3), as a picture of its person."""
    return decode("target", dataset.source()[0]["target"])


def validation_numbers(dataset: Dataset, share: float, count: int) -> list[int]:
    """Choose frames for validation, evenly spaced.

    Args:
        dataset: the data set.
        share: fraction of each clip, its last frames, to choose from. If that is no frame, all
            frames are used.
        count: number of frames.

    Returns:
        Their indices in the data set.
    """
    spans = clip_spans(dataset, 1 - share if share else 0.0, 1.0)
    spans = [span for span in spans if span[1] > span[0]] or clip_spans(dataset)
    frames = np.concatenate([np.arange(start, end) for start, end in spans])
    return [int(frames[i]) for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
