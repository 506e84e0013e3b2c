"""Both free bodies follow the motion: skeleton, hands, shape, groups and landmarks."""

import numpy as np
import pytest

from anchor_jax.body.bodies import FREE, MANNEQUIN, open_body
from anchor_jax.body.parallel import Body
from tests.unit.motions import HEAD, LEFT_ELBOW, standing

LEFT_WRIST, LEFT_INDEX = 20, 25


@pytest.fixture(scope="module", params=[FREE, MANNEQUIN])
def body(request) -> Body:
    if request.param == MANNEQUIN:
        pytest.importorskip("mannequin", reason="needs the render extra: mannequin-x")
    return open_body(request.param)


def test_the_mesh_is_whole_and_of_a_persons_size(body):
    """Catches millimetres, a mesh on its side, and faces that reach past the vertices."""
    vertices = body.vertices(standing(2))
    assert vertices.dtype == np.float32
    assert body.faces.dtype == np.int32
    assert vertices.shape == (2, body.faces.max() + 1, 3)
    assert 1.6 < np.ptp(vertices[0, :, 1]) < 1.9
    np.testing.assert_array_equal(vertices[0], vertices[1])


def test_joints_are_in_smplx_order(body):
    """Catches the package's own order, two joints more and three fewer than SMPL-X's."""
    joints = body.joints(standing())[0]
    assert joints.shape == (55, 3)
    left = [1, 4, 7, 10, 13, 16, 18, 20, 23, *range(25, 40)]
    right = [2, 5, 8, 11, 14, 17, 19, 21, 24, *range(40, 55)]
    np.testing.assert_allclose(joints[left] * [-1, 1, 1], joints[right], atol=0.04)
    assert (joints[left, 0] > 0).all()
    assert joints[0, 1] < joints[12, 1] < joints[HEAD, 1] < joints[23, 1]  # pelvis, neck, head, eye
    assert joints[23, 2] > joints[HEAD, 2]  # eyes look along z
    assert np.linalg.norm(joints[25:40] - joints[LEFT_WRIST], axis=1).max() < 0.2


@pytest.mark.parametrize(("joint", "group"), [(LEFT_WRIST, "left_hand"), (HEAD, "head")])
def test_a_joint_moves_its_group_and_nothing_far_away(body, joint, group):
    """Catches a pose that turns another joint than the one it is of, and left for right."""
    before, after = standing(), standing()
    after.poses[:, joint] = 0.5, 0.3, 0.2
    moved = np.linalg.norm(body.vertices(after)[0] - body.vertices(before)[0], axis=1)
    rest = np.setdiff1d(np.arange(len(moved)), body.groups[group])
    assert np.median(moved[body.groups[group]]) > 0.01
    assert np.mean(moved[rest] > 0.01) < 0.05


def test_fingers_follow(body):
    """Catches hands that stay stiff."""
    before, after = standing(), standing()
    after.poses[:, LEFT_INDEX : LEFT_INDEX + 3, 2] = -0.8
    moved = np.linalg.norm(body.vertices(after)[0] - body.vertices(before)[0], axis=1)
    assert moved.max() > 0.02
    assert set(np.flatnonzero(moved > 1e-4)) <= set(body.groups["left_hand"])


def test_hands_are_relative_to_the_mean_hand_or_the_flat_one(body):
    """Catches `mean_hands` without effect, and a hand of PCA coefficients drawn flat."""
    relaxed, flat = standing(), standing(mean_hands=False)
    zeros = np.zeros((1, 12), np.float32)
    unexpanded = standing(mean_hands=False, hand_pca=(zeros, zeros))
    relaxed, flat, unexpanded = (body.vertices(m) for m in (relaxed, flat, unexpanded))
    assert np.abs(relaxed - flat).max() > 0.01
    np.testing.assert_array_equal(relaxed, unexpanded)


def test_it_says_what_it_is(body):
    """Catches a mannequin taken for SMPL-X, and hands that silently do not follow."""
    (note,) = body.notes(standing())
    assert "not SMPL-X" in note
    zeros = np.zeros((1, 12), np.float32)
    assert "PCA" in body.notes(standing(hand_pca=(zeros, zeros)))[1]


def test_shape_and_place_follow(body):
    """Catches betas or translation left out, a shape kept for the next motion, and a root that
    turns about the origin instead of the pelvis."""
    plain = body.vertices(standing())
    betas = np.zeros(300, np.float32)
    betas[0] = 2
    assert np.ptp(body.vertices(standing(betas=betas))[..., 1]) > np.ptp(plain[..., 1]) + 0.02
    np.testing.assert_array_equal(body.vertices(standing()), plain)
    there = np.array([[1, 2, 3]], np.float32)
    np.testing.assert_allclose(body.vertices(standing(translation=there)) - there, plain, atol=1e-6)
    turned = standing()
    turned.poses[:, 0] = 0, np.pi / 2, 0
    pelvis = body.joints(standing())[0, 0]
    np.testing.assert_allclose(body.joints(turned)[0, 0], pelvis, atol=1e-6)
    assert np.ptp(body.vertices(turned)[0, :, 2]) > np.ptp(plain[0, :, 2]) + 0.1


def test_frames_do_not_depend_on_each_other(body):
    """Catches a clip whose frames are not what each would be alone."""
    motion = standing(3)
    motion.poses[:, LEFT_ELBOW, 1] = [0, -0.5, -1]
    alone = standing(poses=motion.poses[2:])
    np.testing.assert_array_equal(body.vertices(motion)[2:], body.vertices(alone))
    np.testing.assert_allclose(body.joints(motion)[2:], body.joints(alone), atol=1e-6)


def test_landmarks_lie_on_the_face_image_left_first(body):
    """Catches the person's left taken for the image's, and points inside or off the head."""
    vertices = body.vertices(standing())
    left_eye, right_eye, nose, left_mouth, right_mouth = points = body.landmarks(vertices)[0]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert left_eye[1] > nose[1] > left_mouth[1]
    np.testing.assert_allclose(left_eye * [-1, 1, 1], right_eye, atol=0.02)
    face = vertices[0, body.groups["face"]]
    distance = np.linalg.norm(points[:, None] - face, axis=2).min(1)
    assert distance.max() < 0.02
    assert set(body.groups["face"]) <= set(body.groups["head"])
    assert face[:, 2].min() > vertices[0, body.groups["head"], 2].mean() - 0.07
