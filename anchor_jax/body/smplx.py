"""The licensed body: SMPL-X, computed from the user's own model file.

Blend shapes and linear blend skinning of Pavlakos et al., Expressive Body Capture, CVPR 2019,
section 3.1, https://arxiv.org/abs/1904.05866. Vertices and joints agree with the authors' package
smplx, which is not needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.body.motion import LEFT_HAND, NUM_JOINTS, RIGHT_HAND, Motion
from anchor_jax.body.skinning import chunks, pose_skeleton, rotation_matrices, skin
from anchor_jax.body.smplx_file import EXPECTED_FILE, PARENTS, SmplxFile, read_smplx
from anchor_jax.compiling import jit
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Array

# The 51 landmarks of the file are the last 51 of the 68 landmarks of 300-W, image-left first.
_LEFT_EYE, _RIGHT_EYE = slice(19, 25), slice(25, 31)  # six around each
_NOSE_TIP, _LEFT_MOUTH, _RIGHT_MOUTH = 13, 31, 37

_HEAD = [15, 22, 23, 24]  # with jaw and eyes
# Borders of the face below the mouth, above the eyes and behind the eyes. Unit: height of the eyes
# above the mouth. Chosen on a mesh with SMPL-X's topology.
_CHIN, _HAIRLINE, _EARS = 0.65, 1.0, 1.05


class _Arrays(NamedTuple):
    """The model's arrays, float32, metres. k: shape coefficients, then expression coefficients."""

    template: Array  # (V, 3)
    directions: Array  # (V, 3, k)
    pose_directions: Array  # (V, 3, 486)
    joints: Array  # (55, 3), joints of the template
    joint_directions: Array  # (55, 3, k)
    weights: Array  # (V, 55)


class Smplx:
    """SMPL-X, driven by a `Motion`.

    Attributes:
        faces: int32 (F, 3), triangles, counter-clockwise seen from outside.
        groups: vertex indices, int32 (k,), of "face": its front from chin to hairline, with the
            eyeballs.

    Raises:
        AnchorError: the file is not a readable SMPL-X model.
    """

    def __init__(self, path: Path) -> None:
        file = read_smplx(path)
        self.faces = file.f.astype(np.int32)
        self._num_betas = file.num_betas
        self._hands = [
            (LEFT_HAND, file.hands_componentsl, file.hands_meanl),
            (RIGHT_HAND, file.hands_componentsr, file.hands_meanr),
        ]
        self._corners = self.faces[file.lmk_faces_idx]
        self._shares = file.lmk_bary_coords
        self.groups = {"face": _face(path, file, self.landmarks(file.v_template[None])[0])}
        regressor = file.J_regressor.astype(np.float64)
        joints = regressor @ file.v_template, np.tensordot(regressor, file.shapedirs, 1)
        self._arrays = _Arrays(
            template=jnp.asarray(file.v_template),
            directions=jnp.asarray(file.shapedirs),
            pose_directions=jnp.asarray(file.posedirs),
            joints=jnp.asarray(joints[0], jnp.float32),
            joint_directions=jnp.asarray(joints[1], jnp.float32),
            weights=jnp.asarray(file.weights),
        )

    def notes(self, motion: Motion) -> list[str]:
        """Limitations of the images of this motion, one sentence each, for the user."""
        num_expression = self._arrays.directions.shape[2] - self._num_betas
        left_out = [
            f"{name} coefficients after the first {count}"
            for name, values, count in (
                ("shape", motion.betas, self._num_betas),
                ("expression", motion.expression, num_expression),
            )
            if values[..., count:].any()
        ]
        if not left_out:
            return []
        return [f"this model file does not support the motion's {' and '.join(left_out)}"]

    def vertices(self, motion: Motion) -> np.ndarray:
        """Posed vertices, float32 (n, V, 3), metres, in `motion.frame`."""
        frames = np.empty((len(motion.poses), len(self._arrays.template), 3), np.float32)
        for part, fields in self._chunks(motion):
            frames[part] = _vertices(self._arrays, *fields)[: len(frames[part])]
        return frames

    def joints(self, motion: Motion) -> np.ndarray:
        """Joint positions, float32 (n, 55, 3), metres, in the order of `motion.poses`."""
        joints = np.empty((len(motion.poses), NUM_JOINTS, 3), np.float32)
        for part, fields in self._chunks(motion):
            joints[part] = _joints(self._arrays, *fields)[: len(joints[part])]
        return joints

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """Left eye, right eye, nose tip, left and right mouth corner on the surface of the head.

        Left is image-left in an image from the front: the person's right. Each eye is the mean of
        the six landmarks around it.

        Args:
            vertices: (n, V, 3), from `vertices`.

        Returns:
            float32 (n, 5, 3), metres.
        """
        points = np.einsum("nlcd,lc->nld", vertices[:, self._corners], self._shares)
        eyes = [points[:, eye].mean(1) for eye in (_LEFT_EYE, _RIGHT_EYE)]
        others = [points[:, point] for point in (_NOSE_TIP, _LEFT_MOUTH, _RIGHT_MOUTH)]
        return np.stack([*eyes, *others], axis=1).astype(np.float32)

    def _chunks(self, motion: Motion) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Split poses, coefficients and translation, see `chunks`."""
        coefficients = np.zeros((len(motion.poses), self._arrays.directions.shape[2]), np.float32)
        shape, expression = np.split(coefficients, [self._num_betas], axis=1)  # views
        for target, values in ((shape, motion.betas), (expression, motion.expression)):
            width = min(target.shape[1], values.shape[-1])
            target[:, :width] = values[..., :width]
        return chunks(self._expand(motion), coefficients, motion.translation)

    def _expand(self, motion: Motion) -> np.ndarray:
        """The poses, with hand rotations relative to the flat hand."""
        poses = motion.poses.copy()
        for side, (hand, components, mean) in enumerate(self._hands):
            if motion.hand_pca is not None:
                pca = motion.hand_pca[side]
                poses[:, hand] = (pca @ components[: pca.shape[1]]).reshape(-1, 15, 3)
            if motion.mean_hands:
                poses[:, hand] += mean.reshape(15, 3)
        return poses


def _face(path: Path, file: SmplxFile, landmarks: np.ndarray) -> np.ndarray:
    """Indices of the face's vertices: skinned to head, jaw or eyes, between chin and hairline, in
    front of the ears.

    The borders are measured from the landmarks, so the numbering of vertices does not matter.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    upright = eyes[1] > nose[1] > mouth[1] and nose[2] > eyes[2]
    if not (upright and left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]):
        raise AnchorError(
            f"{path}: the 51 landmarks (lmk_faces_idx) are not brows, nose, eyes and mouth of a "
            f"face that looks along z; expected {EXPECTED_FILE}"
        )
    unit = eyes[1] - mouth[1]
    _, y, z = file.v_template.T
    of_head = file.weights[:, _HEAD].sum(1) > 0.5
    inside = (y > mouth[1] - _CHIN * unit) & (y < eyes[1] + _HAIRLINE * unit)
    return np.flatnonzero(of_head & inside & (z > eyes[2] - _EARS * unit)).astype(np.int32)


@jit
@jax.default_matmul_precision("highest")
def _joints(arrays: _Arrays, poses: Array, coefficients: Array, translation: Array) -> Array:
    return _skeleton(arrays, rotation_matrices(poses), coefficients)[1] + translation[:, None]


@jit
@jax.default_matmul_precision("highest")
def _vertices(arrays: _Arrays, poses: Array, coefficients: Array, translation: Array) -> Array:
    """Vertices (f, V, 3) of poses (f, 55, 3), coefficients (f, k) and translations (f, 3)."""
    rotations = rotation_matrices(poses)
    turns, places, rest = _skeleton(arrays, rotations, coefficients)
    features = (rotations[:, 1:] - jnp.eye(3)).reshape(len(poses), -1)
    shaped = arrays.template + jnp.einsum("fk,vdk->fvd", coefficients, arrays.directions)
    posed = shaped + jnp.einsum("fk,vdk->fvd", features, arrays.pose_directions)
    shifts = places - jnp.einsum("fjde,fje->fjd", turns, rest)
    return skin(posed, arrays.weights, turns, shifts) + translation[:, None]


def _skeleton(arrays: _Arrays, rotations: Array, coefficients: Array) -> tuple[Array, Array, Array]:
    """World rotations (f, 55, 3, 3), posed and rest positions (f, 55, 3) of all joints."""
    rest = arrays.joints + jnp.einsum("fk,jdk->fjd", coefficients, arrays.joint_directions)
    return *pose_skeleton(PARENTS, rest, rotations), rest
