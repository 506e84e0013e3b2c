"""Where the face is in every frame: reading landmarks, judging them, filling short gaps.

Five landmarks a frame: left eye, right eye, nose, left and right mouth corner, image-left (the
person's right) first. x and y are in pixels, continuous as in `docs/render.md`: (0, 0) is the
upper left corner of the picture, (0.5, 0.5) the middle of its first pixel.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from anchor_jax.errors import AnchorError, shorten
from anchor_jax.face.align import SIZE, estimate_transforms, scales

MAX_GAP = 5  # frames, a sixth of a second: a face moves evenly enough for that long
MAX_LOST = 0.5  # of all frames
MIN_SIDE = 1 / 8  # of the frame's shorter side: the square of a smaller crop erodes to nothing
MIN_EYES = 0.35  # eye distance, in distances from eyes to mouth; 0.95 from the front

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Track:
    """The face in every frame.

    Attributes:
        landmarks: float64 (n, 5, 2), continuous pixels; NaN where there is no usable face.
        usable: bool (n,), the frames whose face can be repainted.
        filled: of interpolated frames, number (from 0) to what was wrong.
        skipped: of frames that are not usable, the same.
    """

    landmarks: np.ndarray
    usable: np.ndarray
    filled: dict[int, str]
    skipped: dict[int, str]

    def transforms(self, size: int = SIZE) -> Float[np.ndarray, "n 2 3"]:
        """From pixels of the frames, as `align` counts them, to those of crops; NaN where the
        frame is not usable."""
        return estimate_transforms(self.landmarks - 0.5, size)

    def notes(self) -> list[str]:
        """What a user should know about single frames, a sentence each."""
        notes = []
        if self.filled:
            notes.append(
                f"face landmarks are interpolated in {len(self.filled)} of {len(self.usable)} "
                f"frames: {describe(self.filled)}"
            )
        if self.skipped:
            notes.append(
                f"the face is left as it is in {len(self.skipped)} of {len(self.usable)} frames: "
                f"{describe(self.skipped)}"
            )
        return notes


def follow(
    landmarks: Num[np.ndarray, "n 5 2"],
    size: Size,
    visible: Bool[np.ndarray, "n 5"] | None = None,
    smoothing: float = 0.0,
) -> Track:
    """Judge the landmarks of a video and fill short gaps.

    A frame's landmarks are no use when they are missing (not finite), hidden (all five), partly
    outside of the frame, upside down (roll beyond 90 degrees), turned away (mirrored, or in
    profile), or so small that the crop's square is less than an eighth of the frame. Up to
    `MAX_GAP` such frames between good ones are interpolated; longer runs, and those that begin or
    end the video, are left out.

    Args:
        landmarks: continuous pixels.
        size: width and height of the frames.
        visible: which landmarks nothing hides, where that is known.
        smoothing: standard deviation, in frames, of a Gaussian over time; 0 (published) is none.

    Raises:
        AnchorError: more than half of the frames are no use, or `smoothing` is negative or not
            finite.
    """
    if not 0 <= smoothing < np.inf:
        raise AnchorError(f"face smoothing is {smoothing}: expected 0 (none) or more frames")
    points = np.array(landmarks, np.float64)
    wrong = judge(points, size, visible)
    n = len(points)
    if len(wrong) > MAX_LOST * n:
        raise AnchorError(
            f"no usable face in {len(wrong)} of {n} frames: {describe(wrong)}; expected one in at "
            "least half of them: look at the landmarks, or leave the face out (--no-face)"
        )
    usable = np.ones(n, bool)
    usable[list(wrong)] = False
    filled = {}
    for gap in _runs(~usable):
        if gap.start > 0 and gap.stop < n and len(gap) <= MAX_GAP:
            share = (np.arange(1, len(gap) + 1) / (len(gap) + 1))[:, None, None]
            before, after = points[gap.start - 1], points[gap.stop]
            points[gap.start : gap.stop] = (1 - share) * before + share * after
            filled |= {frame: wrong.pop(frame) for frame in gap}
    usable[list(filled)] = True
    points[~usable] = np.nan
    if smoothing:
        for run in _runs(usable):
            part = points[run.start : run.stop]
            smooth = ndimage.gaussian_filter1d(part, smoothing, axis=0, mode="nearest")
            points[run.start : run.stop] = smooth
    return Track(points, usable, filled, wrong)


def judge(
    landmarks: Float[np.ndarray, "n 5 2"],
    size: Size,
    visible: Bool[np.ndarray, "n 5"] | None = None,
) -> dict[int, str]:
    """Of each frame whose landmarks are no use, its number and what is wrong; see `follow`."""
    left_eye, right_eye, _, left_mouth, right_mouth = np.moveaxis(landmarks, 1, 0)
    across = right_eye - left_eye
    down = (left_mouth + right_mouth - left_eye - right_eye) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # Positive for a face from the front: its right side is clockwise of its upper side.
        facing = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / (down**2).sum(1)
        side = SIZE / scales(estimate_transforms(landmarks - 0.5))
        tests = {
            "missing": ~np.isfinite(landmarks).all((1, 2)),
            "outside": ((landmarks < 0) | (landmarks > size)).any((1, 2)),
            "hidden": np.zeros(len(landmarks), bool) if visible is None else ~visible.any(1),
            "turned away": facing < MIN_EYES,
            "upside down": down[:, 1] <= 0,
            "too small": ~(side >= MIN_SIDE * min(size)),
        }
    wrong = {}
    for name, failed in tests.items():
        for frame in np.flatnonzero(failed).tolist():
            wrong.setdefault(frame, name)
    return wrong


def describe(frames: dict[int, str]) -> str:
    """Frames as they are counted on disk, from 1, in runs of one fault: `3, 8-12 (missing)`."""
    parts = []
    for fault in dict.fromkeys(frames.values()):
        numbers = np.zeros(max(frames) + 2, bool)
        numbers[[frame + 1 for frame, name in frames.items() if name == fault]] = True
        runs = [
            str(run.start) if len(run) == 1 else f"{run.start}-{run.stop - 1}"
            for run in _runs(numbers)
        ]
        parts.append(f"{shorten(runs, 8)} ({fault})")
    return ", ".join(parts)


def _runs(flags: np.ndarray) -> list[range]:
    """Where `flags` is True, in unbroken runs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
