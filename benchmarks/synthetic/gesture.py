"""A generated SMPL-X motion of a gesturing, talking person, for use without a motion file."""

from fractions import Fraction

import numpy as np

from anchor_jax.body.motion import JAW, NUM_JOINTS, Motion

_FPS = 30
_HEAD, _LEFT_SHOULDER, _RIGHT_SHOULDER, _LEFT_ELBOW, _RIGHT_ELBOW = 15, 16, 17, 18, 19


def gesture(num_frames: int) -> Motion:
    """Generate a motion: upper arms down, forearms raised alternately, head and jaw moving.

    Rotations are relative to SMPL-X's rest pose: arms stretched sideways, palms down.
    """
    t = np.arange(num_frames) / _FPS
    swing = lambda seconds, phase=0.0: np.sin(2 * np.pi * (t / seconds + phase))
    poses = np.zeros((num_frames, NUM_JOINTS, 3), np.float32)
    poses[:, _HEAD, 1] = 0.2 * swing(3.1)
    poses[:, _HEAD, 0] = 0.08 * swing(1.7)
    poses[:, JAW, 0] = 0.12 + 0.1 * swing(0.4)
    for side, shoulder, elbow, phase in (
        (1, _LEFT_SHOULDER, _LEFT_ELBOW, 0.0),
        (-1, _RIGHT_SHOULDER, _RIGHT_ELBOW, 0.5),
    ):
        poses[:, shoulder, 2] = side * (-1.1 + 0.08 * swing(2.3, phase))
        poses[:, elbow, 1] = side * (-1.5 - 0.4 * swing(2.3, phase))
    nothing = np.zeros((num_frames, 10), np.float32)
    return Motion(
        poses=poses,
        translation=np.zeros((num_frames, 3), np.float32),
        betas=np.zeros(10, np.float32),
        expression=nothing,
        fps=Fraction(_FPS),
        frame="y_up",
        mean_hands=True,
    )
