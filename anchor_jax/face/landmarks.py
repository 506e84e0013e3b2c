"""Checks the face landmarks of a video and fills short gaps.

Each frame has five landmarks: left eye, right eye, nose, left and right mouth corner, image-left
(the person's right) first. x and y are continuous pixels as in `docs/render.md`: (0, 0) is the
upper left corner of the image, (0.5, 0.5) the centre of its first pixel.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from anchor_jax.errors import AnchorError, shorten
from anchor_jax.face.align import SIZE, estimate_transforms, scales
from anchor_jax.shapes import Size

_MAX_GAP = 5  # frames: in a sixth of a second, a face moves almost linearly
_TRUNCATE = 4.0  # standard deviations after which the Gaussian of smoothing ends
_MAX_LOST = 0.5  # fraction of all frames
_MIN_SIDE = 1 / 8  # of the frame's shorter side; erosion removes almost all of a smaller crop
_MIN_EYES = 0.35  # distance between the eyes over distance from eyes to mouth; 0.95 from the front


@dataclass(frozen=True)
class Track:
    """The landmarks of the face in every frame of a video.

    Attributes:
        landmarks: float64 (n, 5, 2), continuous pixels; NaN in frames that are not usable.
        usable: bool (n,), True in frames whose face can be repainted.
        filled: interpolated frames: frame number (from 0) to the fault of its own landmarks.
        skipped: frames that are not usable: frame number (from 0) to the fault.
    """

    landmarks: np.ndarray
    usable: np.ndarray
    filled: dict[int, str]
    skipped: dict[int, str]

    def transforms(self) -> Float[np.ndarray, "n 2 3"]:
        """The transforms from frames to crops, for `align.crop`. NaN in frames that are not usable.

        They map OpenCV's pixel coordinates, which `align` uses: 0.5 less than continuous pixels.
        """
        return estimate_transforms(self.landmarks - 0.5)

    def notes(self) -> list[str]:
        """Messages about interpolated and skipped frames, one sentence each, for the user."""
        notes = []
        if self.filled:
            notes.append(
                f"face landmarks are interpolated in {len(self.filled)} of {len(self.usable)} "
                f"frames: {_describe(self.filled)}"
            )
        if self.skipped:
            notes.append(
                f"the face is left as it is in {len(self.skipped)} of {len(self.usable)} frames: "
                f"{_describe(self.skipped)}"
            )
        return notes


def follow(
    landmarks: Num[np.ndarray, "n 5 2"],
    size: Size,
    visible: Bool[np.ndarray, "n 5"] | None = None,
    smoothing: float = 0.0,
    most_lost: float = _MAX_LOST,
) -> Track:
    """Check the landmarks of a video and fill short gaps.

    Landmarks are unusable if they are missing (not finite), hidden (all five), outside the frame
    (any of them), upside down (roll beyond 90 degrees), turned away (mirrored or in profile), or
    too small (the side of the crop is less than an eighth of the frame's shorter side). Up to five
    unusable frames between usable ones are interpolated linearly. Longer runs, and runs at the
    beginning or end of the video, are skipped.

    Args:
        landmarks: continuous pixels.
        size: width and height of the frames.
        visible: which landmarks are visible, if known.
        smoothing: standard deviation, in frames, of a Gaussian over time; 0 (as published) is none.
        most_lost: fraction of frames that may be unusable.

    Raises:
        AnchorError: more frames than that are unusable, or `smoothing` is negative or not
            finite.
    """
    if not 0 <= smoothing < np.inf:
        raise AnchorError(f"face smoothing is {smoothing}: expected 0 (none) or more frames")
    points = np.array(landmarks, np.float64)
    wrong = _judge(points, size, visible)
    n = len(points)
    if len(wrong) > most_lost * n:
        raise AnchorError(
            f"no usable face in {len(wrong)} of {n} frames: {_describe(wrong)}; expected one in at "
            "least half of them: check the landmarks, or switch faces off (--no-face)"
        )
    usable = np.ones(n, bool)
    usable[list(wrong)] = False
    filled = {}
    for gap in _runs(~usable):
        if gap.start > 0 and gap.stop < n and len(gap) <= _MAX_GAP:
            share = (np.arange(1, len(gap) + 1) / (len(gap) + 1))[:, None, None]
            before, after = points[gap.start - 1], points[gap.stop]
            points[gap.start : gap.stop] = (1 - share) * before + share * after
            filled |= {frame: wrong.pop(frame) for frame in gap}
    usable[list(filled)] = True
    points[~usable] = np.nan
    if smoothing:
        for run in _runs(usable):
            part = points[run.start : run.stop]
            smooth = ndimage.gaussian_filter1d(
                part, smoothing, axis=0, mode="nearest", truncate=_TRUNCATE
            )
            points[run.start : run.stop] = smooth
    return Track(points, usable, filled, wrong)


def reach(smoothing: float) -> int:
    """Return how many frames before and after a frame its landmarks depend on, in `follow`."""
    radius = int(_TRUNCATE * smoothing + 0.5)  # of SciPy's Gaussian
    return radius + _MAX_GAP + 1


def _judge(
    landmarks: Float[np.ndarray, "n 5 2"],
    size: Size,
    visible: Bool[np.ndarray, "n 5"] | None = None,
) -> dict[int, str]:
    """The frames with unusable landmarks: frame number (from 0) to the fault; see `follow`."""
    left_eye, right_eye, _, left_mouth, right_mouth = np.moveaxis(landmarks, 1, 0)
    across = right_eye - left_eye
    down = (left_mouth + right_mouth - left_eye - right_eye) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # Positive for a face seen from the front, negative for a mirrored one.
        facing = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / (down**2).sum(1)
        side = SIZE / scales(estimate_transforms(landmarks - 0.5))
        tests = {
            "missing": ~np.isfinite(landmarks).all((1, 2)),
            "outside": ((landmarks < 0) | (landmarks > size)).any((1, 2)),
            "hidden": np.zeros(len(landmarks), bool) if visible is None else ~visible.any(1),
            "turned away": facing < _MIN_EYES,
            "upside down": down[:, 1] <= 0,
            "too small": ~(side >= _MIN_SIDE * min(size)),
        }
    wrong = {}
    for name, failed in tests.items():
        for frame in np.flatnonzero(failed).tolist():
            wrong.setdefault(frame, name)
    return wrong


def _describe(frames: dict[int, str]) -> str:
    """List frames by fault, numbered from 1 like files: `3, 8-12 (missing)`."""
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
    """The unbroken runs in which `flags` is True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
