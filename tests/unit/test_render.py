"""Drawn pixels: colour, place, masks and landmarks. They need OpenGL without a screen."""

import dataclasses
import pickle

import numpy as np
import pytest
import trimesh

from anchor_jax.body.formats import read_motion
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.motion import Camera
from anchor_jax.body.render import (
    _POINT_LIGHTS,
    _SPOT_LIGHTS,
    Renderer,
    _vertex_normals,
    use_platform,
)
from anchor_jax.body.view import make_view
from anchor_jax.errors import AnchorError
from tests.unit.motions import HEAD, gesturing, read_obj, show_form, standing
from tests.unit.test_view import expected_pixels

SIZE = 256, 256
NOBODY = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def body(opengl) -> MakeHuman:
    return MakeHuman()


def draw(body, motion, size=SIZE):
    """The first frame: its drawing, and its landmarks' pixels and visibility."""
    view = make_view(motion, body.joints(motion), size)
    vertices = body.vertices(motion)
    with Renderer(body.faces, body.groups["face"], view) as renderer:
        drawing = renderer.draw(view.place(vertices)[0])
        return drawing, *renderer.sees(drawing, view.place(body.landmarks(vertices))[0])


def test_skin_has_the_published_colour(opengl, data_dir):
    """Catches another material or other lights (too dark, another hue), R and B swapped, and a
    background that is not black."""
    vertices, faces = read_obj(data_dir / "body" / "SMPLX-female.obj")
    joints = np.zeros((1, 55, 3), np.float32)  # of a person who stands on y 0, arms out
    joints[:, [1, 16], 0], joints[:, [2, 17], 0] = 0.15, -0.15
    joints[..., 1] = 0.95
    joints[:, HEAD, 1] = 1.5
    view = make_view(standing(), joints, (512, 512))
    with Renderer(faces, NOBODY, view) as renderer:
        pixels = renderer.draw(view.place(vertices)).pixels.astype(float)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    lit = (pixels > 0).all(2)
    assert lit.mean() > 0.15
    assert (pixels[~lit] == 0).all()
    red, green, blue = red[lit], green[lit], blue[lit]
    # All but outlines, which are mixed with black and rounded, and the darkest skin.
    assert np.mean((red / blue >= 0.76) & (red / blue <= 0.80)) > 0.97
    assert np.mean((green / blue >= 0.95) & (green / blue <= 0.97)) > 0.99
    assert np.median(red / blue) == pytest.approx(0.776, abs=0.004)
    assert np.median(green / blue) == pytest.approx(0.962, abs=0.003)
    real = np.asarray(_first_pose(data_dir), float)[..., 2]
    assert blue.mean() == pytest.approx(real[real > 0].mean(), abs=12)


def _first_pose(data_dir):
    from PIL import Image

    with Image.open(data_dir / "poses" / "000001.png") as image:
        return image.convert("RGB")


def test_a_fitted_camera_draws_joints_at_the_right_pixels(opengl):
    """Catches a camera that draws elsewhere than it should: a small ball at each joint, its
    middle measured in the picture, against a projection by hand in the frame of the fit."""
    camera = Camera(5000.0, (260.0, 247.5), np.array([0.04, -0.3, 9.5], np.float32), (512, 512))
    rng = np.random.default_rng(3)
    joints = rng.uniform([-0.4, -0.7, -0.3], [0.4, 0.1, 0.3], (1, 55, 3)).astype(np.float32)
    motion = standing(frame="camera", camera=camera)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.008)
    view = make_view(motion, joints, (512, 512))
    expected = expected_pixels(camera, joints)[0]
    with Renderer(ball.faces, NOBODY, view) as renderer:
        for joint in range(0, 55, 5):
            mesh = np.asarray(ball.vertices, np.float32) + joints[0, joint]
            rows, columns = np.nonzero(renderer.draw(view.place(mesh)).foreground)
            assert len(rows) > 20
            middle = columns.mean() + 0.5, rows.mean() + 0.5  # of pixels, by their middles
            np.testing.assert_allclose(middle, expected[joint], atol=0.3)


def test_a_show_file_of_real_motion_is_drawn_where_it_projects(body, data_dir, tmp_path):
    """Catches a camera lost or changed between the file and the picture: BEAT2 motion in SHOW's
    form, in the frame of its fit, a ball at each wrist, elbow and the head."""
    beat = np.load(data_dir / "motion" / "beat2_scott.npz")
    frames = slice(300, 900, 200)
    poses = beat["poses"][frames].astype(np.float32)
    count = len(poses)
    poses[:, :3] = np.pi, 0, 0
    poses[:, 75:] = 0
    hands = np.zeros((count, 12), np.float32)
    camera = Camera(5000.0, (250.0, 262.0), np.array([0.08, -0.4, 11], np.float32), (512, 512))
    fit = standing(
        count,
        poses=poses.reshape(count, 55, 3),
        translation=np.tile(np.array([0.1, 0.2, 0], np.float32), (count, 1)),
        frame="camera",
        camera=camera,
        hand_pca=(hands, hands),
    )
    (tmp_path / "show.pkl").write_bytes(pickle.dumps(show_form(fit)))
    motion = read_motion(tmp_path / "show.pkl")
    joints = body.joints(motion)
    view = make_view(motion, joints, (512, 512))
    expected = expected_pixels(camera, joints)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.008)
    with Renderer(ball.faces, NOBODY, view) as renderer:
        for frame in range(count):
            for joint in (HEAD, 18, 19, 20, 21):
                mesh = np.asarray(ball.vertices, np.float32) + joints[frame, joint]
                rows, columns = np.nonzero(renderer.draw(view.place(mesh)).foreground)
                middle = columns.mean() + 0.5, rows.mean() + 0.5
                np.testing.assert_allclose(middle, expected[frame, joint], atol=0.5)


def test_a_frame_is_drawn_alike_again_and_after_others(body):
    """Catches a mesh of an earlier frame left in the scene, and lights that move."""
    motion = gesturing()
    view = make_view(motion, body.joints(motion), SIZE)
    meshes = view.place(body.vertices(motion))
    with Renderer(body.faces, body.groups["face"], view) as renderer:
        first = renderer.draw(meshes[0])
        assert (renderer.draw(meshes[6]).pixels != first.pixels).any()
        again = renderer.draw(meshes[0])
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))


def test_lights_have_one_order(body):
    """Catches sums of light in the order of the nodes' addresses, which differed by a grey level
    from process to process: sets of the nodes have to be walked as they were made."""
    motion = gesturing()
    view = make_view(motion, body.joints(motion), SIZE)
    for _ in range(5):
        with Renderer(body.faces, body.groups["face"], view) as renderer:
            scene = renderer._scene
            for nodes, places in (
                (scene.point_light_nodes, _POINT_LIGHTS),
                (scene.spot_light_nodes, _SPOT_LIGHTS),
                (scene.light_nodes, _POINT_LIGHTS + _SPOT_LIGHTS),
            ):
                assert [tuple(node.translation) for node in nodes] == list(places)


def test_masks_are_what_is_drawn(body):
    """Catches a mask of another frame or upside down, and a face mask with the crown or neck."""
    drawing, landmarks, visible = draw(body, standing())
    lit = drawing.pixels.any(2)
    assert (lit | ~drawing.foreground).all()  # all of the body is lit
    assert 0 < (lit & ~drawing.foreground).sum() < 0.02 * lit.sum()  # but for smooth outlines
    np.testing.assert_array_equal(drawing.foreground, drawing.depth > 0)
    assert (drawing.foreground | ~drawing.face).all()
    assert visible.all()
    for x, y in landmarks:
        assert drawing.face[int(y), int(x)]
    rows = np.flatnonzero(drawing.face.any(1))
    crown = np.flatnonzero(drawing.foreground.any(1))[0]
    assert crown < rows[0] < landmarks[0, 1]  # the hairline is between crown and eyes
    assert landmarks[3, 1] < rows[-1] < landmarks[3, 1] + 30


def test_what_is_hidden_is_not_seen(body):
    """Catches a face mask through the back of the head, landmarks called visible there, and a
    hand before the face that is taken for it."""
    away = standing()
    away.poses[:, HEAD, 1] = np.pi
    drawing, _, visible = draw(body, away)
    assert drawing.face.sum() < 100 and not visible.any()  # cheeks
    aside = standing()
    aside.poses[:, HEAD, 1] = 1.2  # towards image-right, which hides what is there
    _, _, visible = draw(body, aside)
    assert visible[[0, 3]].all() and not visible[[1, 4]].any()
    clear, _, _ = draw(body, standing())
    view = make_view(standing(), body.joints(standing()), SIZE)
    vertices = view.place(body.vertices(standing()))[0]
    hand = body.groups["left_hand"]
    nose = view.place(body.landmarks(body.vertices(standing())))[0, 2]
    before = nose + np.array([0, 0, 0.1])
    vertices[hand] += before - vertices[hand].mean(0)
    with Renderer(body.faces, body.groups["face"], view) as renderer:
        covered = renderer.draw(vertices)
        _, seen = renderer.sees(covered, nose[None])
    assert covered.face.sum() < 0.8 * clear.face.sum()
    assert not seen.any()


def test_points_beside_the_picture_are_not_seen(body):
    """Catches an index out of range, or one that wraps around."""
    motion = standing()
    view = make_view(motion, body.joints(motion), SIZE)
    with Renderer(body.faces, NOBODY, view) as renderer:
        drawing = renderer.draw(view.place(body.vertices(motion))[0])
        points = view.position + np.array([[0, 0, 1], [0, 0, 0], [9, 0, -1]])
        assert not renderer.sees(drawing, points)[1].any()


def test_normals_are_smooth():
    """Catches flat shading, and normals that point inwards."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=2)
    normals = _vertex_normals(np.asarray(ball.vertices, np.float32), ball.faces)
    assert normals.dtype == np.float32
    np.testing.assert_allclose(normals, ball.vertices / 2, atol=0.02)


def test_the_platform_is_chosen_before_opengl(opengl):
    """Catches a choice that comes too late and silently changes nothing."""
    import OpenGL  # noqa: F401

    use_platform(opengl)
    with pytest.raises(AnchorError, match="already loaded"):
        use_platform("osmesa" if opengl == "egl" else "egl")
