"""What validation makes of PSNR and structural similarity, which is that of scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.evaluation.network_scores import NetworkScores
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.train import validation


def pictures(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 20, 3), np.uint8)


def test_ssim():
    """Catches another window than the paper's, borders that count, channels mixed up, and the
    variance of a sample."""
    metrics = pytest.importorskip("skimage.metrics")
    truth = pictures(0)
    images = np.stack([pictures(1)[0], (truth[1] // 2 + 60).astype(np.uint8), truth[2]])
    expected = [
        metrics.structural_similarity(
            x,
            y,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(images, truth, strict=True)
    ]
    np.testing.assert_allclose(ssim(images, truth), expected, rtol=1e-10)
    assert ssim(images, truth)[2] == 1


def test_validation_scores_and_grid():
    """Catches the truth held against itself, the ceiling taken for the score, NaN in the log, and a
    grid whose columns or rows are in another order."""
    truth, generated, ceiling, poses = (pictures(seed, 2) for seed in range(4))
    none = jnp.zeros(())
    frames = validation.GridFrames(truth, poses, none, None, none, ceiling)
    asked = []

    class Networks(NetworkScores):
        def __init__(self):
            pass

        def measure(self, images, truth):
            asked[:] = images, truth
            return {"lmd_body": 3.5, "identity": float("nan")}

    found = validation.scores(frames, generated, Networks())
    assert asked[0] is generated and asked[1] is truth
    assert found == {
        "validation/lmd_body": 3.5,  # and no score where nobody is found
        "validation/psnr": pytest.approx(psnr(generated, truth).mean()),
        "validation/ssim": pytest.approx(ssim(generated, truth).mean()),
        "validation/psnr_ceiling": pytest.approx(psnr(ceiling, truth).mean()),
    }
    grid = validation.grid(frames, generated)
    assert grid.shape == (2 * 24, 3 * 20, 3)
    np.testing.assert_array_equal(grid[24:, 20:40], generated[1])
    np.testing.assert_array_equal(grid[:24], np.concatenate([poses[0], generated[0], truth[0]], 1))
