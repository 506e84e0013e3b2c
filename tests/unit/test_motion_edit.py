"""Cutting, smoothing, mirroring, retiming and perturbing of motions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anchor_jax.body.edit import crop, mirror, resample, smooth
from anchor_jax.body.motion import Camera, Motion
from anchor_jax.body.perturb import perturb
from anchor_jax.errors import AnchorError
from tests.unit.motions import moving

SPEED = np.array([0.3, -0.5, 0.4])  # radians a second


def turning(n: int, fps: int) -> Motion:
    """Every joint turns, and the body walks, at a constant speed."""
    seconds = np.arange(n)[:, None] / fps
    poses = np.repeat((seconds * SPEED)[:, None], 55, axis=1).astype(np.float32)
    walk = (seconds * [1, 2, 3]).astype(np.float32)
    return replace(moving(n, fps), poses=poses, translation=walk)


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Radians between rotations."""
    first, second = (Rotation.from_rotvec(poses.reshape(-1, 3)) for poses in (a, b))
    return (first.inv() * second).magnitude()


def arrays(m: Motion) -> list[np.ndarray]:
    """What has a row a frame."""
    return [m.poses, m.translation, m.expression, *(m.hand_pca or ())]


def equal(a: Motion, b: Motion) -> bool:
    pairs = zip([*arrays(a), a.betas], [*arrays(b), b.betas], strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("pca", [0, 12])
def test_crop(pca: int):
    """A cut that is a frame off, includes its end, or forgets an array."""
    whole = moving(pca=pca)
    part = crop(whole, 0.1, 0.5)
    assert part.fps == whole.fps and part.camera is whole.camera
    for before, after in zip(arrays(whole), arrays(part), strict=True):
        np.testing.assert_array_equal(after, before[3:15])
    assert equal(crop(whole), whole)


@pytest.mark.parametrize(
    ("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.0, 1.1), (float("nan"), 0.5)]
)
def test_crop_refuses(start: float, end: float):
    """Times that count from the end as Python's slices do, or a motion without frames."""
    with pytest.raises(AnchorError) as caught:
        crop(moving(), start, end)
    assert " s" in str(caught.value) and str(caught.value).isprintable()


def test_smooth():
    """Noise that stays, a constant turn that is bent, or a drift from where the body was."""
    steady = turning(90, 30)
    noise = perturb(steady, 0, pose=0.05, expression=0.0, shape=0.0)
    calm = smooth(noise, 0.1)
    inside = slice(20, 70)
    before = angles(steady.poses[inside], noise.poses[inside])
    after = angles(steady.poses[inside], calm.poses[inside])
    assert np.sqrt((after**2).mean()) < 0.4 * np.sqrt((before**2).mean())
    same = smooth(steady, 0.1)
    assert angles(steady.poses[inside], same.poses[inside]).max() < 1e-3
    np.testing.assert_allclose(same.translation[inside], steady.translation[inside], atol=1e-4)
    assert equal(smooth(noise, 0.0), noise)
    still = replace(steady, poses=np.repeat(noise.poses[:1], 90, axis=0))
    assert angles(still.poses, smooth(still, 0.5).poses).max() < 1e-5


def test_smooth_past_half_a_turn():
    """Axis-angles averaged as numbers: where one jumps from pi to -pi, the body spins."""
    turn = np.linspace(np.pi - 0.3, np.pi + 0.3, 31)
    poses = np.zeros((31, 55, 3))
    poses[..., 0] = np.where(turn > np.pi, turn - 2 * np.pi, turn)[:, None]
    jumps = replace(moving(31), poses=poses.astype(np.float32))
    calm = smooth(jumps, 0.1)
    assert angles(jumps.poses, calm.poses).max() < 0.1
    inside = slice(13, 18)
    assert angles(jumps.poses[inside], calm.poses[inside]).max() < 1e-3


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 11.0])
def test_smooth_refuses(seconds: float):
    """A width that is none handed to scipy, which would fail or fill the memory."""
    with pytest.raises(AnchorError, match="smoothing is"):
        smooth(moving(), seconds)


@pytest.mark.parametrize("pca", [0, 12])
def test_mirror(pca: int):
    """A hand that stays on its side, or turns mirrored like vectors rather than rotations."""
    whole = moving(pca=pca)
    other = mirror(whole)
    pairs = [(0, 0), (1, 2), (16, 17), (20, 21), (22, 22), (23, 24), (25, 40), (39, 54)]
    for left, right in pairs:
        np.testing.assert_array_equal(other.poses[:, left], whole.poses[:, right] * [1, -1, -1])
        np.testing.assert_array_equal(other.poses[:, right], whole.poses[:, left] * [1, -1, -1])
    np.testing.assert_array_equal(other.translation, whole.translation * [-1, 1, 1])
    flip = np.diag([-1, 1, 1])  # a mirrored rotation is the rotation between two mirrors
    turned = Rotation.from_rotvec(whole.poses[:, 17]).as_matrix()
    expected = Rotation.from_matrix(flip @ turned @ flip)
    assert angles(expected.as_rotvec(), other.poses[:, 16]).max() < 1e-5
    assert other.camera is not None and whole.camera is not None
    assert other.camera.center == (330, 250)
    if pca:
        assert other.hand_pca is not None and whole.hand_pca is not None
        np.testing.assert_array_equal(other.hand_pca[0], whole.hand_pca[1])
    twice = mirror(other)
    assert equal(twice, whole)
    assert twice.camera is not None and twice.camera.center == whole.camera.center
    np.testing.assert_array_equal(twice.camera.translation, whole.camera.translation)


def test_mirror_picture():
    """A mirrored point that the camera does not see at the mirrored place of its picture."""
    whole = moving()
    point = np.array([0.3, 0.2, 0.5])

    def column(camera: Camera | None, x: np.ndarray) -> float:
        assert camera is not None
        x = x + camera.translation
        return camera.focal_length * x[0] / x[2] + camera.center[0]

    seen = column(whole.camera, point)
    assert column(mirror(whole).camera, point * [-1, 1, 1]) == pytest.approx(640 - seen)


@pytest.mark.parametrize("fps", [7, 15, 24, 25, 50, 60, 120, Fraction(30000, 1001)])
def test_resample(fps: int | Fraction):
    """Frames that drift against their time, angles bent between frames, a longer clip."""
    whole = turning(90, 30)
    other = resample(whole, Fraction(fps))
    assert other.fps == fps
    assert abs(other.seconds - whole.seconds) <= 0.5 / fps + 1e-9
    seconds = np.minimum(np.arange(len(other.poses)) / float(fps), 89 / 30)[:, None]
    expected = np.repeat((seconds * SPEED)[:, None], 55, axis=1)
    assert angles(expected, other.poses).max() < 1e-5
    np.testing.assert_allclose(other.translation, seconds * [1, 2, 3], atol=1e-5)


def test_resample_keeps_frames():
    """Every second frame of a doubled rate not the frame that was there, PCA hands forgotten."""
    whole = moving(pca=12)
    double = resample(whole, Fraction(60))
    for before, after in zip(arrays(whole), arrays(double), strict=True):
        np.testing.assert_allclose(after[::2], before, atol=1e-5)
    assert len(double.poses) == 60
    assert equal(resample(whole, Fraction(30)), whole)


def test_resample_takes_the_short_way():
    """Axis-angles interpolated as numbers: from pi - 0.1 to -(pi - 0.1) the body spins."""
    poses = np.zeros((2, 55, 3), np.float32)
    poses[:, :, 1] = np.array([[np.pi - 0.1], [-np.pi + 0.1]])
    double = resample(replace(moving(2), poses=poses), Fraction(60))
    assert angles(double.poses[1], np.full((55, 3), [0, np.pi, 0])).max() < 1e-5


@pytest.mark.parametrize("fps", [0, -1, 1001])
def test_resample_refuses(fps: int):
    """A rate of none divided by."""
    with pytest.raises(AnchorError, match="fps is"):
        resample(moving(), Fraction(fps))


@pytest.mark.parametrize("smoothed", [0.0, 0.2])
def test_perturb_strengths(smoothed: float):
    """Noise of another strength than asked for: a variance, or one that smoothing shrinks."""
    whole = moving(3000, pca=12)
    other = perturb(whole, 1, pose=0.05, expression=0.2, shape=0.0, smooth=smoothed)
    first, second = (Rotation.from_rotvec(m.poses[:, :25].reshape(-1, 3)) for m in (whole, other))
    turns = (first.inv() * second).as_rotvec()
    assert turns.std() == pytest.approx(0.05, rel=0.1)
    assert abs(turns.mean()) < 0.005
    assert (other.expression - whole.expression).std() == pytest.approx(0.2, rel=0.1)
    assert not other.poses[:, 25:].any() and other.hand_pca is not None and whole.hand_pca
    for before, after in zip(whole.hand_pca, other.hand_pca, strict=True):
        assert (after - before).std() == pytest.approx(0.05, rel=0.1)
    np.testing.assert_array_equal(other.betas, whole.betas)
    np.testing.assert_array_equal(other.translation, whole.translation)
    assert other.camera is whole.camera


def test_perturb_shape():
    """A body whose shape has noise of another strength than asked for."""
    whole = replace(moving(), betas=np.zeros(300, np.float32))
    draws = [perturb(whole, seed, shape=0.3).betas for seed in range(20)]
    assert np.std(draws) == pytest.approx(0.3, rel=0.1)


def test_perturb_seeds():
    """Noise that changes from run to run, is the same for every seed, or hangs together."""
    whole = moving(pca=12)
    assert equal(perturb(whole, 5), perturb(whole, 5))
    one, two = perturb(whole, 5), perturb(whole, 6)
    changed = zip([*arrays(one), one.betas], [*arrays(two), two.betas], strict=True)
    assert [not np.array_equal(a, b) for a, b in changed] == [True, False, True, True, True, True]
    louder = perturb(whole, 5, expression=1.0)
    np.testing.assert_array_equal(louder.poses, one.poses)
    np.testing.assert_array_equal(louder.betas, one.betas)
    assert equal(perturb(whole, 5, pose=0.0, expression=0.0, shape=0.0), whole)


def test_perturb_smooth():
    """Noise that is to wander slowly and shakes from frame to frame instead."""
    whole = replace(moving(600), poses=np.zeros((600, 55, 3), np.float32))
    shaking = np.diff(perturb(whole, 0).poses, axis=0).std()
    assert shaking == pytest.approx(0.03 * np.sqrt(2), rel=0.1)
    calm = perturb(whole, 0, smooth=0.5).poses
    assert np.diff(calm, axis=0).std() < shaking / 10
    ends = np.concatenate([calm[:5], calm[-5:]])
    assert ends.std() == pytest.approx(0.03, rel=0.2)  # as strong at the ends as elsewhere


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seed": 1 << 32},
        {"pose": -0.1},
        {"pose": float("nan")},
        {"expression": 11.0},
        {"shape": float("inf")},
        {"smooth": -1.0},
        {"smooth": 11.0},
    ],
    ids=str,
)
def test_perturb_refuses(change: dict):
    """A strength or a seed that is none, let through to numpy."""
    with pytest.raises(AnchorError, match=r"expected 0 to"):
        perturb(moving(), **{"seed": 0} | change)
