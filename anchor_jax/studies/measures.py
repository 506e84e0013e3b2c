"""Metrics of videos that come in blocks of frames, in a fixed amount of memory.

Each measure gets the blocks of one video pair after the other. It returns the values of frames, and
keeps what compares sets of frames. `state` and `restore` let an interrupted evaluation go on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anchor_jax.diffusion.rings import State
from anchor_jax.evaluation.colour import colour
from anchor_jax.evaluation.flow import check_opencv, flow_errors
from anchor_jax.evaluation.frechet import Gaussian, frechet_distance
from anchor_jax.evaluation.fvd import ClipCutter, Clips, clip_logits, fvd
from anchor_jax.evaluation.i3d import NUM_CLASSES
from anchor_jax.evaluation.kernel import KernelDistance
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.sharpness import sharpness
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.shapes import Images, Params
from anchor_jax.studies.video_pairs import Block, VideoPair

Values = dict[str, np.ndarray]  # of frames, by the metrics' names

OF_FRAMES = {"psnr": psnr, "ssim": ssim, "l1": l1, "sharpness": sharpness, "colour": colour}
OF_CHANGES = {"flicker": flicker, "temporal_error": temporal_error}
Scores = dict[str, float]


class Measure:
    """A metric or several that share their work. This base measures nothing."""

    def begin(self, pair: VideoPair, number: int) -> None:
        """Start with a pair of videos, the `number`-th from 0."""

    def add(self, block: Block) -> Values:
        """Measure a block; return the values of its frames, or of the changes up to these."""
        return {}

    def end(self, values: Values) -> Values:
        """Finish a pair; return its values as they belong into the result."""
        return values

    def scores(self) -> Scores:
        """Return the scores that are no means of values."""
        return {}

    def floors(self) -> Scores:
        """Return what the truth scores against a slightly disturbed copy of itself."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what belongs beside the scores, JSON values."""
        return {}

    def notes(self) -> list[str]:
        """Return what a reader of the scores must know, one sentence each."""
        return []

    def state(self) -> State:
        """Return what `restore` needs to go on, arrays by names."""
        return {}

    def restore(self, state: State) -> None:
        """Go on from a `state`, in the middle of a pair that has begun."""


class Pixels(Measure):
    """Functions of generated and true frames, or of their changes."""

    def __init__(
        self,
        of_frames: Mapping[str, Callable[[Images, Images], np.ndarray]],
        of_changes: Mapping[str, Callable[[Images, Images], np.ndarray]],
    ):
        self._of_frames, self._of_changes = of_frames, of_changes

    def add(self, block: Block) -> Values:
        values = {
            name: np.asarray(function(block.images, block.truth), np.float64)
            for name, function in self._of_frames.items()
        }
        joined = block.with_last()
        if len(joined[0]) > 1:
            values |= {name: function(*joined) for name, function in self._of_changes.items()}
        return values


class Flow(Measure):
    """The warping error along the truth's flow, and that of the truth itself.

    Raises:
        AnchorError: OpenCV is not installed.
    """

    def __init__(self):
        check_opencv()
        self._sums = np.zeros(2)  # of the truth's errors, and their number

    def add(self, block: Block) -> Values:
        joined = block.with_last()
        if len(joined[0]) < 2:
            return {}
        errors = flow_errors(*joined)
        known = ~np.isnan(errors[:, 1])
        self._sums += errors[known, 1].sum(), known.sum()
        return {"flow_error": errors[:, 0]}

    def floors(self) -> Scores:
        total, count = self._sums
        return {"flow_error": float(total / count)} if count else {}

    def state(self) -> State:
        return {"sums": self._sums}

    def restore(self, state: State) -> None:
        self._sums = state["sums"].copy()


class FeatureSets(Measure):
    """Distances between the features of all generated and all true frames.

    Args:
        names: of the Fréchet and of the kernel distance; None leaves one out.
        encode: images uint8 (k, h, w, 3) to features (k, size).
        size: of a feature vector.
    """

    def __init__(
        self,
        names: tuple[str | None, str | None],
        encode: Callable[[Images], np.ndarray],
        size: int,
    ):
        self._names, self._encode = names, encode
        self._sets = [Gaussian(size) for _ in range(2)]
        self._kernel = KernelDistance()

    def add(self, block: Block) -> Values:
        both = [self._encode(x) for x in (block.images, block.truth)]
        for gaussian, features in zip(self._sets, both, strict=True):
            gaussian.add(features)
        self._kernel.add(*both)
        return {}

    def scores(self) -> Scores:
        values = frechet_distance(*self._sets), self._kernel.value()
        both = zip(self._names, values, strict=True)
        return {name: value for name, value in both if name is not None}

    def notes(self) -> list[str]:
        name, count, size = self._names[0], self._sets[0].count, len(self._sets[0].mean)
        return [_too_few(name, count, "frames", size)] if name and count <= size else []

    def state(self) -> State:
        first, second = (gaussian.state() for gaussian in self._sets)
        return {"generated": first, "true": second, "kernel": self._kernel.state()}

    def restore(self, state: State) -> None:
        for gaussian, name in zip(self._sets, ("generated", "true"), strict=True):
            gaussian.restore(state[name])
        self._kernel.restore(state["kernel"])


class VideoDistance(Measure):
    """FVD of all clips.

    Args:
        variables: of I3D.
        clips: how videos are cut.
    """

    def __init__(self, variables: Params, clips: Clips):
        self._variables, self._clips = variables, clips
        self._features: list[list[np.ndarray]] = [[], []]  # generated, true
        self._cutters = [ClipCutter(clips) for _ in range(2)]

    def begin(self, pair: VideoPair, number: int) -> None:
        self._cutters = [ClipCutter(self._clips) for _ in range(2)]

    def add(self, block: Block) -> Values:
        sides = zip(self._cutters, self._features, (block.images, block.truth), strict=True)
        for cutter, features, frames in sides:
            for frame in frames:
                if (clip := cutter.add(frame)) is not None:
                    features.append(clip_logits(self._variables, clip))
        return {}

    def scores(self) -> Scores:
        return {"fvd": fvd(*self.features())}

    def notes(self) -> list[str]:
        count, size = len(self._features[0]), NUM_CLASSES
        return [_too_few("fvd", count, "clips", size)] if count <= size else []

    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits (k, 400) of all generated and of all true clips."""
        first, second = (np.stack(x) for x in self._features)
        return first, second

    def state(self) -> State:
        sides = zip(("generated", "true"), self._features, self._cutters, strict=True)
        return {
            name: cutter.state() | {"features": np.stack(x) if x else np.zeros((0, NUM_CLASSES))}
            for name, x, cutter in sides
        }

    def restore(self, state: State) -> None:
        for side, name in enumerate(("generated", "true")):
            self._features[side] = list(state[name]["features"])
            self._cutters[side].restore(state[name])


def _too_few(name: str, count: int, what: str, size: int) -> str:
    """Say that a Fréchet distance has fewer vectors than dimensions."""
    return (
        f"{name} is of {count} {what}, fewer than its features have dimensions ({size}): it is"
        f" mostly bias, so compare it only with that of as many {what}"
    )
