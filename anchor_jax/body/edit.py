"""Crops, smooths, mirrors and resamples motions. Each function returns a new motion.

Rotations are averaged and interpolated as unit quaternions, all other values linearly. Spherical
interpolation (slerp): Shoemake 1985, https://doi.org/10.1145/325334.325242
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.motion import FACIAL_ACTIONS, MAX_FPS, NUM_JOINTS, Motion
from anchor_jax.errors import AnchorError
from anchor_jax.times import frames_between

_MAX_SMOOTHING = 10.0  # seconds
_MAX_FRAMES = 1 << 22  # of a resampled motion
_ROTATIONS_AT_ONCE = 1 << 18

_MIRRORED_BODY = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20]
_MIRRORED_JOINTS = np.array([*_MIRRORED_BODY, 22, 24, 23, *range(40, 55), *range(25, 40)])
_OTHER_SIDE = {"Left": "Right", "Right": "Left"}
_MIRRORED_ACTIONS = [
    FACIAL_ACTIONS.index(re.sub("Left|Right", lambda side: _OTHER_SIDE[side[0]], name))
    for name in FACIAL_ACTIONS
]


def crop(motion: Motion, start: float = 0.0, end: float | None = None) -> Motion:
    """Keep the frames from `start` up to, but not including, `end`.

    Args:
        motion: the motion to cut.
        start: seconds, rounded to the nearest frame.
        end: seconds, rounded likewise; None is the end of the motion.

    Raises:
        AnchorError: a time is outside the motion, or no frame lies between the two.

    >>> from fractions import Fraction
    >>> zeros = lambda *shape: np.zeros(shape, np.float32)
    >>> motion = Motion(
    ...     zeros(60, 55, 3), zeros(60, 3), zeros(10), zeros(60, 10), Fraction(30), "y_up", True
    ... )
    >>> crop(motion, 0.5, 1.5).seconds
    1.0
    """
    part = frames_between(start, end, motion.fps, len(motion.poses))
    return motion[part.start : part.stop]


def smooth(motion: Motion, seconds: float) -> Motion:
    """Smooth a motion over time with a Gaussian of standard deviation `seconds`.

    A smoothed rotation is the normalised weighted mean of unit quaternions, after the signs of
    neighbouring quaternions are made consistent. Beyond the ends, the first and the last frame are
    repeated.

    Raises:
        AnchorError: `seconds` is negative, not finite, or above 10.
    """
    if not 0 <= seconds <= _MAX_SMOOTHING:
        raise AnchorError(f"smoothing is {seconds} s: expected 0 to {_MAX_SMOOTHING:g}")
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
        smoothed = np.where(length > 1e-6, smoothed, quaternions)  # opposite rotations have no mean
        return _rotvec(Rotation.from_quat(smoothed.reshape(-1, 4))).reshape(poses.shape)

    return _each_frame(motion, mean, mean_rotation)


def mirror(motion: Motion) -> Motion:
    """Mirror a motion: left and right joints change places and x changes its sign.

    A camera is mirrored too, so that the image is mirrored; so are facial actions. Expression and
    shape stay as they are: SMPL-X defines no mirror image of these coefficients.
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
        poses=motion.poses[:, _MIRRORED_JOINTS] * -flip,  # rotation axes are pseudovectors
        translation=motion.translation * flip,
        camera=camera,
        hand_pca=motion.hand_pca and motion.hand_pca[::-1],
        actions=None if motion.actions is None else motion.actions[:, _MIRRORED_ACTIONS],
    )


def resample(motion: Motion, fps: Fraction) -> Motion:
    """Resample a motion to another frame rate. Its duration changes by at most half a new frame.

    Rotations are interpolated along the shortest arc (slerp), all other values linearly. New
    frames later than the last source frame (by less than one source frame) repeat it.

    Raises:
        AnchorError: `fps` is not above 0 and at most 1000, or the result would have more than
            4,194,304 frames.
    """
    if not 0 < fps <= MAX_FPS:
        raise AnchorError(f"fps is {fps}: expected above 0, up to {MAX_FPS}")
    fps = Fraction(fps)
    if fps == motion.fps:
        return motion
    n = len(motion.poses)
    count = max(1, math.floor(n * fps / motion.fps + Fraction(1, 2)))
    if count > _MAX_FRAMES:
        raise AnchorError(f"at {fps} fps the motion would have {count} frames; use a lower rate")
    times = np.minimum(np.arange(count) * float(motion.fps / fps), n - 1)
    before = np.floor(times).astype(int)
    after = np.minimum(before + 1, n - 1)
    part = times - before

    def interpolate(values: np.ndarray) -> np.ndarray:
        start = values[before].astype(np.float64)
        return (start + (values[after] - start) * part[:, None]).astype(np.float32)

    def slerp(poses: np.ndarray) -> np.ndarray:
        result = np.empty((count, NUM_JOINTS, 3), np.float32)
        step = (
            _ROTATIONS_AT_ONCE // NUM_JOINTS
        )  # frames at once; their quaternions fit in the CPU cache
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
    """Apply `change` to every array that has one row per frame, `change_poses` to the poses."""
    hands = motion.hand_pca
    return replace(
        motion,
        poses=(change_poses or change)(motion.poses),
        translation=change(motion.translation),
        expression=change(motion.expression),
        hand_pca=hands and (change(hands[0]), change(hands[1])),
        actions=None if motion.actions is None else change(motion.actions),
    )


def _rotvec(rotation: Rotation) -> np.ndarray:
    return rotation.as_rotvec().astype(np.float32)
