"""From SMPL-X's face, jaw and expression coefficients, to facial actions."""

import numpy as np

from anchor_jax.body.motion import FACIAL_ACTIONS, JAW, Motion

# SMPL-X's lower lip is about 85 mm from the joint of the jaw. This body's moves 36 mm at jawOpen 1
# and 6.4 mm sideways at jawLeft 1.
_OPEN = 0.085 / 0.036  # of jawOpen for each radian that the jaw turns about x
_ASIDE = 0.085 / 0.0064  # of jawLeft or jawRight for each radian about y


def facial_actions(motion: Motion) -> np.ndarray:
    """Return the facial actions of a motion, float32 (n, 52), 0 to 1: its own if it has them, else
    those nearest to its jaw and expression."""
    if motion.actions is not None:
        return np.clip(motion.actions, 0, 1)
    actions = np.zeros((len(motion.poses), len(FACIAL_ACTIONS)), np.float32)
    jaw = motion.poses[:, JAW]
    at = FACIAL_ACTIONS.index
    actions[:, at("jawOpen")] += _OPEN * jaw[:, 0]
    actions[:, at("jawLeft")] += _ASIDE * jaw[:, 1]
    actions[:, at("jawRight")] -= _ASIDE * jaw[:, 1]
    return np.clip(actions, 0, 1)
