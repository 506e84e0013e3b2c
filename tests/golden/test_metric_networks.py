"""Networks of metrics with their published weights, where the user's folder has them.

The numbers are those of stlpips_pytorch 0.0.2 in torch and of @vladmandic/face-api 1.7.15 in Node,
both on the CPU, for the pictures that `pictures` makes.
"""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.identity import describe, identity_distance, load_descriptor
from anchor_jax.evaluation.stlpips import FILES, load_stlpips

STLPIPS = {"alexnet": [0.0048571, 0.0659717, 0.4534818], "vgg16": [0.0109152, 0.3035287, 0.6318384]}


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(150, 150, 3))
    smooth = gaussian_filter(noise, (6, 6, 0), mode="wrap")
    return (128 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def pictures() -> np.ndarray:
    """A picture, the same moved by a pixel, the same with noise of sigma 10, and another one."""
    first = blobs(0)
    noisy = first + np.random.default_rng(1).normal(0, 10, first.shape)
    return np.stack([first, np.roll(first, 1, 1), noisy.clip(0, 255).astype(np.uint8), blobs(2)])


@pytest.mark.parametrize("network", STLPIPS)
def test_shift_tolerant_lpips_is_the_published_one(network):
    """Catches a layer that is left out, and weights that are read into the wrong one."""
    try:
        distance, digests = load_stlpips(network=network)
    except AnchorError as error:
        pytest.skip(str(error))
    assert list(digests.values()) == [FILES[network].sha256]
    first, *others = pictures()
    found = distance(np.stack([first] * 3), np.stack(others))
    np.testing.assert_allclose(found, STLPIPS[network], rtol=1e-4)
    np.testing.assert_allclose(distance(np.stack(others), np.stack([first] * 3)), found, rtol=1e-5)
    assert distance(first[None], first[None]) == pytest.approx(0, abs=1e-9)


def test_descriptor_is_the_published_one():
    """Catches bytes that are scaled otherwise, and another padding. face-api divides pixels by 255,
    dlib and we by 256, so numbers differ by a thousandth."""
    try:
        variables, _ = load_descriptor()
    except AnchorError as error:
        pytest.skip(str(error))
    first, _, noisy, other = describe(variables, pictures())
    expected = [-0.0852105, 0.11297133, 0.02508506, -0.0628702]
    np.testing.assert_allclose(first[:4], expected, atol=3e-4)
    found = identity_distance(np.stack([first, first]), np.stack([other, noisy]))
    np.testing.assert_allclose(found, [0.3966373, 0.1470759], rtol=2e-3)
