"""The camera: SHOW's own, or a framing that stays still over the clip."""

import dataclasses

import numpy as np
import pytest

from anchor_jax.body.motion import Camera
from anchor_jax.body.view import View, make_view
from anchor_jax.errors import AnchorError
from tests.unit.motions import HEAD, gesturing, standing

SIZE = 512, 512
WRISTS_AND_HANDS = [20, 21, *range(25, 55)]


def stick_figure(motion) -> np.ndarray:
    """Joints (n, 55, 3) for tests of the camera alone: a person of 1.7 m, arms out by the poses'
    elbows, hips at y 0.9."""
    joints = np.zeros((len(motion.poses), 55, 3), np.float32)
    joints[..., 1] = 0.9
    joints[:, [1, 16], 0], joints[:, [2, 17], 0] = 0.15, -0.15
    joints[:, [12, 13, 14, 16, 17], 1] = 1.35
    joints[:, [HEAD, 22, 23, 24], 1] = 1.5
    joints[:, [7, 8, 10, 11], 1] = 0
    joints[:, [18, 20, *range(25, 40)], 0] = 0.3
    joints[:, [19, 21, *range(40, 55)], 0] = -0.3
    joints[:, [20, *range(25, 40)], 1] = 1 - motion.poses[:, [18], 1] / 2
    return joints + motion.translation[:, None]


def expected_pixels(camera: Camera, joints: np.ndarray) -> np.ndarray:
    """The projection by hand, in the frame of the fit (y down, z away): the camera stands at
    (x, y, -z) of its translation."""
    x, y, z = camera.translation
    depth = joints[..., 2] + z
    u = camera.center[0] + camera.focal_length * (joints[..., 0] - x) / depth
    v = camera.center[1] + camera.focal_length * (joints[..., 1] - y) / depth
    return np.stack([u, v], axis=-1)


CAMERA = Camera(5000.0, (270.0, 240.0), np.array([0.05, -0.2, 9.0], np.float32), (512, 512))


def test_a_fitted_camera_projects_as_the_fit_did():
    """Catches a sign of the half turn or of the camera's place, and the centre swapped."""
    joints = np.random.default_rng(0).normal(0, 0.3, (4, 55, 3)).astype(np.float32)
    view = make_view(standing(4, frame="camera", camera=CAMERA), joints, SIZE)
    pixels, depth = view.project(view.place(joints))
    np.testing.assert_allclose(pixels, expected_pixels(CAMERA, joints), atol=0.01)
    assert (depth > 7).all()
    assert not view.crops(CAMERA)


@pytest.mark.parametrize(
    ("size", "scale", "cut"), [((256, 256), 0.5, (160, 0)), ((1280, 720), 4 / 3, (0, 0))]
)
def test_another_size_shows_the_middle_of_the_fitted_video(size, scale, cut):
    """Catches a picture stretched, or its crop taken from a corner."""
    camera = dataclasses.replace(CAMERA, size=(960, 540), center=(480.0, 270.0))
    if size == (256, 256):
        camera = dataclasses.replace(camera, size=(832, 512))
    joints = np.random.default_rng(0).normal(0, 0.3, (1, 55, 3)).astype(np.float32)
    view = make_view(standing(frame="camera", camera=camera), joints, size)
    expected = (expected_pixels(camera, joints) - cut) * scale
    np.testing.assert_allclose(view.project(view.place(joints))[0], expected, atol=0.01)
    assert view.crops(camera) == (cut != (0, 0))


@pytest.mark.parametrize("size", [(512, 512), (640, 384), (384, 640)])
def test_the_picture_holds_head_to_hips_and_the_hands(size):
    """Catches a person cut off, off the middle or small, and y upside down."""
    motion = gesturing()
    joints = stick_figure(motion)
    view = make_view(motion, joints, size)
    pixels, _ = view.project(view.place(joints))
    width, height = size
    hands = pixels[:, WRISTS_AND_HANDS]
    assert (hands >= 0).all() and (hands <= size).all()
    assert 0.9 * height < pixels[:, 0, 1].min() < height  # hips
    assert 0 < pixels[:, HEAD, 1].max() < 0.6 * height
    box = pixels[:, [HEAD, 0, 20, 21]].reshape(-1, 2)
    assert max(np.ptp(box[:, 0]) / width, np.ptp(box[:, 1]) / height) > 0.5
    assert abs(pixels[0, HEAD, 0] - width / 2) < 2


def test_a_rare_reach_does_not_make_the_person_small():
    """Catches a framing by the farthest frame of a long clip."""
    motion = standing(100)
    joints = stick_figure(motion)
    still = make_view(motion, joints, SIZE)
    joints[50, [20, 21], 0] = 2, -2
    assert make_view(motion, joints, SIZE).position[2] == pytest.approx(still.position[2], abs=0.01)
    joints[50, HEAD, 0] = 1  # but the head stays inside
    assert make_view(motion, joints, SIZE).position[2] > still.position[2] + 1


@pytest.mark.parametrize("degrees", [0, 75, 180, -120])
def test_the_person_faces_the_camera(degrees):
    """Catches a view from behind or from the side, and a turn the wrong way round."""
    motion = gesturing()
    joints = stick_figure(motion)
    facing = make_view(motion, joints, SIZE)
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = joints @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T
    turned += [3, 0, -2]
    view = make_view(motion, turned, SIZE)
    np.testing.assert_allclose(
        view.project(view.place(turned))[0], facing.project(facing.place(joints))[0], atol=0.1
    )


def test_a_camera_frame_is_seen_as_its_camera_saw_it():
    """Catches a person upside down or mirrored where y points down."""
    joints = stick_figure(standing())
    upright = make_view(standing(), joints, SIZE)
    seen = joints * [1, -1, -1]
    view = make_view(standing(frame="camera"), seen.astype(np.float32), SIZE)
    np.testing.assert_allclose(
        view.project(view.place(seen))[0], upright.project(upright.place(joints))[0], atol=0.01
    )


def test_joints_that_are_not_finite_are_reported():
    """Catches a camera at NaN."""
    joints = stick_figure(standing(3))
    joints[1, 4, 0] = np.nan
    with pytest.raises(AnchorError, match="frame 1 "):
        make_view(standing(3), joints, SIZE)


@pytest.mark.parametrize("size", [(0, 512), (511, 512), (512, 8192), (-2, 2)])
def test_a_size_that_cannot_be_drawn_is_reported(size):
    """Catches an OpenGL error late, or an encoder's."""
    with pytest.raises(AnchorError, match="even sides from 2"):
        make_view(standing(), stick_figure(standing()), size)


def test_a_point_in_the_picture_plane_is_no_error():
    """Catches a warning, which is an error in tests, for points beside the camera."""
    view = View(np.eye(3), np.zeros(3), np.zeros(3), 100.0, (8.0, 8.0), (16, 16))
    pixels, depth = view.project(np.array([[1.0, 0, 0]]))
    assert depth[0] == 0 and not np.isfinite(pixels[0, 0])
