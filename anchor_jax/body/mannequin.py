"""The free body: a wooden mannequin for those without the licensed SMPL-X model.

Geometry and skeleton are those of the package mannequin-x (Apache-2.0). Its joints are SMPL-X's, so
the same motion moves it, fingers included; it has no face, so jaw, eyes and expression do not show.
"""

from functools import cached_property

import numpy as np

from anchor_jax.body.motion import Motion
from anchor_jax.errors import AnchorError

NUM_BETAS = 10  # what the package knows of SMPL-X's shape space
JAW_AND_EYES = slice(22, 25)
SIDES = "left", "right"

# Beside the package's joints, in metres from the head joint of the unshaped body, upright and
# facing z: jaw, left eye, right eye. The places are measured on faces of SMPL-X's topology.
INNER_JOINTS = np.array([[0, -0.01, 0.01], [0.032, 0.054, 0.06], [-0.032, 0.054, 0.06]])

# The landmarks, x and y alone: they lie on the surface in front. Image-left is the person's right.
LANDMARKS = np.array(
    [[-0.032, 0.054], [0.032, 0.054], [0, 0.017], [-0.026, -0.016], [0.026, -0.016]]
)
FACE_HEIGHT = -0.05, 0.1  # chin and hairline above the head joint


class Mannequin:
    """The free body, driven by a `Motion`.

    Attributes:
        faces: int32 (F, 3), triangles, counter-clockwise seen from outside.
        groups: vertices, int32 (k,), of "face" (its front from chin to hairline), "head"
            (without the neck), "left_hand" and "right_hand".
    """

    def __init__(self) -> None:
        try:
            from mannequin import Mannequin as Model
        except ImportError as error:
            raise AnchorError(
                "the free body needs mannequin-x; install it: pip install 'anchor-jax[render]'"
            ) from error
        # A motion's hands may be relative to the mean hand or to the flat one.
        self._models = {True: Model("wooden"), False: Model("wooden", flat_hand_mean=True)}
        self.faces = np.asarray(self._models[True].faces, np.int32)
        self.groups = self._find_groups()

    def notes(self, motion: Motion) -> list[str]:
        """What a user should know about the pictures of this motion, a sentence each."""
        notes = [
            "this is the free mannequin, not SMPL-X, and has no face; published "
            "weights were trained on SMPL-X"
        ]
        if motion.hand_pca is not None:
            notes.append(
                "this motion's hands are PCA coefficients, whose basis is in the licensed model "
                "alone; the mannequin's hands are relaxed"
            )
        return notes

    def vertices(self, motion: Motion) -> np.ndarray:
        """Posed vertices, float32 (n, V, 3), metres, in `motion.frame`."""
        model = self._model(motion)
        frames = np.empty((len(motion.poses), model.num_vertices, 3), np.float32)
        for index in range(len(frames)):  # one at a time: skinning holds 24 numbers a coordinate
            frames[index] = model.vertices(_pose(motion, slice(index, index + 1)))[0]
        return frames

    def joints(self, motion: Motion) -> np.ndarray:
        """Joints, float32 (n, 55, 3), metres, in SMPL-X's order, as `motion.poses`."""
        model = self._model(motion)
        transforms = model.joint_transforms(_pose(motion, slice(None)))
        head = transforms[:, model.joint_index("Head")]
        inner = INNER_JOINTS @ head[:, :3, :3].swapaxes(1, 2) + head[:, None, :3, 3]
        joints = transforms[:, :, :3, 3]  # the body, two joints of the palm, the fingers
        return np.concatenate([joints[:, :22], inner, joints[:, 24:]], axis=1).astype(np.float32)

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """Left eye, right eye, nose, left and right mouth corner on the surface of the head.

        Left is image-left in a picture from the front: the person's right.

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
        face = head[(z > 0) & (y > FACE_HEIGHT[0]) & (y < FACE_HEIGHT[1])]
        hands = {f"{side}_hand": self._following(f"{side[0].upper()}_Wrist") for side in SIDES}
        return {"face": face, "head": head, **hands}

    @cached_property
    def _head_joint(self) -> np.ndarray:
        model = self._models[True]
        transforms = model.joint_transforms(model.rest_pose())
        return np.array([0, *transforms[model.joint_index("Head"), 1:3, 3]])  # x: the symmetry's

    def _following(self, joint: str) -> np.ndarray:
        """The vertices that move with a joint and with nothing before it, int32 (k,)."""
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
        found = [_hit(rest, self.faces[head], point) for point in LANDMARKS]
        triangles, weights = zip(*found, strict=True)
        return np.stack(triangles), np.stack(weights)

    def _model(self, motion: Motion):
        model = self._models[motion.mean_hands or motion.hand_pca is not None]
        betas = np.zeros(NUM_BETAS, np.float32)
        betas[: len(motion.betas)] = motion.betas[:NUM_BETAS]
        if not np.array_equal(model.shape, betas):
            model.reshape(betas)
        return model


def _pose(motion: Motion, frames: slice) -> dict[str, np.ndarray]:
    """The package's names for the fields of a motion."""
    poses = motion.poses[frames]
    return {
        "body_pose": poses[:, 1:22],
        "head_pose": poses[:, JAW_AND_EYES],
        "hand_pose": poses[:, 25:],
        "pelvis_rotation": poses[:, 0],
        "global_translation": motion.translation[frames],
    }


def _hit(vertices: np.ndarray, faces: np.ndarray, point: np.ndarray):
    """The foremost triangle (largest z) over `point` (x, y), and where in it, in barycentric
    weights."""
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
    """Of the parallelogram that vectors (..., 2) span, with a sign."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
