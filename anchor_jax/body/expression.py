"""From SMPL-X's face, jaw and expression coefficients, to facial actions.

What an expression coefficient does is written only in the licensed model file. The table below was
derived from pictures instead: TalkSHOW's own renders of two motion files (588 frames), whose faces
were brought to one place, were regressed on the files' coefficients; the picture of each
coefficient was then explained by those of this body's actions (non-negative least squares). See
`benchmarks/expression_table.py` and docs/render.md. Coefficients of which the actions explain less
than a fifth are left out.
"""

import numpy as np

from anchor_jax.body.motion import FACIAL_ACTIONS, JAW, Motion

# SMPL-X's lower lip is about 85 mm from the joint of the jaw. This body's moves 36 mm at jawOpen 1
# and 6.4 mm sideways at jawLeft 1.
_OPEN = 0.085 / 0.036  # of jawOpen for each radian that the jaw turns about x
_ASIDE = 0.085 / 0.0064  # of jawLeft or jawRight for each radian about y

# Of each coefficient, by its number: actions for each unit above 0, and for each unit below.
# A name without a side is that of both.
_TABLE: dict[int, tuple[dict[str, float], dict[str, float]]] = {
    0: ({"mouthUpperUp": 0.65, "mouthStretch": 0.25, "mouthLowerDown": 0.15}, {"mouthPucker": 0.6}),
    1: ({"mouthUpperUp": 0.4, "mouthPucker": 0.2}, {"mouthStretch": 0.35, "mouthLowerDown": 0.15}),
    3: ({"mouthLowerDown": 0.25}, {"mouthPress": 0.2, "mouthStretch": 0.1}),
    4: ({"browOuterUp": 0.25, "browInnerUp": 0.1}, {}),
    5: ({}, {"mouthPucker": 0.15, "mouthPress": 0.1}),
    8: ({"mouthStretch": 0.5, "mouthUpperUp": 0.3}, {"mouthPucker": 0.2}),
    9: ({}, {"mouthStretch": 0.6, "mouthUpperUp": 0.35}),
}


def facial_actions(motion: Motion) -> np.ndarray:
    """Return the facial actions of a motion, float32 (n, 52), 0 to 1: its own if it has them, else
    those nearest to its jaw and expression."""
    if motion.actions is not None:
        return np.clip(motion.actions, 0, 1)
    actions = np.zeros((len(motion.poses), len(FACIAL_ACTIONS)), np.float32)
    jaw = motion.poses[:, JAW]
    add_action(actions, "jawOpen", _OPEN * jaw[:, 0])
    add_action(actions, "jawLeft", _ASIDE * jaw[:, 1])
    add_action(actions, "jawRight", -_ASIDE * jaw[:, 1])
    for number, sides in _TABLE.items():
        if number < motion.expression.shape[1]:
            for sign, names in zip((1, -1), sides, strict=True):
                amount = np.maximum(sign * motion.expression[:, number], 0)
                for name, share in names.items():
                    add_action(actions, name, share * amount)
    return np.clip(actions, 0, 1)


def add_action(actions: np.ndarray, name: str, values: np.ndarray | float) -> None:
    """Add values (n,) to an action, or to both sides of it."""
    for full in (name, f"{name}Left", f"{name}Right"):
        if full in FACIAL_ACTIONS:
            actions[:, FACIAL_ACTIONS.index(full)] += values
