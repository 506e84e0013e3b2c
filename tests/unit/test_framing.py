"""Where pose images show the person: measured, compared, and reproduced by a camera."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anchor_jax import AnchorError
from anchor_jax.body.view import View
from anchor_jax.poses import framing
from anchor_jax.poses.framing import Framing, compare, measure, reproduce, spread, summarise
from tests.unit.motions import moving

SIDE = 200


def person(scale: float = 1.0, across: int = 0, down: int = 0, background: int = 0, hand="down"):
    """A figure of rectangles, uint8 (200, 200, 3): at scale 1 the head is 40 wide and 50 high, the
    neck 20 wide, the shoulders 100; the crown is at row 20 and the middle in column 100."""
    image = np.full((SIDE, SIDE, 3), background, np.uint8)

    def fill(top: float, bottom: float, left: float, right: float) -> None:
        rows = slice(round(down + scale * top), max(0, round(down + scale * bottom)))
        columns = slice(*(max(0, round(100 + across + scale * x)) for x in (left, right)))
        image[rows, columns] = (118, 146, 152)

    fill(20, 70, -20, 20)
    fill(70, 80, -10, 10)
    fill(80, 300, -50, 50)
    if hand == "up":  # beside the head, and higher
        fill(5, 80, -50, -35)
    if hand == "wide":
        fill(90, 110, 50, 90)
        fill(150, 170, 50, 90)
    return image


def test_a_person_is_measured():
    """Catches rows that are counted from elsewhere, widths that are shares of something else, and
    a silhouette whose neck is sought in the shoulders."""
    place = measure(person())
    expected = (0.1, 0.35, 0.0, 0.2, 0.5, 1.0, 0)
    assert tuple(vars(place).values()) == pytest.approx(expected)
    moved = measure(person(0.5, across=-30, down=40))
    assert tuple(vars(moved).values()) == pytest.approx(
        (50 / 200, 75 / 200, -30 / 200, 0.1, 0.25, (40 + 150) / 200, 0)
    )


@pytest.mark.parametrize("hand", ["up", "wide"])
def test_hands_do_not_change_the_head(hand):
    """Catches a raised hand that is taken for the head, and a waist between arms for the neck."""
    found, expected = measure(person(hand=hand)), measure(person())
    assert replace(found, shoulders=0.5) == expected


def test_the_background_may_have_any_colour():
    """Catches a bright background that is taken for the person."""
    place = measure(person(background=230))
    assert place.background == 230
    assert (place.crown, place.head) == pytest.approx((0.1, 0.2))


def test_noise_is_no_person():
    """Catches specks of a video codec that become the lower edge, and a traceback for no person."""
    image = person(0.5, down=40)
    image[[20, -1], 100] = 200
    image[:, ::7] += np.uint8(10)
    assert (measure(image).crown, measure(image).bottom) == pytest.approx((0.25, 0.95))
    empty = measure(np.zeros((8, 8, 3), np.uint8))
    assert np.isnan([empty.crown, empty.head, empty.bottom]).all() and empty.background == 0
    square = np.zeros((64, 64, 3), np.uint8)
    square[20:40, 10:30] = 255
    assert measure(square).crown == 20 / 64 and np.isnan(measure(square).head)


def test_a_summary_leaves_rare_frames_aside():
    """Catches a mean that one frame moves, percentiles of another order, and a size that is
    height and width."""
    images = [person(across=x) for x in range(-10, 11)] + [person(0.2, down=150)]
    framing = summarise(image[:, 10:] for image in images)
    assert framing is not None and framing.size == (190, 200)
    assert framing.middle.head == pytest.approx(0.2, abs=1e-4)
    # The middle of the cut image is in column 105 of the whole one.
    assert framing.middle.column == pytest.approx(-0.025, abs=0.005)
    assert framing.low.column == pytest.approx(-0.07, abs=0.01)
    assert framing.high.column == pytest.approx(0.02, abs=0.01)


def test_pictures_without_a_person_have_no_framing():
    """Catches a framing of noise, which would refuse every pose, and a traceback for no images."""
    assert summarise([]) is None
    assert summarise([np.zeros((8, 8, 3), np.uint8)] * 9 + [person()]) is None


def test_a_sample_is_spread_evenly():
    """Catches a sample of the beginning alone, or one with more frames than there are."""
    assert spread(5) == [0, 1, 2, 3, 4]
    assert len(spread(1000, 200)) == 200 and spread(1000, 3) == [0, 500, 999]


def view(width: int = SIDE, height: int = SIDE) -> View:
    return View(
        rotation=np.eye(3),
        offset=np.zeros(3),
        position=np.array([0.0, 0.0, 1.0]),
        focal_length=100.0,
        center=(width / 2, height / 2),
        size=(width, height),
    )


def figure(scale: float) -> Any:
    """A body of a size."""
    methods = dict.fromkeys(("vertices", "joints", "landmarks", "notes"), print)
    return SimpleNamespace(scale=scale, faces=np.zeros((0, 3), np.int32), groups={}, **methods)


def draw(body, motion, camera: View, *_):
    """Pose images of a figure in the plane z = 0, as a camera sees it."""
    for _frame in motion.poses:
        points = np.array([[0.0, 0.0, 0.0]])
        (point,), _ = camera.project(points)
        factor = camera.focal_length / 100 * body.scale
        image = np.zeros((camera.size[1], camera.size[0], 3), np.uint8)
        for top, bottom, half in ((-80, -30, 20), (-30, -20, 10), (-20, 300, 50)):
            rows = slice(*(max(0, round(point[1] + factor * y)) for y in (top, bottom)))
            columns = slice(*(max(0, round(point[0] + factor * x)) for x in (-half, half)))
            image[rows, columns] = 150
        yield SimpleNamespace(pixels=image)


def trained(**options) -> Framing:
    found = summarise([person(**options)])
    assert found is not None
    return found


@pytest.mark.parametrize("size", [(SIDE, SIDE), (320, 200), (64, 64)])
def test_a_camera_shows_a_person_as_training_did(monkeypatch, size):
    """Catches a camera that zooms about another point, moves in the other direction, or takes
    widths as shares of the width; and a fit in small images that is one to whole pixels."""
    monkeypatch.setattr(framing, "draw_clip", draw)
    wanted = trained(scale=0.7, across=24, down=10)
    camera = reproduce(wanted, view(*size), figure(0.4), moving(30))
    assert camera.size == size
    large = replace(
        camera,
        focal_length=4 * camera.focal_length,
        center=(4 * camera.center[0], 4 * camera.center[1]),
        size=(4 * size[0], 4 * size[1]),
    )
    place = summarise(image.pixels for image in draw(figure(0.4), moving(2), large))
    assert place is not None
    for name in ("crown", "neck", "column", "head"):
        expected = getattr(wanted.middle, name)
        assert getattr(place.middle, name) == pytest.approx(expected, abs=0.006), name


def test_a_person_who_is_cut_off_at_first_is_fitted(monkeypatch):
    """Catches a fit that ends too early: the first camera sees and measures half of a head."""
    monkeypatch.setattr(framing, "draw_clip", draw)
    wanted = trained()
    near = replace(view(), center=(100.0, 50.0))
    camera = reproduce(wanted, near, figure(1.0), moving(3))
    place = summarise(image.pixels for image in draw(figure(1.0), moving(2), camera))
    assert place is not None
    assert place.middle.crown == pytest.approx(0.1, abs=0.02)
    assert place.middle.head == pytest.approx(0.2, abs=0.02)


def test_a_motion_that_shows_no_head_is_told(monkeypatch):
    """Catches a traceback, or a camera that looks anywhere, if nobody is seen."""
    monkeypatch.setattr(framing, "draw_clip", draw)
    with pytest.raises(AnchorError, match="leave out --framing"):
        reproduce(trained(), replace(view(), center=(-900.0, 100.0)), figure(1.0), moving(3))


@pytest.mark.parametrize(
    ("options", "phrases"),
    [
        ({}, []),
        ({"scale": 1.1, "across": 12, "down": -10}, []),
        (
            {"scale": 0.5, "across": -60, "down": 50},
            [
                "the person is 0.50 times as large",
                "the head is 0.20 of the image's height lower",
                "the head is 0.30 of the image's height to the left",
            ],
        ),
        ({"background": 230}, ["the background has grey level 230, not 0"]),
    ],
)
def test_poses_unlike_trainings_are_told(options, phrases):
    """Catches a difference that is not told or told in the wrong direction, and a false alarm for
    a little one."""
    assert compare(summarise([person(**options)]), trained()) == phrases


def test_training_that_moved_allows_to_move():
    """Catches a comparison with the middle of the training alone."""
    wide = summarise(person(across=x) for x in range(-60, 61, 5))
    assert wide is not None
    assert compare(trained(across=50), wide) == []
    assert compare(trained(across=50), trained()) != []


def test_poses_without_a_head_are_told():
    """Catches a traceback for poses of another kind, such as drawn skeletons."""
    assert compare(None, trained()) == ["they show no head and neck"]
