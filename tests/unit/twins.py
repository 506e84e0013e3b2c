"""What tests that hold a network against its twin in torch share."""

import numpy as np
import torch


def images(seed: int, *shape: int) -> np.ndarray:
    """Noise, darker from image to image."""
    noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    return noise >> np.arange(shape[0], dtype=np.uint8)[:, None, None, None]


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).float()


def error(found: np.ndarray, expected: torch.Tensor) -> float:
    """The error of a batch, relative to the differences inside it: features of random weights may
    hardly depend on the input."""
    reference = expected.double().numpy()
    assert found.shape == reference.shape
    differences = reference - reference.mean(0)
    return float(np.linalg.norm(found - reference) / np.linalg.norm(differences))
