"""The synthetic anchors: their motion and cameras; their pictures where anny is installed."""

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anchor_jax.body.view import View
from anchor_jax.data import dataset as datasets
from benchmarks.synthetic import __main__ as command
from benchmarks.synthetic.motion import _SIDES, Skeleton, perturb, talk
from benchmarks.synthetic.output import join
from benchmarks.synthetic.painter import _downsample, _projection
from benchmarks.synthetic.people import TARGET
from benchmarks.synthetic.scenery import room
from tests.programs.training import write_data

needs_anny = pytest.mark.skipif(
    find_spec("anny") is None or find_spec("moderngl") is None,
    reason="the synthetic extra is not installed",
)
LEFT = {
    "upperarm01": (0.178, 0.0, 0.459),
    "lowerarm01": (0.346, -0.006, 0.264),
    "wrist": (0.471, -0.172, 0.139),
}


def _skeleton() -> Skeleton:
    joints = {f"{bone}.L": np.array(place) for bone, place in LEFT.items()}
    for finger in range(5):
        for joint in range(3):
            ahead = np.array([0.02, -0.04, -0.025]) * (joint + 1)
            aside = np.array([-0.004, -0.01, 0.014]) * (2 - finger)
            joints[f"finger{finger + 1}-{joint + 1}.L"] = joints["wrist.L"] + ahead + aside
    mirrored = {f"{name[:-1]}R": place * (-1, 1, 1) for name, place in joints.items()}
    return Skeleton(joints | mirrored, 0.0)


def _wrists(skeleton: Skeleton, rotations: dict[str, np.ndarray], side: str) -> np.ndarray:
    shoulder, elbow, wrist = (skeleton.joints[f"{bone}.{side}"] for bone in LEFT)
    upper = rotations[f"upperarm01.{side}"]
    lower = upper @ rotations[f"lowerarm01.{side}"]
    return shoulder + upper @ (elbow - shoulder) + lower @ (wrist - elbow)


def test_motion_is_of_its_seed_alone():
    """Catches a global random state, which would make each run another data set."""
    first, again, other = (talk(_skeleton(), 60, np.random.default_rng(s)) for s in (3, 3, 4))
    for name, values in first.rotations.items():
        np.testing.assert_array_equal(values, again.rotations[name])
    assert abs(first.rotations["wrist.L"] - other.rotations["wrist.L"]).max() > 0.1


def test_hands_stay_in_front_of_the_body_and_move_smoothly():
    """Catches an elbow bent the wrong way, mirrored sides, and jumps between gestures."""
    skeleton = _skeleton()
    motion = talk(skeleton, 600, np.random.default_rng(0))
    for side, sign in _SIDES.items():
        wrists = _wrists(skeleton, motion.rotations, side)
        assert (wrists[:, 1] < -0.1).all()
        outwards = wrists[:, 0] * sign
        assert outwards.min() > 0.02 and outwards.max() < 0.38
        assert wrists[:, 2].min() > 0.05 and wrists[:, 2].max() < 0.55
        assert np.linalg.norm(np.diff(wrists, axis=0), axis=1).max() < 0.06
        assert wrists.std(0).min() > 0.01
    for matrices in motion.rotations.values():
        np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-6)


def test_face_moves():
    """Catches a mouth, lids or brows that stay still, and values anny does not know."""
    actions = talk(_skeleton(), 300, np.random.default_rng(1)).actions
    for name in ("jawOpen", "eyeBlinkLeft", "browInnerUp"):
        assert np.ptp(actions[name]) > 0.3, name
    assert all(values.min() >= 0 and values.max() <= 1 for values in actions.values())


def test_noise_has_its_strength_and_leaves_rotations_rotations():
    """Catches degrees taken for radians, one draw for all frames, actions anny does not know."""
    motion = talk(_skeleton(), 400, np.random.default_rng(1))
    noisy = perturb(motion, np.random.default_rng(2), 0.03, 0.1)
    for bone, matrices in motion.rotations.items():
        turn = Rotation.from_matrix(np.swapaxes(matrices, 1, 2) @ noisy.rotations[bone])
        np.testing.assert_allclose(turn.as_rotvec().std(0), 0.03, rtol=0.15)
    off = noisy.actions["jawOpen"] - motion.actions["jawOpen"]
    assert 0.05 < off.std() < 0.1  # clipped where the mouth is closed
    assert all(values.min() >= 0 and values.max() <= 1 for values in noisy.actions.values())


def test_painter_projects_as_the_pose_renderer():
    """Catches frames and poses that are a pixel apart, or upside down."""
    view = View(
        np.eye(3),
        np.zeros(3),
        np.array([0.1, 0.2, 7.0]),
        900.0,
        (60.0, 70.0),
        (128, 144),
        1.0,
        20.0,
    )
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    expected, _ = view.project(points)
    clip = np.concatenate([points, np.ones((20, 1))], 1) @ _projection(view).T
    across, up = (clip[:, :2] / clip[:, 3:]).T
    found = np.stack([(across + 1) / 2 * 128, (1 - up) / 2 * 144], 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (abs(clip[:, 2]) < clip[:, 3]).all()


def test_shrink_is_the_mean():
    """Catches one pixel of each square taken for all of them."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = 255
    assert _downsample(pixels, 2)[0, 0].tolist() == [0.25] * 4


def test_room_stands_still():
    """Catches a background that differs from clip to clip."""
    first, again = (room(TARGET, 64, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.std() > 0.05


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a traceback, and a folder that is left behind."""
    assert command.main(["--out", str(tmp_path / "new"), "--size", "1000"]) == 2
    assert "--size 1000: expected 32 to 512" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_joined_data_sets_are_whole_ones(tmp_path: Path):
    """Catches shards under another clip's number, and frames that are read from the wrong one."""
    pictures = "target", "pose"
    one = write_data(tmp_path / "one", pictures, clips=(3, 2), seed=0)
    two = write_data(tmp_path / "two", pictures, clips=(4,), seed=1)
    made = [datasets.load(path) for path in (one, two)]
    join(made, tmp_path / "both")
    both = datasets.load(tmp_path / "both")
    datasets.verify(both)
    assert [clip.identity for clip in both.clips] == ["person-0", "person-1", "person-0"]
    expected = [frame["pose"] for dataset in made for frame in dataset.source()]
    assert [frame["pose"] for frame in both.source()] == expected
    assert len(set(expected)) == 9


@needs_anny
@pytest.mark.slow
def test_command_writes_the_same_data_sets_twice(tmp_path: Path):
    """Catches bytes that depend on the process or the moment, crops that are not of the frame, and
    a person that is not where the pose is."""
    for name in ("one", "two"):
        words = f"--out {tmp_path / name} --size 64 --clips 1 --frames 16 --processes 2"
        words = [*words.split(), "--perturbed"]
        assert command.main(words) == 0
    sets = "target", "target-test", "pretrain", "pretrain-test", "everybody", "target-perturbed"
    for name in sets:
        one, two = (datasets.load(tmp_path / run / name) for run in ("one", "two"))
        assert [clip.sha256 for clip in one.clips] == [clip.sha256 for clip in two.clips]
        assert one.fps == Fraction(30)
    noisy = datasets.load(tmp_path / "one" / "target-perturbed").source()[3]
    example = datasets.load(tmp_path / "one" / "target").source()[3]
    assert noisy["target"] == example["target"] and noisy["pose"] != example["pose"]
    matte, pose = (datasets.decode(key, example[key]) for key in ("matte", "pose"))
    body = pose.max(2) > 20
    assert (matte[body] > 100).mean() > 0.98
    assert 1 < (matte > 100).sum() / body.sum() < 1.4
    files = sorted(path.name for path in (tmp_path / "one" / "test").iterdir())
    assert files == ["appearance.png", "mattes", "poses", "poses-conditions", "truth"]
