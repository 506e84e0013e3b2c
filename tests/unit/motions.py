"""Motions and meshes that several tests share."""

from fractions import Fraction

import numpy as np

from anchor_jax.body.motion import Motion

LEFT_ELBOW, RIGHT_ELBOW, HEAD = 18, 19, 15


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
