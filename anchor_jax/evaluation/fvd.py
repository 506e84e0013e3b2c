"""Fréchet video distance (FVD, Unterthiner et al. 2018, https://arxiv.org/abs/1812.01717): between
the logits that I3D has for clips of two sets of videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.errors import AnchorError, require
from anchor_jax.evaluation.frechet import Gaussian, frechet_distance
from anchor_jax.evaluation.i3d import NUM_CLASSES, SHORTEST, SIDE, video_logits
from anchor_jax.shapes import Array, Images, Params

Resize = Literal["published", "antialiased"]


@dataclass(frozen=True)
class Clips:
    """How videos become clips of 224x224 pixels. FVDs of different clips are not comparable.

    Attributes:
        length: frames of a clip; 16 as usual.
        stride: frames from the start of a clip to that of the next one.
        resize: "published": bilinear without antialiasing, as TensorFlow's `resize_bilinear` in
            Google's code, where pixel i of the result is at i h / 224. "antialiased": bilinear
            with a filter that is wider where the frame gets smaller, as Pillow's.

    Raises:
        AnchorError: a number is out of range.
    """

    length: int = 16
    stride: int = 16
    resize: Resize = "published"

    def __post_init__(self):
        require(
            (
                self.length >= SHORTEST,
                f"clips of {self.length} frames: expected {SHORTEST} or more",
            ),
            (self.stride >= 1, f"stride is {self.stride}: expected at least 1"),
        )

    def number(self, frames: int) -> int:
        """Return how many clips a video of so many frames has.

        >>> [Clips(16, 8).number(frames) for frames in (15, 16, 24)]
        [0, 1, 2]
        """
        return max(0, (frames - self.length) // self.stride + 1)

    def cut(self, frames: Iterable[Images]) -> Iterator[np.ndarray]:
        """Cut a video, with one clip in memory.

        Args:
            frames: its frames, uint8 (h, w, 3).

        Yields:
            float32 (length, 224, 224, 3), -1 to 1. Frames after the last whole clip are left out.

        Raises:
            AnchorError: the video is shorter than a clip.
        """
        cutter = ClipCutter(self)
        for frame in frames:
            if (clip := cutter.add(frame)) is not None:
                yield clip
        if cutter.count < self.length:
            raise AnchorError(
                f"{cutter.count} frames: FVD needs at least one clip of {self.length}"
            )


class ClipCutter:
    """Cuts a video whose frames come one by one.

    Args:
        clips: how it is cut.

    Attributes:
        count: number of frames so far.
    """

    def __init__(self, clips: Clips):
        self._clips = clips
        self.count = 0
        self._frames: list[np.ndarray] = []  # of the clip that is not complete

    def add(self, frame: Images) -> np.ndarray | None:
        """Take a frame, uint8 (h, w, 3). Return the clip that it completes, if it does."""
        length, stride = self._clips.length, self._clips.stride
        self.count += 1
        if (self.count - 1) % stride >= length:
            return None  # between two clips
        self._frames.append(np.asarray(_resize(frame, self._clips.resize)))
        if len(self._frames) < length:
            return None
        clip = np.stack(self._frames)
        del self._frames[:stride]
        return clip

    def state(self) -> dict[str, np.ndarray]:
        """Return what `restore` needs to go on."""
        empty = np.zeros((0, SIDE, SIDE, 3), np.float32)
        frames = np.stack(self._frames) if self._frames else empty
        return {"count": np.array(self.count), "frames": frames}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self.count, self._frames = int(state["count"]), list(state["frames"])


def clip_features(variables: Params, frames: Iterable[Images], clips: Clips) -> np.ndarray:
    """Compute the logits of all clips of a video.

    Args:
        variables: from `load_i3d`.
        frames: its frames, uint8 (h, w, 3).
        clips: how it is cut.

    Returns:
        float32 (k, 400), 1.6 kB a clip. Those of two sets of videos give the FVD, see `fvd`.

    Raises:
        AnchorError: the video is shorter than a clip.
    """
    return np.stack([clip_logits(variables, clip) for clip in clips.cut(frames)])


def clip_logits(variables: Params, clip: np.ndarray) -> np.ndarray:
    """Compute the logits of a clip of `Clips.cut`, float32 (400,), and wait for them: the device
    would otherwise keep all clips that wait for it."""
    return np.asarray(video_logits(variables, clip[None]))[0]


def fvd(generated: np.ndarray, truth: np.ndarray) -> float:
    """Compute the Fréchet distance between the features (k, 400) of two sets of clips.

    It falls with the number of clips, so only FVDs of equally many are comparable.

    Raises:
        AnchorError: a set has fewer than two clips.
    """
    return frechet_distance(Gaussian(NUM_CLASSES, generated), Gaussian(NUM_CLASSES, truth))


def _resize(frame: Images, how: Resize) -> Array:
    """Resize a frame to 224x224, float32, -1 to 1."""
    return _published(frame) if how == "published" else _antialiased(frame)


@jax.jit
def _published(frame: Array) -> Array:
    x = frame.astype(jnp.float32)
    for axis in (0, 1):
        size = x.shape[axis]
        place = jnp.arange(SIDE, dtype=jnp.float32) * (size / SIDE)
        low = place.astype(jnp.int32)
        share = jnp.expand_dims(place - low, (1, 2) if axis == 0 else (0, 2))
        first, second = (jnp.take(x, jnp.minimum(low + i, size - 1), axis) for i in (0, 1))
        x = first + (second - first) * share
    return x / 127.5 - 1


@jax.jit
def _antialiased(frame: Array) -> Array:
    small = jax.image.resize(frame.astype(jnp.float32), (SIDE, SIDE, 3), "linear")
    return small / 127.5 - 1
