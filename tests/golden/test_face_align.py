"""Golden H: a face cut out of its frame and pasted back, every step of it."""

import json

import numpy as np
import pytest

from anchor_jax.face import align, blend, mask
from anchor_jax.generation.crops import resize_squares
from tests.torch_side import relative


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, np.ndarray]:
    """The recorded arrays; pictures in RGB."""
    arrays = dict(np.load(golden_dir / "H_face_align.npz"))
    rgb = {k.replace("_bgr_", "_rgb_"): v[..., ::-1] for k, v in arrays.items() if "_bgr_" in k}
    return arrays | rgb


@pytest.fixture(scope="module")
def transforms(golden) -> np.ndarray:
    return align.estimate_transforms(np.stack([golden["lmk_0"], golden["lmk_1"]]))


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within 2 grey levels at most and 0.2 on average: what OpenCV 4 and 5 differ by."""
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_the_template_is_the_published_one(golden):
    """Catches a template of another crop."""
    np.testing.assert_allclose(align._TEMPLATE, golden["template_512"], atol=1e-4)


def test_transforms(golden, golden_dir, transforms):
    """Catches a rotation the wrong way, a scale without the centre, and the frames mixed."""
    report = json.loads((golden_dir / "H_face_align.json").read_text())["report"]
    for index in (0, 1):  # theirs are of float32 landmarks: their shifts are good to 3e-5 pixels
        theirs = report[f"M_{index}_float64"]
        assert relative(transforms[index], theirs) < 1e-6
        assert np.abs(transforms[index] - theirs)[:, :2].max() < 1e-6
    (inverse,) = align.invert(np.array([report["M_0_float64"]]))
    assert np.abs(inverse - report["inverse_matrix_cv2"]).max() < 1e-6


def test_a_crop(golden, transforms):
    """Catches pixels counted from corners, another border and another interpolation."""
    ours = align.crop(golden["body_rgb_u8"][None], transforms[:1])[0]
    close(ours, golden["aligned_crop_rgb_u8"])


def test_the_repainted_crop_is_enlarged_as_published(golden):
    """Catches another filter on the way from 256 to 512 pixels."""
    close(resize_squares(golden["face_256_rgb_u8"][None], 512)[0], golden["face_512_rgb_u8"])


def test_the_weight_of_the_crop(golden, transforms):
    """Catches an erosion off by one, a blur of another width, and 20 taken for another level."""
    weight = blend._square_weight(transforms[0], 512, (512, 512))
    np.testing.assert_allclose(weight, golden["paste_mask"], atol=1e-5)


def test_a_pasted_frame(golden, transforms):
    """Catches rounding, and a crop that comes back shifted."""
    ours = blend.paste(golden["body_rgb_u8"][None], golden["face_512_rgb_u8"][None], transforms[:1])
    close(ours[0], golden["pasted_rgb_u8"])


def test_the_mask_of_a_parsing_image(golden):
    """Catches the face taken for what is kept, a class too many, and no dilation."""
    face = mask.from_parsing(golden["parsing_u8"][None])
    ours = mask.repaint_mask(face)[0, ..., 0]
    assert (ours * 255 == golden["parsing_mask_reverse"]).all()
