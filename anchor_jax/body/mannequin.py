"""The free body: a wooden mannequin, for users without the licensed SMPL-X model.

Geometry and skeleton come from the package mannequin-x (Apache-2.0). The joints match SMPL-X's, so
the same motion drives it, fingers included. It has no face: jaw, eyes and expression have no
visible effect.
"""

from functools import cached_property

import numpy as np

from anchor_jax.body.motion import Motion, relaxed_hands
from anchor_jax.errors import AnchorError

_NUM_BETAS = 10  # shape coefficients that the package supports
_JAW_AND_EYES = slice(22, 25)
_SIDES = "left", "right"

# Joints that the package lacks: jaw, left eye, right eye. Metres from the head joint of the average
# body, standing and facing z, measured on meshes with SMPL-X's topology.
INNER_JOINTS = np.array([[0, -0.01, 0.01], [0.032, 0.054, 0.06], [-0.032, 0.054, 0.06]])

# x and y of the landmarks in the same coordinates; z is that of the front surface. Image-left is
# the person's right.
_LANDMARKS = np.array(
    [[-0.032, 0.054], [0.032, 0.054], [0, 0.017], [-0.026, -0.016], [0.026, -0.016]]
)
_FACE_HEIGHT = -0.05, 0.1  # of chin and hairline, metres above the head joint


class Mannequin:
    """The free body, driven by a `Motion`.

    Attributes:
        faces: int32 (F, 3), triangles, counter-clockwise seen from outside.
        groups: vertex indices, int32 (k,), of "face" (its front, from chin to hairline), "head"
            (without the neck), "left_hand" and "right_hand".

    Raises:
        AnchorError: mannequin-x is not installed.
    """

    def __init__(self) -> None:
        try:
            from mannequin import Mannequin as Model
        except ImportError as error:
            raise AnchorError(
                "the free body needs mannequin-x; install it: pip install 'anchor-jax[render]'"
            ) from error
        # Hand rotations are relative to the mean hand or to the flat hand, depending on the motion.
        self._models = {True: Model("wooden"), False: Model("wooden", flat_hand_mean=True)}
        self.faces = np.asarray(self._models[True].faces, np.int32)
        self.groups = self._find_groups()

    def notes(self, motion: Motion) -> list[str]:
        """Limitations of the images of this motion, one sentence each, for the user."""
        note = (
            "this is the free mannequin, not SMPL-X, and has no face; published "
            "weights were trained on SMPL-X"
        )
        return [note, *relaxed_hands(motion, "mannequin")]

    def vertices(self, motion: Motion) -> np.ndarray:
        """Posed vertices, float32 (n, V, 3), metres, in `motion.frame`."""
        model = self._model(motion)
        frames = np.empty((len(motion.poses), model.num_vertices, 3), np.float32)
        for index in range(len(frames)):  # one at a time: skinning needs 24 numbers per coordinate
            frames[index] = model.vertices(_pose(motion, slice(index, index + 1)))[0]
        return frames

    def joints(self, motion: Motion) -> np.ndarray:
        """Joint positions, float32 (n, 55, 3), metres, in the order of `motion.poses`."""
        model = self._model(motion)
        transforms = model.joint_transforms(_pose(motion, slice(None)))
        head = transforms[:, model.joint_index("Head")]
        inner = INNER_JOINTS @ head[:, :3, :3].swapaxes(1, 2) + head[:, None, :3, 3]
        joints = transforms[:, :, :3, 3]  # body, two palm joints, fingers
        return np.concatenate([joints[:, :22], inner, joints[:, 24:]], axis=1).astype(np.float32)

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """Left eye, right eye, nose, left and right mouth corner on the surface of the head.

        Left is image-left in an image from the front: the person's right.

        Args:
            vertices: (n, V, 3), from `vertices`.

        Returns:
            float32 (n, 5, 3), metres.
        """
        triangles, weights = self._surface
        return np.einsum("nlcd,lc->nld", vertices[:, triangles], weights).astype(np.float32)

    def _find_groups(self) -> dict[str, np.ndarray]:
        rest = self._models[True].vertices(self._models[True].rest_pose())
        head = self._following("Head")
        _, y, z = (rest[head] - self._head_joint).T
        face = head[(z > 0) & (y > _FACE_HEIGHT[0]) & (y < _FACE_HEIGHT[1])]
        hands = {f"{side}_hand": self._following(f"{side[0].upper()}_Wrist") for side in _SIDES}
        return {"face": face, "head": head, **hands}

    @cached_property
    def _head_joint(self) -> np.ndarray:
        model = self._models[True]
        transforms = model.joint_transforms(model.rest_pose())
        return np.array(
            [0, *transforms[model.joint_index("Head"), 1:3, 3]]
        )  # x = 0: the symmetry plane

    def _following(self, joint: str) -> np.ndarray:
        """Indices of the vertices that move rigidly with `joint`, int32 (k,)."""
        model = self._models[True]
        rest = model.rest_pose()
        bent = model.rest_pose()
        body = model.joint_names[1:22]
        bent["body_pose"][body.index(joint)] = 0.4, 0.5, 0.6
        before, after = (model.joint_transforms(p)[model.joint_index(joint)] for p in (rest, bent))
        motion = after @ np.linalg.inv(before)
        at_rest = model.vertices(rest)
        expected = at_rest @ motion[:3, :3].T + motion[:3, 3]
        error = np.linalg.norm(model.vertices(bent) - expected, axis=1)
        still = np.linalg.norm(expected - at_rest, axis=1)
        return np.flatnonzero(error < np.minimum(1e-3, still)).astype(np.int32)

    @cached_property
    def _surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Triangles (5, 3) and barycentric weights (5, 3) of the landmarks."""
        rest = self._models[True].vertices(self._models[True].rest_pose()) - self._head_joint
        head = np.isin(self.faces, self.groups["head"]).all(1)
        found = [_hit(rest, self.faces[head], point) for point in _LANDMARKS]
        triangles, weights = zip(*found, strict=True)
        return np.stack(triangles), np.stack(weights)

    def _model(self, motion: Motion):
        model = self._models[motion.mean_hands or motion.hand_pca is not None]
        betas = np.zeros(_NUM_BETAS, np.float32)
        betas[: len(motion.betas)] = motion.betas[:_NUM_BETAS]
        if not np.array_equal(model.shape, betas):
            model.reshape(betas)
        return model


def _pose(motion: Motion, frames: slice) -> dict[str, np.ndarray]:
    """The fields of a motion under the names of mannequin-x."""
    poses = motion.poses[frames]
    return {
        "body_pose": poses[:, 1:22],
        "head_pose": poses[:, _JAW_AND_EYES],
        "hand_pose": poses[:, 25:],
        "pelvis_rotation": poses[:, 0],
        "global_translation": motion.translation[frames],
    }


def _hit(vertices: np.ndarray, faces: np.ndarray, point: np.ndarray):
    """The frontmost triangle (largest z) that contains `point` (x, y), and the barycentric weights
    of the point in it."""
    corners = vertices[faces]
    a, b, c = corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, :2]
    area = _area(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        v, w = _area(point - a, c - a) / area, _area(b - a, point - a) / area
    weights = np.stack([1 - v - w, v, w], axis=1)
    inside = np.flatnonzero((weights >= 0).all(1))
    front = inside[np.argmax(np.einsum("fc,fc->f", weights[inside], corners[inside, :, 2]))]
    return faces[front], weights[front]


def _area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Signed area of the parallelogram that vectors (..., 2) span."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
