"""Motion files: every layout read back against what is in it, ours unchanged, bad ones refused."""

import pickle
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anchor_jax.body.formats import _NO_BETAS, _OWN_FORMAT, read_motion, save_motion
from anchor_jax.body.motion import Camera, Motion
from anchor_jax.errors import AnchorError
from tests.unit.motions import moving, numbers

LEFT_WRIST, RIGHT_WRIST = 20, 21


def amass(width: int, n: int = 4) -> dict[str, np.ndarray]:
    return {
        "poses": numbers(n, width).astype(np.float64),
        "trans": numbers(n, 3, seed=1).astype(np.float64),
        "betas": numbers(16, seed=2).astype(np.float64),
        "mocap_framerate": np.array(120.0),
    }


def show(hands: int, n: int = 5) -> dict:
    names = ("global_orient", "transl", "jaw_pose", "leye_pose", "reye_pose")
    return {
        **{name: numbers(n, 3, seed=i) for i, name in enumerate(names)},
        "body_pose_axis": numbers(n, 63, seed=11),
        "left_hand_pose": numbers(n, hands, seed=12),
        "right_hand_pose": numbers(n, hands, seed=13),
        "betas": numbers(1, 100, seed=14),
        "expression": numbers(n, 50, seed=15),
        "camera_transl": np.array([[0.1, -0.2, 2.5]], np.float32),
        "focal_length": np.array([5000.0], np.float32),
        "center": np.array([[640.0, 352.5]], np.float32),
        "width": 1280,
        "height": 720,
    }


def own(n: int = 3) -> Motion:
    """Every field there, at its widest, and numbers that float32 would round."""
    camera = Camera(1234.567, (320.1, 239.9), numbers(3, seed=4), (640, 480))
    return moving(n, Fraction(30000, 1001), betas=300, expression=100, pca=12, camera=camera)


def written(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, np.asarray(content))
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=True, **content)  # type: ignore
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(AnchorError) as caught:
        read_motion(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isprintable(), text
    assert "TypeCheckError" not in text, text  # a mistake of ours, which would refuse any file
    return text.removeprefix(f"{path}: ")


def same(a: Motion, b: Motion) -> None:
    for field in fields(Motion):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "camera" and x is not None:
            np.testing.assert_array_equal(x.translation, y.translation)
            for name in ("focal_length", "center", "size"):
                assert getattr(x, name) == getattr(y, name), name
            continue
        if field.name == "hand_pca" and x is not None:
            x, y = np.stack(x), np.stack(y)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype == np.float32
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, field.name


@pytest.mark.parametrize(("name", "n"), [("french", 288), ("oliver", 300)])
def test_real_talkshow(data_dir: Path, name: str, n: int):
    """Columns cut at the wrong places: jaw for root, or a hand shifted by a joint."""
    path = data_dir / "motion" / f"talkshow_{name}.npy"
    table, motion = np.load(path), read_motion(path)
    assert table.shape == (n, 265) and motion.poses.shape == (n, 55, 3)
    assert (motion.fps, motion.frame, motion.mean_hands) == (30, "camera", True)
    at = {0: 9, 1: 12, LEFT_WRIST: 69, RIGHT_WRIST: 72, 22: 0, 23: 3, 24: 6, 25: 75, 40: 120}
    at |= {54: 162}
    for joint, column in at.items():
        expected = table[:, column : column + 3].astype(np.float32)
        np.testing.assert_array_equal(motion.poses[:, joint], expected)
    np.testing.assert_array_equal(motion.expression, table[:, 165:].astype(np.float32))
    # Who talks to a camera, in its frame, stands on its head: half a turn about x.
    assert abs(abs(np.median(motion.poses[:, 0, 0])) - np.pi) < 0.5


def test_real_beat2(data_dir: Path):
    """Another joint order, rate or frame of reference than BEAT2's, or a body that lies down."""
    path = data_dir / "motion" / "beat2_scott.npz"
    motion = read_motion(path)
    with np.load(path) as file:
        poses, trans = file["poses"], file["trans"]
        np.testing.assert_array_equal(motion.expression, file["expressions"].astype(np.float32))
        np.testing.assert_array_equal(motion.betas, file["betas"].astype(np.float32))
    assert motion.poses.shape == (1906, 55, 3)
    assert (motion.fps, motion.frame, motion.mean_hands) == (30, "y_up", True)
    np.testing.assert_array_equal(motion.translation, trans.astype(np.float32))
    for joint in (0, LEFT_WRIST, RIGHT_WRIST, 22, 25, 40, 54):
        expected = poses[:, 3 * joint : 3 * joint + 3].astype(np.float32)
        np.testing.assert_array_equal(motion.poses[:, joint], expected)
    up = Rotation.from_rotvec(motion.poses[:, 0]).apply([0, 1, 0])
    assert np.median(up[:, 1]) > 0.9


def test_talkshow(tmp_path: Path):
    """A file of doubles kept as doubles, or the face put at the front of the joints."""
    table = np.arange(2 * 265, dtype=np.float64).reshape(2, 265) / 100
    motion = read_motion(written(tmp_path, "a.npy", table))
    row = table[1].astype(np.float32)
    joints = np.concatenate([row[9:75], row[0:9], row[75:165]]).reshape(55, 3)
    np.testing.assert_array_equal(motion.poses[1], joints)
    np.testing.assert_array_equal(motion.expression[1], row[165:])
    assert not motion.translation.any() and motion.seconds == pytest.approx(2 / 30)


def test_beat2(tmp_path: Path):
    """Betas, translation or rate dropped, or a rate of 29.97 rounded to 30."""
    content = amass(165) | {"expressions": numbers(4, 100), "mocap_frame_rate": np.array(29.97)}
    del content["mocap_framerate"]
    motion = read_motion(written(tmp_path, "a.npz", content))
    np.testing.assert_array_equal(motion.poses.reshape(4, 165), content["poses"].astype(np.float32))
    np.testing.assert_array_equal(motion.translation, content["trans"].astype(np.float32))
    np.testing.assert_array_equal(motion.betas, content["betas"].astype(np.float32))
    assert motion.fps == Fraction(2997, 100) or motion.fps == Fraction(30000, 1001)
    assert abs(float(motion.fps) - 29.97) < 1e-4


@pytest.mark.parametrize("width", [156, 165])
def test_amass(tmp_path: Path, width: int):
    """SMPL-H's hands read as a face, its betas taken for SMPL-X's, or hands off the mean."""
    content = amass(width)
    motion = read_motion(written(tmp_path, "a.npz", content))  # these stand along y already
    poses = content["poses"].astype(np.float32).reshape(4, -1, 3)
    np.testing.assert_array_equal(motion.poses[:, :22], poses[:, :22])
    np.testing.assert_array_equal(motion.poses[:, 25:], poses[:, -30:])
    if width == 156:
        assert not motion.poses[:, 22:25].any()
        np.testing.assert_array_equal(motion.betas, _NO_BETAS)
    else:
        np.testing.assert_array_equal(motion.poses[:, 22:25], poses[:, 22:25])
        np.testing.assert_array_equal(motion.betas, content["betas"].astype(np.float32))
    assert (motion.fps, motion.frame, motion.mean_hands) == (120, "y_up", False)
    assert not motion.expression.any()


def test_amass_stands_up(tmp_path: Path):
    """A z-up world kept as it is, turned the wrong way, or walked in the wrong direction."""
    content = amass(165)
    content["poses"][:, :3] = [np.pi / 2, 0, 0]  # upright in a world whose z is up
    content["trans"] = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 0, 2]], np.float64)
    motion = read_motion(written(tmp_path, "a.npz", content))
    np.testing.assert_allclose(motion.poses[:, 0], 0, atol=1e-6)
    walked = motion.translation - motion.translation[0]
    np.testing.assert_allclose(walked[1:], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
@pytest.mark.parametrize("hands", [12, 45])
def test_show(tmp_path: Path, suffix: str, hands: int):
    """Camera lost or its center transposed, and PCA coefficients taken for rotations."""
    content = show(hands)
    motion = read_motion(written(tmp_path, f"a{suffix}", content))
    for joint, name in {
        0: "global_orient",
        22: "jaw_pose",
        23: "leye_pose",
        24: "reye_pose",
    }.items():
        np.testing.assert_array_equal(motion.poses[:, joint], content[name])
    np.testing.assert_array_equal(motion.poses[:, 1:22].reshape(5, 63), content["body_pose_axis"])
    np.testing.assert_array_equal(motion.translation, content["transl"])
    np.testing.assert_array_equal(motion.expression, content["expression"])
    np.testing.assert_array_equal(motion.betas, content["betas"][0])
    assert (motion.fps, motion.frame, motion.mean_hands) == (30, "camera", True)
    camera = motion.camera
    assert camera is not None
    assert (camera.focal_length, camera.center) == (5000, (640, 352.5))
    assert camera.size == (1280, 720)
    np.testing.assert_array_equal(camera.translation, content["camera_transl"][0])
    left, right = content["left_hand_pose"], content["right_hand_pose"]
    if hands == 12:
        assert motion.hand_pca is not None and not motion.poses[:, 25:].any()
        np.testing.assert_array_equal(motion.hand_pca[0], left)
        np.testing.assert_array_equal(motion.hand_pca[1], right)
    else:
        assert motion.hand_pca is None
        np.testing.assert_array_equal(motion.poses[:, 25:40].reshape(5, 45), left)
        np.testing.assert_array_equal(motion.poses[:, 40:].reshape(5, 45), right)


def test_show_in_a_list(tmp_path: Path):
    """SHOW's files of a list of one dict refused."""
    motion = read_motion(written(tmp_path, "a.pkl", [show(45)]))
    assert len(motion.poses) == 5


def test_show_half_a_camera(tmp_path: Path):
    """A camera without its focal length made up."""
    content = show(12)
    del content["focal_length"]
    assert "focal_length" in refusal(written(tmp_path, "a.pkl", content))
    content = show(12) | {"camera_transl": numbers(5, 3)}
    assert "differs between frames" in refusal(written(tmp_path, "b.pkl", content))


def test_round_trip(tmp_path: Path):
    """A field forgotten, rounded or renamed on the way to the disk and back."""
    whole = own()
    plain = replace(whole, camera=None, hand_pca=None, frame="y_up", mean_hands=False)
    for motion in (whole, plain):
        save_motion(tmp_path / "a.npz", motion)
        same(read_motion(tmp_path / "a.npz"), motion)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_save_refuses(tmp_path: Path):
    """A name that read_motion would not know, and half a file left where none can be written."""
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "a.npy", tmp_path / "folder.npz"):
        with pytest.raises(AnchorError, match="cannot write"):
            save_motion(path, own())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


def test_a_slice_cuts_everything_that_has_a_row_a_frame():
    """Catches an array of all frames beside poses of a few, hand coefficients above all."""
    hands = (np.arange(12, dtype=np.float32).reshape(4, 3), np.ones((4, 2), np.float32))
    whole = replace(own(4), hand_pca=hands)
    for frames in (slice(1, 3), np.array([1, 2])):
        part = whole[frames]
        for name in ("poses", "translation", "expression"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[1:3])
        assert part.hand_pca is not None
        for some, every in zip(part.hand_pca, hands, strict=True):
            np.testing.assert_array_equal(some, every[1:3])
        assert (part.fps, part.frame) == (whole.fps, whole.frame)
    assert replace(own(4), hand_pca=None)[:2].hand_pca is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_not_finite(tmp_path: Path, value: float):
    """One bad number in the middle of a clip let through to the renderer."""
    table = np.zeros((4, 265))
    table[2, 100] = value
    refusal(written(tmp_path, "a.npy", table))
    for name in ("poses", "trans", "betas"):
        content = amass(165)
        content[name].flat[5] = value
        refusal(written(tmp_path, f"{name}.npz", content))
    content = show(12)
    content["left_hand_pose"][1, 1] = value
    refusal(written(tmp_path, "a.pkl", content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("frames.npy", np.zeros((0, 265))),
        ("width.npy", np.zeros((3, 264))),
        ("flat.npy", np.zeros(265)),
        ("deep.npy", np.zeros((1, 1, 265))),
        ("complex.npy", np.zeros((3, 265), complex)),
        ("text.npy", np.full((3, 265), "a")),
        ("objects.npy", np.full((3, 265), None)),
        ("frames.npz", amass(156, 0)),
        ("width.npz", amass(157)),
        ("trans.npz", amass(156) | {"trans": np.zeros((3, 3))}),
        ("betas.npz", amass(165) | {"betas": np.zeros(301)}),
        ("rate.npz", amass(165) | {"mocap_framerate": np.array(0.0)}),
        ("negative.npz", amass(165) | {"mocap_framerate": np.array(-30.0)}),
        ("objects.npz", amass(165) | {"poses": np.full((4, 165), None)}),
        ("unknown.npz", {"pose": np.zeros((3, 165))}),
        ("newer.npz", {"format": np.array("anchor-jax motion 9")}),
        ("only.npz", {"format": np.array(_OWN_FORMAT)}),
        ("lines.npz", {"format": np.array("two\nlines")}),
        ("nothing.npz", {}),
        ("unknown.pkl", {"pose": np.zeros((3, 165))}),
        ("hands.pkl", show(46)),
        ("frames.pkl", show(12, 0)),
        ("scalar.pkl", show(12) | {"body_pose_axis": 1.0}),
        ("none.pkl", show(12) | {"transl": None}),
        ("nested.pkl", show(12) | {"betas": {"a": 1}, "jaw_pose": [1, [2]]}),
        ("center.pkl", show(12) | {"center": np.zeros(3)}),
        ("size.pkl", show(12) | {"width": 0}),
        ("list.pkl", [1, 2, 3]),
        ("number.pkl", 5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(tmp_path: Path, name: str, content: object):
    """What is no motion guessed at, or a numpy traceback where one line should be."""
    refusal(written(tmp_path, name, content))


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04", b"\x93NUMPY", b"hello\n", b"\0" * 99]
)
def test_not_a_motion(tmp_path: Path, content: bytes):
    """A text file, or the mere start of a format, that ends in a traceback."""
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    refusal(path)


def test_not_a_file(tmp_path: Path):
    """A missing file or a folder reported as a bare OSError."""
    assert "cannot be read" in refusal(tmp_path / "missing.npz")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pkl", "own.npz"])
def test_truncated(tmp_path: Path, name: str):
    """A half-copied file read as a shorter motion, or refused with a traceback."""
    contents = {"a.npy": np.zeros((3, 265)), "a.npz": amass(165), "a.pkl": show(12)}
    if name in contents:
        path = written(tmp_path, name, contents[name])
    else:
        path = tmp_path / name
        save_motion(path, own())
    whole = path.read_bytes()
    read_motion(path)
    for size in np.linspace(0, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:size])
        refusal(path)


def test_damaged(tmp_path: Path):
    """Flipped bits inside of an archive that its checksums would have shown."""
    path = written(tmp_path, "a.npz", amass(165))
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"NUMPY") + 1000] ^= 0x40
    path.write_bytes(whole)
    refusal(path)
    np.savez_compressed(path, **amass(165, 1000))  # type: ignore
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PK\x01\x02") + 16] ^= 1  # the checksum of the poses
    path.write_bytes(whole)
    assert "CRC" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"poses": np.zeros((0, 55, 3), np.float32)},
        {"poses": np.zeros((3, 54, 3), np.float32)},
        {"poses": np.zeros((3, 55, 3))},
        {"translation": np.zeros((2, 3), np.float32)},
        {"betas": np.zeros(301, np.float32)},
        {"expression": np.zeros((3, 101), np.float32)},
        {"expression": np.full((3, 1), np.nan, np.float32)},
        {"fps": Fraction(0)},
        {"fps": Fraction(1001)},
        {"frame": "z_up"},
        {"hand_pca": (np.zeros((2, 12), np.float32),) * 2},
        {"poses": np.ones((3, 55, 3), np.float32)},  # beside its hand_pca
    ],
    ids=lambda change: next(iter(change)),
)
def test_motion_checks(change: dict):
    """A motion of another shape, type or rate that would fail only deep in the renderer."""
    with pytest.raises(AnchorError) as caught:
        replace(own(), **change)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"focal_length": 0.0},
        {"focal_length": float("nan")},
        {"center": (float("nan"), 0.0)},
        {"size": (0, 480)},
        {"translation": np.zeros(4, np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_camera_checks(change: dict):
    """A camera that sees nothing let through."""
    camera = own().camera
    assert camera is not None
    with pytest.raises(AnchorError):
        replace(camera, **change)
