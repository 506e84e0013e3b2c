"""Cutting faces out, judging landmarks, pasting back: what needs no network."""

import numpy as np
import pytest
from scipy import ndimage

from anchor_jax.errors import AnchorError
from anchor_jax.face import align, blend, mask
from anchor_jax.face.landmarks import _MAX_GAP, Track, follow

SIZE = (512, 512)


def face(x: float = 256, y: float = 200, side: float = 160, angle: float = 0) -> np.ndarray:
    """Landmarks (5, 2) of an upright face whose crop is a square of `side` pixels around (x, y),
    turned by `angle` degrees."""
    points = (align._TEMPLATE - 255.5) * side / 512
    turn = np.exp(1j * np.radians(angle)) * (points @ (1, 1j))
    return np.stack([turn.real + x, turn.imag + y], 1)


def video(n: int = 10) -> np.ndarray:
    """A face that drifts to the right, (n, 5, 2)."""
    return np.stack([face(x=220 + 2 * i) for i in range(n)])


def test_transforms_bring_every_face_to_the_template():
    """Catches frames mixed and mirrored rotations."""
    angles = [0, 30, -170, 90]
    points = np.stack([face(100 + a, 200, 100, a) for a in angles])
    transforms = align.estimate_transforms(points)
    ones = np.ones((*points.shape[:2], 1))
    there = np.concatenate([points, ones], 2) @ transforms.swapaxes(1, 2)
    np.testing.assert_allclose(there, np.tile(align._TEMPLATE, (4, 1, 1)), atol=1e-9)
    back = np.concatenate([there, ones], 2) @ align.invert(transforms).swapaxes(1, 2)
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_transforms_are_the_least_squares_ones():
    """Catches a fit of two points, or one that weighs them."""
    rng = np.random.default_rng(0)
    points = face() + rng.normal(scale=4, size=(5, 2))
    (ours,) = align.estimate_transforms(points[None])
    x, y = points.T
    zero, one = np.zeros(5), np.ones(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, dx, dy = np.linalg.lstsq(rows, align._TEMPLATE.T.ravel())[0]
    np.testing.assert_allclose(ours, [[a, -b, dx], [b, a, dy]], atol=1e-9)


def test_landmarks_that_are_missing_or_one_point_give_nan():
    """Catches a warning, or a crop of anywhere."""
    points = np.stack([np.full((5, 2), np.nan), np.full((5, 2), 7.0), face()])
    transforms = align.estimate_transforms(points)
    assert np.isnan(transforms[:2]).all() and np.isfinite(transforms[2]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_warp_is_bilinear_with_zeros_outside(dtype):
    """Catches another interpolation, an edge that repeats, x and y swapped, and overflow."""
    rng = np.random.default_rng(1)
    image = (rng.random((40, 60, 3)) * 255).astype(dtype)
    image = ndimage.gaussian_filter(image, (2, 2, 0)).astype(dtype)
    angle, scale = np.radians(25), 1.7
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    transform = np.array([[[a, -b, 10.3], [b, a, -21.8]]])
    ours = align.warp(image[None], transform, (90, 70))[0]
    inverse = align.invert(transform)[0]
    matrix, offset = inverse[::-1, [1, 0]], inverse[::-1, 2]
    theirs = np.stack(
        [
            ndimage.affine_transform(
                image[..., c].astype(float), matrix, offset, (70, 90), order=1, mode="grid-constant"
            )
            for c in range(3)
        ],
        -1,
    )
    assert (ours == 0).all(2).any()
    assert np.abs(ours - theirs).max() < 8  # 1/32 of a pixel at the edges
    assert np.abs(ours - theirs).mean() < 0.6


def test_a_face_far_outside_is_black_and_pastes_nothing():
    """Catches an index that wraps around."""
    frame = np.full((1, 64, 64, 3), 90, np.uint8)
    transform = align.estimate_transforms(face(5000, -5000)[None])
    assert not align.crop(frame, transform).any()
    white = np.full((1, 512, 512, 3), 255, np.uint8)
    assert (blend.paste(frame, white, transform) == frame).all()


def test_pasting_the_crop_back_changes_nothing_but_rounding():
    """Catches a paste by another transform than the crop's."""
    rng = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(rng.random((1, 256, 256, 3)), (0, 6, 6, 0))
    frame = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    transform = align.estimate_transforms(face(120, 130, 110, 12)[None])
    pasted = blend.paste(frame, align.crop(frame, transform), transform)
    assert np.abs(pasted.astype(int) - frame).max() <= 4
    assert np.abs(pasted.astype(int) - frame).mean() < 1.1


def test_erosion_and_blur_grow_with_the_frame():
    """Catches widths for 512 pixels, as published, that swallow the square of a small frame."""
    large = blend._square_weight(align.estimate_transforms(face()[None])[0], 512, SIZE)
    points = face()[None] / 4
    small = blend._square_weight(align.estimate_transforms(points)[0], 512, (128, 128))
    assert abs(large.mean() - small.mean()) < 0.01
    assert large.max() == pytest.approx(1) and small.max() == pytest.approx(1)


def test_blending_in_the_face_leaves_the_rest_of_the_square_alone():
    """Catches the region taken inside out, and a region in other coordinates than the crop's."""
    frame = np.zeros((1, 512, 512, 3), np.uint8)
    crop = np.full((1, 512, 512, 3), 200, np.uint8)
    transform = align.estimate_transforms(face(side=400)[None])
    region = np.zeros((1, 512, 512), bool)
    region[:, 300:450, 150:350] = True  # below the middle
    changed = blend.paste(frame, crop, transform, region)[0, ..., 0]
    square = blend.paste(frame, crop, transform)[0, ..., 0]
    assert (changed <= square).all() and 0 < (changed > 100).sum() < 0.5 * (square > 100).sum()
    rows = np.flatnonzero((changed > 100).any(1))
    assert rows.min() > 200


def test_the_oval_is_where_the_landmarks_are():
    """Catches an oval beside the face, one as large as the crop, and x and y exchanged."""
    region = mask.oval()
    for x, y in align._TEMPLATE:
        assert region[round(y), round(x)]
    assert 0.2 < region.mean() < 0.4
    assert not region[0].any() and not region[:, 0].any()


def test_a_mask_is_widened_by_one_pixel_and_inverted():
    """Catches a cross instead of a square, frames that touch each other, and the polarity."""
    region = np.zeros((2, 7, 7), bool)
    region[0, 3, 3] = True
    keep = mask.repaint_mask(region)[..., 0]
    expected = np.ones((2, 7, 7))
    expected[0, 2:5, 2:5] = 0
    assert (keep == expected).all()


BAD = {
    "missing": lambda: np.full((5, 2), np.nan),
    "outside": lambda: face(x=5),
    "turned away": lambda: face()[[1, 0, 2, 4, 3]],
    "upside down": lambda: face(angle=180),
    "too small": lambda: face(side=8),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_face_in_a_few_frames_is_interpolated(fault):
    """Catches a fault that is not seen, one filled by its neighbour alone, and one not reported."""
    points = video()
    points[[4, 5]] = BAD[fault]()
    track = follow(points, SIZE)
    assert track.usable.all() and not track.skipped
    assert track.filled == {4: fault, 5: fault}
    np.testing.assert_allclose(track.landmarks, video(), atol=1e-9)
    (note,) = track.notes()
    assert f"interpolated in 2 of 10 frames: 5-6 ({fault})" in note


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_face_for_longer_is_left_out(fault):
    """Catches a face painted on the back of a head, or one that slides over a long gap."""
    points = video(20)
    points[3 : 3 + _MAX_GAP + 1] = BAD[fault]()
    points[19] = BAD[fault]()
    track = follow(points, SIZE)
    assert list(track.skipped) == [3, 4, 5, 6, 7, 8, 19] and not track.filled
    assert (np.flatnonzero(~track.usable) == list(track.skipped)).all()
    assert np.isnan(track.landmarks[~track.usable]).all()
    (note,) = track.notes()
    assert f"left as it is in 7 of 20 frames: 4-9, 20 ({fault})" in note


@pytest.mark.parametrize("fault", BAD)
def test_bad_faces_in_most_frames_are_refused(fault):
    """Catches a video without faces that is made all the same."""
    points = video()
    points[2:8] = BAD[fault]()
    with pytest.raises(AnchorError, match=f"no usable face in 6 of 10 frames: 3-8 .{fault}."):
        follow(points, SIZE)


def test_two_frames_are_enough():
    """Catches a gap filled from one side, and a fit over time that needs more frames."""
    assert follow(video(2), SIZE, smoothing=3.0).usable.all()
    points = video(2)
    points[1] = np.nan
    track = follow(points, SIZE)
    assert track.usable.tolist() == [True, False] and track.skipped == {1: "missing"}
    with pytest.raises(AnchorError, match="no usable face in 2 of 2 frames"):
        follow(np.full((2, 5, 2), np.nan), SIZE)


def test_a_face_that_everything_hides_is_no_face():
    """Catches landmarks behind a hand or the head that count because they are exact."""
    visible = np.ones((10, 5), bool)
    visible[4, :4] = False  # one is seen
    visible[6] = False
    assert follow(video(), SIZE, visible).filled == {6: "hidden"}


def test_smoothing_takes_jitter_away_and_not_the_motion():
    """Catches smoothing that is on by default, over the wrong axis, or across left-out frames."""
    rng = np.random.default_rng(3)
    points = video(40) + rng.normal(scale=2, size=(40, 5, 2))
    points[20:30] = np.nan
    rough, smooth = follow(points, SIZE), follow(points, SIZE, smoothing=2.0)
    seen = rough.usable
    assert (rough.landmarks[seen] == points[seen]).all()
    assert (seen == smooth.usable).all()
    errors = [np.abs(t.landmarks - video(40))[seen].mean() for t in (rough, smooth)]
    assert errors[1] < 0.7 * errors[0]
    with pytest.raises(AnchorError, match="smoothing is -1"):
        follow(points, SIZE, smoothing=-1.0)


def test_notes_number_frames_like_files():
    """Catches numbers from zero and runs that are one too long."""
    skipped = dict.fromkeys([0, 2, 3, 4], "missing") | {9: "outside"}
    (note,) = Track(video(), np.ones(10, bool), {}, skipped).notes()
    assert note.endswith("5 of 10 frames: 1, 3-5 (missing), 10 (outside)")
