"""FVD of videos of one colour, of which numbers are public."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anchor_jax.assets import open_assets
from anchor_jax.data.video import read_frames
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import i3d
from anchor_jax.evaluation.fvd import Clips, clip_features, fvd

# Google's example says "around 131" for 15 frames; a comparison of ports
# (github.com/universome/fvd-comparison) has the others.
PUBLIC = {15: 131, 16: 153.11, 24: 66.08, 30: 151.17}
SLOW = {24, 30}


@pytest.fixture(scope="module")
def weights():
    try:
        return i3d.load_i3d()
    except AnchorError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "length", [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in PUBLIC]
)
def test_black_and_white(weights, length):
    """Catches other weights, another range of the pixels, another pooling over time, and another
    formula."""
    variables, digest = weights
    assert digest == i3d.SHA256
    clips = Clips(length, length)
    black, white = (
        clip_features(variables, np.full((2 * length, 64, 64, 3), level, np.uint8), clips)
        for level in (0, 255)
    )
    assert black.shape == (2, 400)
    assert fvd(black, white) == pytest.approx(PUBLIC[length], rel=0.03)
    assert fvd(black, black) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_noise_blur_and_another_order_of_frames_show(weights):
    """Catches clips whose frames are measured one by one, and a distance that does not grow."""
    truth = read_frames(open_assets().test / "truth.mp4")[0]
    variables, _ = weights
    rng = np.random.default_rng(0)

    def distance(frames: np.ndarray) -> float:
        return fvd(clip_features(variables, frames, Clips()), expected)

    expected = clip_features(variables, truth, Clips())
    noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (5, 20)]
    blurred = [gaussian_filter(truth, (0, sigma, sigma, 0)) for sigma in (1, 3)]
    noise, blur = (
        [distance(x.clip(0, 255).astype(np.uint8)) for x in changed] for changed in (noisy, blurred)
    )
    assert 1 < noise[0] < noise[1] and 1 < blur[0] < blur[1]
    assert distance(truth[rng.permutation(len(truth))]) > 1
    assert distance(truth.repeat(4, 0)[: len(truth)]) > 1
