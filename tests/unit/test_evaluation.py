"""Metrics against closed forms."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anchor_jax.evaluation.colour import colour
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.regions import moving_below
from anchor_jax.evaluation.sharpness import sharpness
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error

FLAT = np.full((3, 24, 24, 3), 100, np.uint8)


def left_half(images: np.ndarray) -> np.ndarray:
    region = np.zeros(images.shape[:3], bool)
    region[:, :, : images.shape[2] // 2] = True
    return region


def test_errors_are_those_of_their_formulas():
    """Catches arithmetic in uint8, a mean over the wrong axes and another peak."""
    images = FLAT + np.array([0, 3, 12], np.uint8)[:, None, None, None]
    assert l1(images, FLAT).tolist() == [0, 3, 12]
    assert l1(FLAT, images).tolist() == [0, 3, 12]
    expected = [np.inf, 20 * np.log10(255 / 3), 20 * np.log10(255 / 12)]
    np.testing.assert_allclose(psnr(images, FLAT), expected)


@pytest.mark.parametrize("metric", [l1, psnr, ssim])
def test_only_the_region_counts(metric):
    """Catches a region that is ignored, counted in the wrong places or per channel, and a number
    for a frame without it."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 24, 40, 3), np.uint8)
    images = rng.integers(0, 256, truth.shape, np.uint8)
    region = left_half(truth)
    spoilt = images.copy()
    spoilt[:, :, 26:] = 0  # beyond the reach of a window in the region
    np.testing.assert_array_equal(metric(spoilt, truth, region), metric(images, truth, region))
    assert (metric(spoilt, truth) != metric(images, truth)).all()
    everywhere = np.ones_like(region)
    np.testing.assert_allclose(metric(images, truth, everywhere), metric(images, truth))
    region[1] = False
    assert np.isnan(metric(images, truth, region)).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="region"):
        metric(images, truth, region[:, :, :20])


def test_a_region_is_weighted_by_its_pixels():
    """Catches a mean over the whole frame with zeros outside."""
    images = FLAT.copy()
    images[:, :, :12] += 10
    assert l1(images, FLAT, left_half(images)).tolist() == [10, 10, 10]
    assert l1(images, FLAT).tolist() == [5, 5, 5]
    assert psnr(images, FLAT, left_half(images))[0] == pytest.approx(20 * np.log10(25.5))


def test_sharpness_sees_blur_and_noise():
    """Catches the ratio upside down, and colours that count as sharpness."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.integers(0, 256, (2, 32, 32, 3)), (0, 1, 1, 0)).astype(np.uint8)
    blurred = gaussian_filter(truth, (0, 1, 1, 0))
    noisy = (truth + rng.normal(0, 5, truth.shape)).clip(0, 255).astype(np.uint8)
    assert (sharpness(blurred, truth) < 0.5).all() and (sharpness(noisy, truth) > 1.2).all()
    np.testing.assert_allclose(sharpness(truth // 2, truth), 0.25, rtol=0.2)
    assert np.isnan(sharpness(truth, np.broadcast_to(truth[:1, :1, :1], truth.shape))).all()


def test_a_colour_cast_is_the_colour_error():
    """Catches errors of pixels that count as a cast, and channels that cancel each other."""
    checks = np.indices((24, 24)).sum(0) % 2 * 8
    images = FLAT + checks[..., None].astype(np.uint8) - 4
    np.testing.assert_allclose(colour(images, FLAT), 0, atol=1e-12)
    cast = FLAT + np.array([6, 0, 0], np.uint8) - np.array([0, 0, 6], np.uint8)
    np.testing.assert_allclose(colour(cast, FLAT), 4)


def test_structural_similarity_of_flat_pictures():
    """Catches another luminance term: of two flat pictures nothing else is left."""
    a, b = 100.0, 120.0
    c1 = (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    np.testing.assert_allclose(ssim(FLAT + np.uint8(20), FLAT), expected, rtol=1e-6)


def test_moving_pixels_below_the_head():
    """Catches noise that counts as motion, motion in the head, the place where a thing usually
    is instead of the moments when it is not, and arithmetic in uint8."""
    truth = np.full((5, 8, 8, 3), 200, np.uint8)
    truth[:, 0, 0] = [[0], [250], [0], [250], [0]]  # above
    truth[2, 5, 6, 1] = 169  # in one channel
    truth[3, 5, 5] = 230  # no more than noise
    truth[4, 7, 7] = 231
    moving = moving_below(truth, 4)
    assert np.argwhere(moving).tolist() == [[2, 5, 6], [4, 7, 7]]
    assert moving_below(truth)[1, 0, 0]


def test_flicker_counts_where_the_truth_stands_still():
    """Catches motion that is taken for flicker, and a sign that cancels it."""
    truth = np.full((4, 8, 8, 3), 50, np.uint8)
    truth[1:, :, :4] = 90  # the left half moves once
    images = truth.copy()
    images[::2, :, 4:] += 6  # the right half flickers by six grey levels
    assert flicker(images, truth).tolist() == [6, 3, 3]
    assert flicker(truth, truth).tolist() == [0, 0, 0]
    truth[1] = 0  # everything moves
    assert np.isnan(flicker(truth, truth)).tolist() == [True, True, False]


def test_temporal_error_is_motion_that_is_not_the_truths():
    """Catches an error that a still offset has, and one that a video standing still has not."""
    ramp = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.uint8(10)
    truth = np.broadcast_to(ramp, (5, 8, 8, 3))
    assert temporal_error(truth + np.uint8(40), truth).tolist() == [0] * 4
    assert temporal_error(np.zeros_like(truth), truth).tolist() == [10] * 4
    assert temporal_error(truth[::-1], truth).tolist() == [20] * 4


def test_temporal_scores_of_a_region_are_of_pixels_that_stay_in_it():
    """Catches a region that is left out, and one that is taken from one of two frames alone."""
    truth = np.zeros((3, 4, 8, 3), np.uint8)
    images = truth.copy()
    images[1, :, 4:] = 6  # flickers on the right
    region = np.zeros((3, 4, 8), bool)
    region[:, :, :6] = True
    region[0, :, :4] = False  # two columns in the first two frames, all of them on the right
    for metric in (flicker, temporal_error):
        assert metric(images, truth, region).tolist() == [6, 2]
        assert metric(images, truth).tolist() == [3, 3]


@pytest.mark.parametrize("metric", [l1, psnr, ssim, flicker, temporal_error])
def test_other_shapes_are_refused(metric):
    """Catches a picture that is broadcast over all frames."""
    with pytest.raises(ValueError, match="truth"):
        metric(FLAT, FLAT[:1])
