"""Adds noise to SMPL-X parameters, like the errors of an imperfect fit (paper, section 4.3).

The paper perturbs "the SMPL parameters during training" and gives no strengths. Our defaults are
near the error of a good fit.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.motion import LEFT_HAND, RIGHT_HAND, Motion
from anchor_jax.errors import AnchorError

_MAX_STRENGTH = 10.0
_MAX_SMOOTHING = 10.0  # seconds


def perturb(
    motion: Motion,
    seed: int,
    *,
    pose: float = 0.03,
    expression: float = 0.1,
    shape: float = 0.1,
    smooth: float = 0.0,
) -> Motion:
    """Add Gaussian noise to pose, expression and shape. Translation and camera stay as they are.

    Each parameter has its own random stream, so the noise of one does not depend on the strength
    of another.

    Args:
        motion: the motion to perturb.
        seed: 0 to 2^32 - 1. The same seed gives the same noise.
        pose: standard deviation of a rotation about each axis of every joint, radians, and of each
            hand coefficient if the hands are PCA coefficients. 0 to 10, like the next two.
        expression: standard deviation of the noise on each expression coefficient, and on each
            facial action, which stays from 0 to 1.
        shape: standard deviation of the noise on each of the betas, drawn once for the clip.
        smooth: seconds, 0 to 10. With 0, frames get independent noise. Otherwise the noise is
            smoothed over time by a Gaussian of this standard deviation and rescaled to the same
            strength.

    Raises:
        AnchorError: an argument is out of range.
    """
    if not 0 <= seed < 1 << 32:
        raise AnchorError(f"seed is {seed}: expected 0 to {(1 << 32) - 1}")
    for name, strength in (("pose", pose), ("expression", expression), ("shape", shape)):
        if not 0 <= strength <= _MAX_STRENGTH:
            raise AnchorError(f"{name} noise is {strength}: expected 0 to {_MAX_STRENGTH:g}")
    if not 0 <= smooth <= _MAX_SMOOTHING:
        raise AnchorError(f"smooth is {smooth} s: expected 0 to {_MAX_SMOOTHING:g}")
    sigma = smooth * float(motion.fps)
    for_pose, for_expression, for_shape, *for_hands, for_face = np.random.default_rng(seed).spawn(6)

    def noisy(rng: np.random.Generator, values: np.ndarray, strength: float) -> np.ndarray:
        return values + strength * _noise(rng, values.shape, sigma)

    turns = pose * _noise(for_pose, motion.poses.shape, sigma)
    hands = motion.hand_pca
    if hands is not None:  # these poses come from the basis in the model file
        turns[:, LEFT_HAND] = turns[:, RIGHT_HAND] = 0
        left, right = (noisy(*pair, pose) for pair in zip(for_hands, hands, strict=True))
        hands = left, right
    actions = motion.actions
    if actions is not None:
        actions = np.clip(noisy(for_face, actions, expression), 0, 1).astype(np.float32)
    draw = for_shape.standard_normal(motion.betas.shape, np.float32)
    return replace(
        motion,
        poses=_turned(motion.poses, turns) if pose else motion.poses,
        expression=noisy(for_expression, motion.expression, expression),
        betas=motion.betas + np.float32(shape) * draw,
        hand_pca=hands,
        actions=actions,
    )


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Normal noise, float32, of unit variance in every frame, smoothed over `sigma` frames."""
    if sigma == 0:
        return rng.standard_normal(shape, np.float32)
    margin = int(4 * sigma + 0.5)  # the filter's radius: keeps every frame away from the ends
    white = rng.standard_normal((shape[0] + 2 * margin, *shape[1:]), np.float32)
    kernel = gaussian_filter1d(np.eye(1, 2 * margin + 1, margin)[0], sigma)
    smoothed = gaussian_filter1d(white, sigma, axis=0)[margin : margin + shape[0]]
    return smoothed / np.float32(np.linalg.norm(kernel))


def _turned(poses: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Rotate every joint further about its own axes. Correct for rotations near pi, too."""
    rotations = Rotation.from_rotvec(poses.reshape(-1, 3)) * Rotation.from_rotvec(
        turns.reshape(-1, 3)
    )
    return rotations.as_rotvec().reshape(poses.shape).astype(np.float32)
