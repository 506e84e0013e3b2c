"""Motions and meshes that several tests share."""

from fractions import Fraction

import numpy as np

from anchor_jax.body.motion import Camera, Motion

LEFT_ELBOW, RIGHT_ELBOW, HEAD = 18, 19, 15


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random ones, of both signs, most below 1."""
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def moving(
    num_frames: int = 30,
    fps: int | Fraction = 30,
    betas: int = 10,
    expression: int = 10,
    pca: int = 0,
    **fields,
) -> Motion:
    """Everything at random, seen by a camera; hands of `pca` coefficients; fields replace."""
    poses = numbers(num_frames, 55, 3)
    if pca:
        poses[:, 25:] = 0
    place = np.array([0.2, -0.1, 2], np.float32)
    motion = {
        "poses": poses,
        "translation": numbers(num_frames, 3, seed=1),
        "betas": numbers(betas, seed=2),
        "expression": numbers(num_frames, expression, seed=3),
        "fps": Fraction(fps),
        "frame": "camera",
        "mean_hands": True,
        "camera": Camera(1000.0, (310.0, 250.0), place, (640, 480)),
        "hand_pca": (numbers(num_frames, pca, seed=4), numbers(num_frames, pca, seed=5))
        if pca
        else None,
    }
    return Motion(**(motion | fields))


def standing(num_frames: int = 1, **fields) -> Motion:
    """A person with hanging arms who faces z, y up; fields replace or add."""
    poses = np.zeros((num_frames, 55, 3), np.float32)
    poses[:, 16, 2], poses[:, 17, 2] = -1.2, 1.2
    motion = {
        "poses": poses,
        "translation": np.zeros((num_frames, 3), np.float32),
        "betas": np.zeros(10, np.float32),
        "expression": np.zeros((num_frames, 10), np.float32),
        "fps": Fraction(30),
        "frame": "y_up",
        "mean_hands": True,
    }
    return Motion(**(motion | fields))


def gesturing(num_frames: int = 12, **fields) -> Motion:
    """The person raises the lower arms, one after the other."""
    motion = standing(num_frames)
    phase = np.linspace(0, np.pi, num_frames)
    motion.poses[:, LEFT_ELBOW, 1] = -1.5 * np.sin(phase)
    motion.poses[:, RIGHT_ELBOW, 1] = 1.5 * np.sin(phase) ** 2
    return standing(num_frames, **({"poses": motion.poses} | fields))


def talkshow(num_frames: int = 6) -> np.ndarray:
    """The same in TalkSHOW's form, float32 (n, 265): camera frame, y down."""
    poses = gesturing(num_frames).poses
    data = np.zeros((num_frames, 265), np.float32)
    data[:, 9] = np.pi
    data[:, 12:75] = poses[:, 1:22].reshape(num_frames, 63)
    return data


def show_form(motion: Motion) -> dict:
    """A motion with its camera in SHOW's form; its hands are coefficients."""
    camera, hands = motion.camera, motion.hand_pca
    assert camera is not None and hands is not None and motion.frame == "camera"
    count = len(motion.poses)
    return {
        "global_orient": motion.poses[:, 0],
        "body_pose_axis": motion.poses[:, 1:22].reshape(count, 63),
        "jaw_pose": motion.poses[:, 22],
        "leye_pose": motion.poses[:, 23],
        "reye_pose": motion.poses[:, 24],
        "left_hand_pose": hands[0],
        "right_hand_pose": hands[1],
        "expression": motion.expression,
        "betas": motion.betas[None],
        "transl": motion.translation,
        "camera_transl": camera.translation,
        "focal_length": camera.focal_length,
        "center": list(camera.center),
        "width": camera.size[0],
        "height": camera.size[1],
        "batch_size": count,
    }


def read_obj(path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 (V, 3) and triangles int32 (F, 3) of an OBJ file; quads are split."""
    vertices, faces = [], []
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words[:3]])
        elif kind == "f":
            corners = [int(word.split("/")[0]) - 1 for word in words]
            faces += [[corners[0], *corners[i : i + 2]] for i in range(1, len(corners) - 1)]
    return np.array(vertices, np.float32), np.array(faces, np.int32)
