"""FVD of videos of one colour, of which numbers are public."""

import numpy as np
import pytest

from anchor_jax.evaluation import i3d
from anchor_jax.evaluation.frechet import frechet_distance
from anchor_jax.evaluation.fvd import Clips, video_features

# Google's example says "around 131" for 15 frames; a comparison of ports
# (github.com/universome/fvd-comparison) has the others.
PUBLIC = {15: 131, 16: 153.11, 24: 66.08, 30: 151.17}
SLOW = {24, 30}


@pytest.fixture(scope="module")
def weights():
    try:
        return i3d.load_i3d()
    except i3d.AnchorError as error:
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
        video_features(variables, [np.full((2 * length, 64, 64, 3), level, np.uint8)], clips)
        for level in (0, 255)
    )
    assert black.count == 2
    assert frechet_distance(black, white) == pytest.approx(PUBLIC[length], rel=0.03)
    assert frechet_distance(black, black) == pytest.approx(0, abs=1e-6)
