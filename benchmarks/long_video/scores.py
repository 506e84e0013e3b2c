"""Compare the frames of a long video with the truth, and average over minutes and cycles."""

from typing import Any

import numpy as np
from scipy import ndimage

from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion.rings import State
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.sharpness import laplacian_variance
from anchor_jax.generation.networks import encode_pictures
from anchor_jax.memory import peak_memory_mb
from anchor_jax.shapes import Images
from anchor_jax.studies.clip import StudyClip, face_region

_ENCODED = 4  # heads that are encoded together
_BESIDE = 1.6  # side of the head's square, in heights of the face region
_REACH = 6 / 128  # of the height: hair and clothes reach so far over the body of the pose image

# Scores by the keys of the JSON file: their heading and number of decimals.
SCORES = {
    "psnr": ("PSNR", 2),
    "background_psnr": ("background PSNR", 2),
    "identity": ("cosine of CLIP image-encoder tokens, head", 4),
    "sharpness": ("sharpness / truth", 3),
    "colour": ("colour: mean - truth", 2),
    "spread": ("colour: spread - truth", 2),
}


class PingPong:
    """The frames of a clip there and back again without end; the two turning points come once."""

    def __init__(self, length: int):
        self._length, self.period = length, max(2 * length - 2, 1)

    def index(self, number: int) -> int:
        """Return the clip's frame that frame `number` of the video shows.

        >>> [PingPong(3).index(number) for number in range(6)]
        [0, 1, 2, 1, 0, 1]
        """
        place = number % self.period
        return min(place, self.period - place) if self._length > 1 else 0


class Meter:
    """Compares frames with the truth.

    Args:
        anchor: the anchor, whose image encoder is used.
        clip: the clip with its truth.
    """

    def __init__(self, anchor: Anchor, clip: StudyClip):
        assert clip.truth is not None
        self._encoder, self._truth = anchor.image_encoder, clip.truth
        self._boxes = [_head_box(region) for region in face_region(clip)]
        reach = max(round(_REACH * clip.poses.shape[1]), 1)
        body = clip.poses.any(-1)
        self._background = ndimage.binary_dilation(body, np.ones((1, 3, 3)), reach) == 0
        every = np.arange(len(clip))
        self._own = self._describe(clip.truth, every)

    def _describe(self, frames: Images, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what does not need the truth: tokens of the head (k, s, c), sharpness (k,), and
        mean and spread of the channels (k, 3)."""
        heads = [frame[self._boxes[i]] for frame, i in zip(frames, indices, strict=True)]
        return {
            "tokens": encode_pictures(self._encoder, heads, _ENCODED),
            "sharpness": laplacian_variance(frames),
            "colour": frames.mean((1, 2)),
            "spread": frames.std((1, 2)),
        }

    def measure(self, frames: Images, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Measure frames (k, h, w, 3) of the clip's poses `indices`.

        Returns:
            For each of `SCORES` an array (k,), or (k, 3) for the channels.
        """
        truth, background = self._truth[indices], self._background[indices]
        ours = self._describe(frames, indices)
        theirs = {name: values[indices] for name, values in self._own.items()}
        lengths = [np.linalg.norm(x["tokens"], axis=-1) for x in (ours, theirs)]
        products = (ours["tokens"] * theirs["tokens"]).sum(-1)
        return {
            "psnr": psnr(frames, truth),
            "background_psnr": psnr(frames, truth, background),
            "identity": (products / (lengths[0] * lengths[1])).mean(-1),
            "sharpness": ours["sharpness"] / theirs["sharpness"],
            "colour": ours["colour"] - theirs["colour"],
            "spread": ours["spread"] - theirs["spread"],
        }


def _head_box(region: np.ndarray) -> tuple[slice, slice]:
    """Return the square around a face region, bool (h, w), which the head fills; or all of it."""
    if not region.any():
        return np.s_[:, :]
    (top, bottom), (left, right) = (
        np.flatnonzero(region.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0)
    )
    half = max(bottom - top, right - left) * _BESIDE / 2
    spans = (
        slice(max(round((low + high) / 2 - half), 0), round((low + high) / 2 + half))
        for low, high in ((top, bottom), (left, right))
    )
    return tuple(spans)  # pyright: ignore[reportReturnType]


class Results:
    """The scores of the frames so far, and the pictures that are shown.

    Args:
        state: of earlier results, which these continue.
    """

    def __init__(self, state: State | None = None):
        state = state or {}
        self._scores = [dict(state["scores"])] if "scores" in state else []
        self._memory = list(state.get("memory", ()))
        self.shown = list(state.get("shown", ()))

    def add(self, scores: dict[str, np.ndarray]) -> None:
        self._scores.append(scores)

    def end_minute(self) -> None:
        """Note the memory that this process took until now."""
        self._memory.append(round(peak_memory_mb()))

    def state(self) -> State:
        """Return what new results need to go on."""
        state: State = {"scores": self._joined(), "shown": np.stack(self.shown)}
        return state | ({"memory": np.array(self._memory)} if self._memory else {})

    def _joined(self) -> dict[str, np.ndarray]:
        self._scores = [{x: np.concatenate([each[x] for each in self._scores]) for x in SCORES}]
        return self._scores[0]

    def summary(self, period: int, minute: int) -> dict[str, Any]:
        """Average the scores of frames over each minute and over each cycle."""
        joined = self._joined()
        count = len(joined["psnr"])

        def means(length: int) -> list[dict[str, Any]]:
            return [
                {x: np.round(v[i : i + length].mean(0), 4).tolist() for x, v in joined.items()}
                for i in range(0, count, length)
            ]

        return {
            "minutes": means(minute),
            "cycles": means(period),
            "frames": count,
            "peak_memory_mb_by_minute": [int(x) for x in self._memory],
        }
