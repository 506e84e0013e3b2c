"""What the studies compute beside the metrics, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anchor_jax.body.view import View
from anchor_jax.demo.demo import _frame_like
from anchor_jax.diffusion import Sampling
from anchor_jax.planning.flops import count_flops
from anchor_jax.planning.generation import share_computed_again
from anchor_jax.studies.results import Result, _interval, json_safe, markdown

NONE = np.zeros((0, 1, 1, 3), np.uint8)  # frames


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, np.float32)


def test_flops_are_those_of_products_and_convolutions():
    """Catches batches that are left out, a factor of two, a kernel counted for its outputs, and a
    loop or an inner function that counts once or not at all, and all branches of a choice."""
    product = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    assert count_flops(product, shape(2, 3, 5), shape(2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    assert count_flops(jax.jit(product), shape(2, 3, 5), shape(2, 5, 7)) == 420
    conv = lambda x, k: lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count_flops(conv, shape(1, 8, 8, 3), shape(3, 3, 3, 16)) == 2 * 64 * 16 * 27
    loop = lambda x: lax.map(lambda row: row @ row.T, x)
    assert count_flops(loop, shape(4, 3, 5)) == 4 * 2 * 3 * 3 * 5
    assert count_flops(jax.checkpoint(loop), shape(4, 3, 5)) == 360
    assert count_flops(lambda x: jnp.exp(x) + x, shape(9)) == 0
    either = lambda x: lax.platform_dependent(x, cpu=loop, default=lambda x: loop(x) * 2)
    assert count_flops(either, shape(4, 3, 5)) == 360


@pytest.mark.parametrize(
    ("num_frames", "pair", "expected"),
    [(100, (16, 4), 32 / 100), (10, (16, 4), 0), (96, (16, 0), 0), (400, (16, 12), 2.94)],
)
def test_frames_that_are_computed_again(num_frames, pair, expected):
    """Catches a share of windows instead of frames, a last window that counts as a whole one, and
    overlaps of more than half that count once."""
    sampling = Sampling(window=pair[0], overlap=pair[1])
    assert share_computed_again(num_frames, sampling) == pytest.approx(expected)


def test_intervals_are_students():
    """Catches the normal distribution's, a deviation over n, and one value with an _interval."""
    mean, half = _interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees at 97.5 %
    mean, half = _interval([5.0])
    assert mean == 5 and math.isnan(half)


def test_the_table_leaves_out_what_nobody_knows():
    """Catches a column of nothing, and a number where there is none."""
    some = Result([{"body/psnr": 20.0}, {"body/psnr": 22.0}], {"memory_mb": 100.4}, {}, NONE)
    other = Result([{"body/psnr": 25.0, "flicker": math.nan}], {}, {}, NONE)
    lines = markdown({"a": some, "b": other}).splitlines()
    assert lines[0] == "|  | PSNR | peak MB |"
    assert lines[2] == "| a | 21.00 ± 12.71 | 100 |"
    assert lines[3] == "| b | 25.00 |  |"
    assert json_safe({"a": [math.inf, 1.5, 2], "b": math.nan}) == {"a": [None, 1.5, 2], "b": None}


def test_a_view_is_moved_until_the_face_is_where_it_should_be():
    """Catches a zoom about another point than the principal one, x and y exchanged, and frames
    without a face that spoil the others."""
    view = View(np.eye(3), np.zeros(3), np.array([0, 0, 2.0]), 100.0, (32.0, 32.0), (64, 64))
    face = np.array([[-0.1, 0.1], [0.1, 0.1], [0, 0], [-0.1, -0.1], [0.1, -0.1]])
    points = np.pad(face + np.array([0.2, 0.3]), ((0, 0), (0, 1)))
    seen, _ = view.project(points[None])
    wanted = 1.5 * seen + (3.0, -7.0)
    known = np.concatenate([wanted, np.full((1, 5, 2), np.nan)])
    moved = _frame_like(view, seen, known)
    np.testing.assert_allclose(moved.project(points[None])[0], wanted)
    assert _frame_like(view, seen, -seen) is view


def test_a_score_without_a_heading_is_refused():
    """Catches a new metric that no table and no plot would ever show."""
    with pytest.raises(ValueError, match="body/lpips"):
        Result([{"body/lpips": 0.1}], {}, {}, NONE)
