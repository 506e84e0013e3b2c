"""Where pose images show the person: measured, compared, and reproduced by a camera."""

from dataclasses import replace

import numpy as np
import pytest

from anchor_jax.poses.framing import measure, spread, summarise

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
