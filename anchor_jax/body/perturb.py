"""The paper's augmentation of imperfect fits: noise on SMPL-X parameters (section 4.3).

The paper perturbs "the SMPL parameters during training" and gives no strengths; ours are near the
error of a good fit.
"""

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.motion import LEFT_HAND, RIGHT_HAND, Motion
from anchor_jax.errors import AnchorError

STRONGEST = 10.0
LONGEST = 10.0  # seconds


def perturb(
    motion: Motion,
    seed: int,
    *,
    pose: float = 0.03,
    expression: float = 0.1,
    shape: float = 0.1,
    smooth: float = 0.0,
) -> Motion:
    """Gaussian noise on the pose, the expression and the shape of a motion.

    Each parameter has its own stream of random numbers: the noise of one does not change with the
    strength of another. Translation and camera stay as they are.

    Args:
        motion: what to perturb.
        seed: the same seed gives the same noise.
        pose: standard deviation of a turn about each axis of every joint, radians, and of each
            hand coefficient where hands are PCA.
        expression: standard deviation on each expression coefficient.
        shape: the same on each of the betas, one draw for the clip: a body keeps its shape.
        smooth: 0 draws every frame anew; else the noise wanders as slowly as a Gaussian of this
            standard deviation in seconds, with the same strength.

    Raises:
        AnchorError: a seed or a strength out of range.
    """
    if not 0 <= seed < 1 << 32:
        raise AnchorError(f"seed is {seed}: expected 0 to {(1 << 32) - 1}")
    for name, strength in (("pose", pose), ("expression", expression), ("shape", shape)):
        if not 0 <= strength <= STRONGEST:
            raise AnchorError(f"{name} noise is {strength}: expected 0 to {STRONGEST:g}")
    if not 0 <= smooth <= LONGEST:
        raise AnchorError(f"smooth is {smooth} s: expected 0 to {LONGEST:g}")
    sigma = smooth * float(motion.fps)
    for_pose, for_expression, for_shape, *for_hands = np.random.default_rng(seed).spawn(5)

    def noisy(rng: np.random.Generator, values: np.ndarray, strength: float) -> np.ndarray:
        return values + strength * _noise(rng, values.shape, sigma)

    turns = pose * _noise(for_pose, motion.poses.shape, sigma)
    hands = motion.hand_pca
    if hands is not None:  # the model file's basis will give these joints their poses
        turns[:, LEFT_HAND] = turns[:, RIGHT_HAND] = 0
        left, right = (noisy(*pair, pose) for pair in zip(for_hands, hands, strict=True))
        hands = left, right
    draw = for_shape.standard_normal(motion.betas.shape, np.float32)
    return replace(
        motion,
        poses=_turned(motion.poses, turns) if pose else motion.poses,
        expression=noisy(for_expression, motion.expression, expression),
        betas=motion.betas + np.float32(shape) * draw,
        hand_pca=hands,
    )


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Normal noise, float32, of unit variance in every frame, smooth over `sigma` frames."""
    if sigma == 0:
        return rng.standard_normal(shape, np.float32)
    margin = int(4 * sigma + 0.5)  # the filter's reach: no frame is near an end
    white = rng.standard_normal((shape[0] + 2 * margin, *shape[1:]), np.float32)
    kernel = gaussian_filter1d(np.eye(1, 2 * margin + 1, margin)[0], sigma)
    smoothed = gaussian_filter1d(white, sigma, axis=0)[margin : margin + shape[0]]
    return smoothed / np.float32(np.linalg.norm(kernel))


def _turned(poses: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Every joint turned further, in its own axes: also right where a rotation is near pi."""
    rotations = Rotation.from_rotvec(poses.reshape(-1, 3)) * Rotation.from_rotvec(
        turns.reshape(-1, 3)
    )
    return rotations.as_rotvec().reshape(poses.shape).astype(np.float32)
