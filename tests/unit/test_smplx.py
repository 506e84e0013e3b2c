"""SMPL-X from a model file: its numbers against the authors' package, its landmarks and face, and
files that are none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anchor_jax.body.parallel import FRAMES_AT_ONCE
from anchor_jax.body.smplx import Smplx
from anchor_jax.errors import AnchorError
from tests.unit.motions import moving, read_obj, standing
from tests.unit.smplx_files import landmarks, oracle, smplx_arrays, write_smplx

pytest.importorskip("trimesh", reason="needs the render extra: trimesh")

FRAMES = FRAMES_AT_ONCE + 3  # the second chunk is not full


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A made-up model file. Do not write here."""
    return write_smplx(tmp_path_factory.mktemp("smplx") / "SMPLX_MADE_UP.npz")


@pytest.fixture(scope="module")
def body(path: Path) -> Smplx:
    return Smplx(path)


@pytest.mark.parametrize("hands", ["mean", "flat", "pca", "pca_flat"])
def test_it_agrees_with_the_authors_package(body, path, hands):
    """Catches any of: a blend shape left out, shape taken for expression, pose blend shapes in
    another order, another skeleton, hands off their mean or their basis, left for right, jaw or
    eyes that stand still, a translation before the rotation, and a last chunk of other frames."""
    motion = moving(FRAMES, betas=300, expression=100, pca=12 if "pca" in hands else 0)
    motion = replace(motion, mean_hands="flat" not in hands)
    vertices, joints = oracle(path, motion)
    ours = body.vertices(motion)
    assert ours.dtype == np.float32 and ours.shape == vertices.shape
    np.testing.assert_allclose(ours, vertices, rtol=0, atol=1e-5)
    np.testing.assert_allclose(body.joints(motion), joints[:, :55], rtol=0, atol=1e-5)


def test_all_that_moves_moves_the_made_up_body(body):
    """Catches an agreement that is none, because a part of the made-up file does nothing."""
    motion = moving(2, betas=300, expression=100)
    whole = body.vertices(motion)
    for name in ("betas", "expression", "translation"):
        still = replace(motion, **{name: np.zeros_like(getattr(motion, name))})
        assert np.abs(body.vertices(still) - whole).max() > 1e-3, name
    for joint in range(55):
        poses = motion.poses.copy()
        poses[:, joint] = 0
        assert np.abs(body.vertices(replace(motion, poses=poses)) - whole).max() > 1e-3, joint


def test_a_file_of_ten_shape_and_ten_expression_coefficients(tmp_path):
    """Catches the older files' expression read at the place of the newer ones', and coefficients
    that such a file does not know left out silently."""
    path = write_smplx(tmp_path / "SMPLX_OLD.npz", **smplx_arrays(20))
    body = Smplx(path)
    motion = moving(3, betas=10, expression=10)
    np.testing.assert_allclose(body.vertices(motion), oracle(path, motion)[0], rtol=0, atol=1e-5)
    assert body.notes(motion) == []
    wide = moving(3, betas=16, expression=100)
    (note,) = body.notes(wide)
    assert "shape coefficients after the first 10" in note and "expression" in note
    cut = replace(wide, betas=wide.betas[:10], expression=wide.expression[:, :10])
    np.testing.assert_array_equal(body.vertices(wide), body.vertices(cut))


def test_frames_do_not_depend_on_their_neighbours(body):
    """Catches a chunk that mixes its frames, or the one that is filled up."""
    motion = moving(FRAMES, betas=10, expression=10)
    last = replace(
        motion,
        poses=motion.poses[-1:],
        translation=motion.translation[-1:],
        expression=motion.expression[-1:],
    )
    np.testing.assert_allclose(body.vertices(last), body.vertices(motion)[-1:], atol=1e-6)
    np.testing.assert_allclose(body.joints(last), body.joints(motion)[-1:], atol=1e-6)


def test_landmarks_are_the_authors_by_name(body, path):
    """Catches an order of the 51 landmarks of our own: another eye, a brow, or the lips' inner
    corners."""
    names = pytest.importorskip("smplx.joint_names", reason="needs smplx").JOINT_NAMES
    motion = moving(2, betas=10, expression=10)
    vertices, joints = oracle(path, motion)

    def named(*wanted: str) -> np.ndarray:
        return joints[:, [names.index(name) for name in wanted]].mean(1)

    # The person's right is image-left; nose4 is the tip, numbered from between the eyes down.
    eyes = [[f"{side}_eye{number}" for number in range(1, 7)] for side in ("right", "left")]
    points = [named(*eyes[0]), named(*eyes[1]), named("nose4")]
    points += [named("right_mouth_1"), named("left_mouth_1")]
    expected = np.stack(points, axis=1)
    np.testing.assert_allclose(body.landmarks(body.vertices(motion)), expected, rtol=0, atol=1e-5)


def test_the_face_is_the_front_of_the_head(body):
    """Catches the crown, the back of the head, the neck or the hands in the face's mask, and
    eyeballs left out of it."""
    vertices = body.vertices(standing(betas=np.zeros(10, np.float32)))[0]
    face = vertices[body.groups["face"]]
    left_eye, right_eye, nose, left_mouth, right_mouth = body.landmarks(vertices[None])[0]
    assert len(face) > 50
    assert face[:, 1].max() < vertices[:, 1].max() - 0.01
    assert face[:, 1].max() > left_eye[1] + 0.03 and face[:, 1].min() < left_mouth[1] - 0.02
    assert face[:, 2].min() > nose[2] - 0.12
    assert np.ptp(face[:, 0]) < 0.2
    for point in (left_eye, right_eye, nose, left_mouth, right_mouth):
        assert np.linalg.norm(face - point, axis=1).min() < 0.02


def test_the_face_on_the_mesh_of_smplx(data_dir, tmp_path):
    """Catches borders that fit the made-up head alone: on a mesh of SMPL-X's topology the scalp,
    the neck or the ears in the face, eyeballs left out of it, or one side more than the other."""
    vertices, faces = read_obj(data_dir / "body" / "SMPLX-female.obj")
    parts = json.loads((data_dir / "body" / "smplx_vert_segmentation.json").read_text())
    head = np.union1d(parts["head"], parts["eyeballs"])
    eyes = np.stack([vertices[parts[name]].mean(0) for name in ("rightEye", "leftEye")])
    weights = np.zeros((len(vertices), 55))
    weights[:, 9] = 1
    weights[head] = np.eye(55)[15]
    arrays = {
        **landmarks(vertices, faces, eyes.mean(0) - [0, 0.02, 0.03]),
        "v_template": vertices,
        "f": faces,
        "weights": weights,
        "shapedirs": np.zeros((len(vertices), 3, 20), np.float32),
        "posedirs": np.zeros((len(vertices), 3, 486), np.float32),
        "J_regressor": np.full((55, len(vertices)), 1 / len(vertices)),
    }
    face = Smplx(write_smplx(tmp_path / "SMPLX_MESH.npz", **arrays)).groups["face"]
    places = vertices[face]
    assert np.isin(face, head).all() and np.isin(parts["eyeballs"], face).mean() > 0.95
    assert not np.isin(face, parts["neck"]).any()
    assert abs((places[:, 0] > 0).mean() - 0.5) < 0.01
    chin_to_crown = vertices[:, 1].max() - places[:, 1].min()
    assert 0.20 < chin_to_crown < 0.25 and 0.15 < np.ptp(places[:, 1]) < 0.2
    assert np.ptp(places[:, 0]) < 0.17  # ears reach 0.18


ARRAYS = smplx_arrays(20)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights": None, "hands_meanr": None}, "missing weights, hands_meanr"),
        ({"v_template": None, "kintree_table": None}, "not a body model"),
        ({"kintree_table": np.zeros((2, 24), int)}, "24 joints, as SMPL has"),
        ({"kintree_table": np.zeros((2, 52), int)}, "52 joints, as SMPL-H has"),
        ({"kintree_table": np.zeros((2, 5), int)}, "5 joints, as FLAME has"),
        ({"kintree_table": np.array(3)}, "0 joints"),
        ({"kintree_table": np.zeros((2, 55), int)}, "not the skeleton"),
        ({"kintree_table": np.zeros((1, 55), int)}, "kintree_table has shape (1, 55)"),
        ({"posedirs": ARRAYS["posedirs"][..., :207]}, "posedirs has shape"),
        ({"shapedirs": ARRAYS["shapedirs"][..., :16]}, "3, 400 or 20)"),
        ({"weights": ARRAYS["weights"][:-1]}, "weights has shape"),
        ({"v_template": np.zeros((0, 3))}, "v_template has shape (0, 3)"),
        ({"v_template": np.zeros(3)}, "v_template has shape (3,)"),
        ({"J_regressor": np.full((55, 1), None)}, "J_regressor cannot be read: "),
        ({"J_regressor": ARRAYS["J_regressor"] * np.nan}, "J_regressor holds values"),
        ({"weights": ARRAYS["weights"] * 1e300}, "weights holds values that are not finite"),
        ({"hands_meanl": np.full(45, "a")}, "hands_meanl is of type"),
        ({"f": ARRAYS["f"].astype(float)}, "f is of type float64"),
        ({"f": ARRAYS["f"].astype(int) - 1}, "f refers to vertices -1 to"),
        ({"f": ARRAYS["f"] + 1}, "f refers to vertices 1 to"),
        ({"lmk_faces_idx": np.full(51, 10**6)}, "lmk_faces_idx refers to faces"),
        ({"lmk_faces_idx": ARRAYS["lmk_faces_idx"][::-1]}, "landmarks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_refused(tmp_path, changes, expected):
    """Catches an index out of range, NaN or another model drawn, and a traceback of any."""
    path = write_smplx(tmp_path / "SMPLX_BAD.npz", **(ARRAYS | changes))
    assert expected in refusal(path)


def test_all_problems_are_reported_at_once(tmp_path):
    """Catches a user who has to find them one by one."""
    changes = {"hands_meanl": np.zeros(44), "f": ARRAYS["f"].astype(float)}
    text = refusal(write_smplx(tmp_path / "SMPLX_BAD.npz", **(ARRAYS | changes)))
    assert "hands_meanl has shape (44,)" in text and "f is of type" in text


def test_what_is_no_model_file(tmp_path):
    """Catches a missing file, a folder, a pickle, a motion and half a file that end in a
    traceback; and a pickle that runs."""
    assert "no such file" in refusal(tmp_path / "SMPLX_NEUTRAL.npz")
    assert "a folder without SMPLX_NEUTRAL.npz" in refusal(tmp_path)
    pickled = tmp_path / "SMPLX_NEUTRAL.pkl"
    pickled.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "expected the .npz" in refusal(pickled)
    motion = tmp_path / "motion.npz"
    np.savez(motion, poses=np.zeros((3, 165)), trans=np.zeros((3, 3)))
    assert "not a body model" in refusal(motion)
    path = write_smplx(tmp_path / "SMPLX_HALF.npz", **ARRAYS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a complete .npz file" in refusal(path)


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(AnchorError) as caught:
        Smplx(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isprintable(), text
    return text
