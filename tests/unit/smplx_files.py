"""A made-up SMPL-X model file: its arrays and skeleton, but a body of little balls.

Nothing in it comes from the licensed files. Every number that moves vertices is random.
"""

from pathlib import Path

import numpy as np
import pytest

from anchor_jax.body.edit import _MIRRORED_JOINTS
from anchor_jax.body.motion import LEFT_HAND, RIGHT_HAND, Motion

# The joint that each follows (none for the root), independent of the library's own table.
BODY_PARENTS = [4294967295, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
FINGERS = [
    [wrist, first, first + 1]
    for wrist, base in ((20, 25), (21, 40))
    for first in range(base, base + 15, 3)
]
SKELETON = [*BODY_PARENTS, 15, 15, 15, *np.ravel(FINGERS)]

HEAD_CENTRE, HEAD_RADII = np.array([0, 0.24, 0.01]), np.array([0.075, 0.115, 0.095])


def rest_joints() -> np.ndarray:
    """Joints (55, 3) of a person with arms out who faces z, metres."""
    joints = np.zeros((55, 3))
    for joint, y, z in (
        *((0, -0.35, 0), (3, -0.24, -0.01), (6, -0.1, -0.01), (9, -0.04, 0), (12, 0.13, -0.03)),
        *((15, 0.2, -0.01), (22, 0.19, 0.01)),
    ):
        joints[joint] = 0, y, z
    for joint, x, y, z in (
        *((1, 0.07, -0.44, 0), (4, 0.11, -0.82, 0), (7, 0.09, -1.22, -0.03)),
        *((10, 0.12, -1.28, 0.09), (13, 0.05, 0.05, 0), (16, 0.16, 0.07, -0.01)),
        *((18, 0.42, 0.06, -0.02), (20, 0.67, 0.07, -0.02), (23, 0.031, 0.255, 0.06)),
    ):
        joints[joint] = x, y, z
    fingers = (0.1, 0.025), (0.1, 0), (0.08, -0.045), (0.09, -0.025), (0.03, 0.03)
    for finger, (x, z) in enumerate(fingers):  # index, middle, pinky, ring, thumb
        for part in range(3):
            joints[25 + 3 * finger + part] = joints[20] + [x + 0.028 * part, -0.01, z]
    left = np.flatnonzero(np.arange(55) < _MIRRORED_JOINTS)
    joints[_MIRRORED_JOINTS[left]] = joints[left] * [-1, 1, 1]
    return joints


def face_points() -> np.ndarray:
    """The 51 landmarks (x, y) from the middle of the head, in the order of the 300-W annotation
    without the contour; the person's right, negative x, first."""

    def around(x, y, width, height, count):
        angle = np.pi - 2 * np.pi * np.arange(count) / count  # from the image's left over the top
        return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)

    brow = np.stack([np.linspace(-0.055, -0.015, 5), np.full(5, 0.045)], axis=1)
    bridge = np.stack([np.zeros(4), np.linspace(0.025, -0.005, 4)], axis=1)
    nostrils = np.stack([np.linspace(-0.012, 0.012, 5), np.full(5, -0.018)], axis=1)
    return np.concatenate(
        [
            *(brow, brow[::-1] * [-1, 1], bridge, nostrils),
            *(around(x, 0.02, 0.014, 0.006, 6) for x in (-0.031, 0.031)),
            *(around(0, -0.05, *lips) for lips in ((0.026, 0.01, 12), (0.018, 0.004, 8))),
        ]
    )


def make_mesh(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ball around every joint and a head, vertices (V, 3) and triangles (F, 3)."""
    trimesh = pytest.importorskip("trimesh", reason="needs the render extra: trimesh")
    balls = []
    for joint, place in enumerate(joints):
        radius = 0.01 if joint > 22 else 0.05
        ball = trimesh.creation.icosphere(subdivisions=0, radius=radius)
        balls.append((ball.vertices + place, ball.faces))
    head = trimesh.creation.icosphere(subdivisions=3)
    balls[15] = head.vertices * HEAD_RADII + HEAD_CENTRE, head.faces
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in balls)])
    faces = [faces + start for (_, faces), start in zip(balls, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in balls]), np.concatenate(faces)


def smplx_arrays(coefficients: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a model file, in the types that the licensed ones have."""
    rng = np.random.default_rng(seed)
    joints = rest_joints()
    vertices, faces = make_mesh(joints)
    count = len(vertices)
    closeness = 1 / (np.linalg.norm(vertices[:, None] - joints, axis=2) + 0.02) ** 3
    return {
        "v_template": vertices,
        "shapedirs": rng.normal(0, 0.0006, (count, 3, coefficients)),
        "posedirs": rng.normal(0, 0.001, (count, 3, 486)),
        "J_regressor": regressor(vertices, joints),
        "weights": closeness / closeness.sum(1, keepdims=True),
        "kintree_table": np.array([SKELETON, range(55)], np.uint32),
        "f": faces.astype(np.uint32),
        "hands_componentsl": rng.normal(0, 0.3, (45, 45)),
        "hands_componentsr": rng.normal(0, 0.3, (45, 45)),
        "hands_meanl": rng.normal(0, 0.3, 45),
        "hands_meanr": rng.normal(0, 0.3, 45),
        **landmarks(vertices, faces, HEAD_CENTRE),
    }


def regressor(vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Weights (55, V), of sum 1 over some vertices near each joint, that give the joints."""
    rows = np.zeros((len(joints), len(vertices)))
    for row, joint in zip(rows, joints, strict=True):
        near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:30]
        system = np.concatenate([vertices[near].T, np.ones((1, len(near)))])
        row[near] = np.linalg.lstsq(system, [*joint, 1], rcond=None)[0]
    return rows


def landmarks(vertices: np.ndarray, faces: np.ndarray, middle: np.ndarray) -> dict[str, np.ndarray]:
    """The triangles before the head's middle that are nearest to the face's points, and places in
    them."""
    middles = vertices[faces].mean(1) - middle
    front = np.flatnonzero((middles[:, 2] > 0.03) & (np.abs(middles[:, 1]) < 0.12))
    distance = np.linalg.norm(middles[front, None, :2] - face_points(), axis=2)
    return {
        "lmk_faces_idx": front[distance.argmin(0)].astype(np.int64),
        "lmk_bary_coords": np.tile([0.5, 0.3, 0.2], (51, 1)),
    }


def write_smplx(path: Path, **changes: object) -> Path:
    """Write a model file whose arrays are replaced by `changes`, or left out where these are
    None."""
    arrays = smplx_arrays() | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore
    return path


def oracle(path: Path, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of the authors' package, in double precision; after the 55 joints and 21
    chosen vertices come the 51 landmarks."""
    smplx = pytest.importorskip("smplx", reason="needs the authors' package: smplx")
    import torch

    pca = motion.hand_pca
    n, num_betas, num_expression = len(motion.poses), motion.betas.size, motion.expression.shape[1]
    model = smplx.SMPLX(
        str(path),
        ext="npz",
        batch_size=n,
        num_betas=num_betas,
        num_expression_coeffs=num_expression,
        use_pca=pca is not None,
        num_pca_comps=pca[0].shape[1] if pca else 6,
        flat_hand_mean=not motion.mean_hands,
        dtype=torch.float64,
    )
    model.vertex_joint_selector.extra_joints_idxs[:] = 0  # places in the licensed mesh

    def tensor(values: np.ndarray):
        return torch.from_numpy(values.reshape(n, -1).astype(np.float64))

    hands = pca or (motion.poses[:, LEFT_HAND], motion.poses[:, RIGHT_HAND])
    with torch.no_grad():
        result = model(
            betas=torch.from_numpy(motion.betas.astype(np.float64))[None],
            expression=tensor(motion.expression),
            global_orient=tensor(motion.poses[:, 0]),
            body_pose=tensor(motion.poses[:, 1:22]),
            jaw_pose=tensor(motion.poses[:, 22]),
            leye_pose=tensor(motion.poses[:, 23]),
            reye_pose=tensor(motion.poses[:, 24]),
            left_hand_pose=tensor(hands[0]),
            right_hand_pose=tensor(hands[1]),
            transl=tensor(motion.translation),
        )
    return result.vertices.numpy(), result.joints.numpy()
