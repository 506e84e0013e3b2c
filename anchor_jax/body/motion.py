"""Body motion: the one type that loaders make and bodies take."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of a fitted video (SHOW)."""

    focal_length: float  # pixels
    center: tuple[float, float]  # principal point, pixels
    translation: np.ndarray  # float32 (3,), metres, SHOW's camera_transl
    size: tuple[int, int]  # width, height, pixels


@dataclass(frozen=True)
class Motion:
    """A clip of SMPL-X parameters."""

    poses: np.ndarray
    translation: np.ndarray
    betas: np.ndarray
    expression: np.ndarray
    fps: Fraction
    frame: str
    mean_hands: bool
    camera: Camera | None = None
    hand_pca: tuple[np.ndarray, np.ndarray] | None = None
