"""Cutting, joining, smoothing, mirroring and retiming of motions; each gives a new motion.

Rotations are averaged and interpolated on the sphere of unit quaternions, everything else linearly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.motion import MAX_FPS, NUM_JOINTS, Motion
from anchor_jax.errors import AnchorError

LONGEST_SMOOTHING = 10.0  # seconds
MOST_FRAMES = 1 << 22
ROTATIONS_AT_ONCE = 1 << 18

_BODY = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20]
MIRRORED_JOINTS = np.array([*_BODY, 22, 24, 23, *range(40, 55), *range(25, 40)])


def crop(motion: Motion, start: float = 0.0, end: float | None = None) -> Motion:
    """The frames from `start` up to, not including, `end` (seconds; None is the motion's end).

    Times are rounded to the nearest frame.

    Raises:
        AnchorError: times outside of the motion, or no frame between them.
    """
    n = len(motion.poses)
    end = motion.seconds if end is None else end
    for name, second in (("start", start), ("end", end)):
        if not 0 <= second <= motion.seconds + 0.5 / motion.fps:
            raise AnchorError(
                f"{name} is {second:g} s: the motion lasts from 0 to {motion.seconds:g} s"
            )
    first, last = (min(n, round(second * motion.fps)) for second in (start, end))
    if first >= last:
        raise AnchorError(f"no frame lies from {start:g} s to {end:g} s; name a longer time")
    return motion[first:last]


def join(motions: Sequence[Motion]) -> Motion:
    """The motions one after the other, without a transition.

    Body shape, camera and frame rate are the first motion's; the others are resampled to it.

    Raises:
        AnchorError: none given, or motions that differ in their frame of reference or in how they
            tell hands.
    """
    if not motions:
        raise AnchorError("there are no motions to join: expected at least one")
    first = motions[0]
    for number, other in enumerate(motions[1:], 2):
        for name, kind in (
            ("frame", lambda m: m.frame),
            ("mean_hands", lambda m: m.mean_hands),
            ("hand_pca", lambda m: m.hand_pca and [h.shape[1] for h in m.hand_pca]),
        ):
            if kind(other) != kind(first):
                raise AnchorError(
                    f"motions 1 and {number} cannot be joined, their {name} differ: "
                    f"{kind(first)} and {kind(other)}"
                )
    parts = [resample(motion, first.fps) for motion in motions]
    width = max(part.expression.shape[1] for part in parts)
    hands = [part.hand_pca for part in parts if part.hand_pca is not None]
    return replace(
        first,
        poses=np.concatenate([part.poses for part in parts]),
        translation=np.concatenate([part.translation for part in parts]),
        expression=np.concatenate([_widened(part.expression, width) for part in parts]),
        hand_pca=(np.concatenate([h[0] for h in hands]), np.concatenate([h[1] for h in hands]))
        if hands
        else None,
    )


def smooth(motion: Motion, seconds: float) -> Motion:
    """A Gaussian over time, of standard deviation `seconds`, on everything that moves.

    Rotations: the normalised weighted mean of unit quaternions whose signs follow each other. At
    the ends the first and the last frame count on.

    Raises:
        AnchorError: `seconds` is negative, not finite, or above 10.
    """
    if not 0 <= seconds <= LONGEST_SMOOTHING:
        raise AnchorError(f"smoothing is {seconds} s: expected 0 to {LONGEST_SMOOTHING:g}")
    sigma = seconds * float(motion.fps)
    if sigma == 0:
        return motion

    def mean(values: np.ndarray) -> np.ndarray:
        smoothed = gaussian_filter1d(values.astype(np.float64), sigma, axis=0, mode="nearest")
        return smoothed.astype(np.float32)

    def mean_rotation(poses: np.ndarray) -> np.ndarray:
        quaternions = Rotation.from_rotvec(poses.reshape(-1, 3)).as_quat()
        quaternions = quaternions.reshape(len(poses), NUM_JOINTS, 4)
        turns = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdims=True)
        signs = np.cumprod(np.where(turns < 0, -1.0, 1.0), axis=0)
        quaternions[1:] *= signs
        smoothed = gaussian_filter1d(quaternions, sigma, axis=0, mode="nearest")
        length = np.linalg.norm(smoothed, axis=-1, keepdims=True)
        smoothed = np.where(length > 1e-6, smoothed, quaternions)  # turned fully around: no mean
        return _rotvec(Rotation.from_quat(smoothed.reshape(-1, 4))).reshape(poses.shape)

    return _each_frame(motion, mean, mean_rotation)


def mirror(motion: Motion) -> Motion:
    """The motion as a mirror shows it: left and right change places, x its sign.

    With a camera, the picture's left and right change places too. Expression and shape stay as
    they are: SMPL-X has no mirror images of their coefficients.
    """
    flip = np.array([-1, 1, 1], np.float32)
    camera = motion.camera
    if camera is not None:
        camera = replace(
            camera,
            translation=camera.translation * flip,
            center=(camera.size[0] - camera.center[0], camera.center[1]),
        )
    return replace(
        motion,
        poses=motion.poses[:, MIRRORED_JOINTS] * -flip,  # an axis is a pseudovector
        translation=motion.translation * flip,
        camera=camera,
        hand_pca=motion.hand_pca and motion.hand_pca[::-1],
    )


def resample(motion: Motion, fps: Fraction) -> Motion:
    """The motion at another frame rate, as long as before to half a frame.

    Rotations are interpolated along the shortest arc (slerp), everything else linearly. Frames
    past the last one, less than one source frame, repeat it.

    Raises:
        AnchorError: a rate that is none, or a motion that would have millions of frames.
    """
    if not 0 < fps <= MAX_FPS:
        raise AnchorError(f"fps is {fps}: expected above 0, up to {MAX_FPS}")
    fps = Fraction(fps)
    if fps == motion.fps:
        return motion
    n = len(motion.poses)
    count = max(1, math.floor(n * fps / motion.fps + Fraction(1, 2)))
    if count > MOST_FRAMES:
        raise AnchorError(f"at {fps} fps the motion would have {count} frames; name a lower rate")
    times = np.minimum(np.arange(count) * float(motion.fps / fps), n - 1)
    before = np.floor(times).astype(int)
    after = np.minimum(before + 1, n - 1)
    part = times - before

    def interpolate(values: np.ndarray) -> np.ndarray:
        start = values[before].astype(np.float64)
        return (start + (values[after] - start) * part[:, None]).astype(np.float32)

    def slerp(poses: np.ndarray) -> np.ndarray:
        result = np.empty((count, NUM_JOINTS, 3), np.float32)
        step = ROTATIONS_AT_ONCE // NUM_JOINTS  # frames; their quaternions stay in the cache
        for low in range(0, count, step):
            at = slice(low, low + step)
            start = Rotation.from_rotvec(poses[before[at]].reshape(-1, 3))
            turn = start.inv() * Rotation.from_rotvec(poses[after[at]].reshape(-1, 3))
            share = np.repeat(part[at], NUM_JOINTS)[:, None]
            between = start * Rotation.from_rotvec(turn.as_rotvec() * share)
            result[at] = _rotvec(between).reshape(-1, NUM_JOINTS, 3)
        return result

    return replace(_each_frame(motion, interpolate, slerp), fps=fps)


def _each_frame(
    motion: Motion,
    change: Callable[[np.ndarray], np.ndarray],
    change_poses: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Motion:
    """The motion with every array that has a row a frame changed."""
    hands = motion.hand_pca
    return replace(
        motion,
        poses=(change_poses or change)(motion.poses),
        translation=change(motion.translation),
        expression=change(motion.expression),
        hand_pca=hands and (change(hands[0]), change(hands[1])),
    )


def _rotvec(rotation: Rotation) -> np.ndarray:
    return rotation.as_rotvec().astype(np.float32)


def _widened(expression: np.ndarray, width: int) -> np.ndarray:
    return np.pad(expression, ((0, 0), (0, width - expression.shape[1])))
