"""Rotations, skeletons and linear blend skinning, for every body computed here.

Axis letters: f frames, j joints or bones, v vertices; d, e coordinates.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from anchor_jax.body.parallel import FRAMES_AT_ONCE
from anchor_jax.shapes import Array


def chunks(*fields: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Split fields (n, ...) of a motion into chunks of `FRAMES_AT_ONCE` frames, so that one
    compiled program serves every motion. The last chunk is padded with zeros.

    Yields:
        The frames, and the chunk of each field.
    """
    for start in range(0, len(fields[0]), FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        missing = FRAMES_AT_ONCE - len(fields[0][part])
        yield (
            part,
            [
                np.pad(values[part], [(0, missing)] + [(0, 0)] * (values.ndim - 1))
                for values in fields
            ],
        )


def rotation_matrices(axis_angles: Array) -> Array:
    """Return the rotation matrices (..., 3, 3) of axis-angle vectors (..., 3), radians, by
    Rodrigues' formula."""
    x, y, z = jnp.moveaxis(axis_angles, -1, 0)
    zero = jnp.zeros_like(x)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    cross = cross.reshape(*x.shape, 3, 3)
    angle = jnp.linalg.norm(axis_angles, axis=-1)[..., None, None] / jnp.pi
    return jnp.eye(3) + jnp.sinc(angle) * cross + jnp.sinc(angle / 2) ** 2 / 2 * (cross @ cross)


def pose_skeleton(parents: tuple[int, ...], rest: Array, rotations: Array) -> tuple[Array, Array]:
    """Chain the rotations of joints from the root outwards.

    Args:
        parents: parent of every joint; a parent comes before its children.
        rest: positions at rest, (f, j, 3) or (1, j, 3).
        rotations: (f, j, 3, 3), each relative to its parent, in the axes at rest.

    Returns:
        World rotations (f, j, 3, 3) and positions (f, j, 3). The root stays where it is at rest.
    """
    first = jnp.broadcast_to(rest[:, 0], (len(rotations), 3))
    turns, places = [rotations[:, 0]], [first]
    for joint, parent in enumerate(parents[1:], 1):
        bone = rest[:, joint] - rest[:, parent]
        turns.append(turns[parent] @ rotations[:, joint])
        places.append(places[parent] + jnp.einsum("fde,fe->fd", turns[parent], bone))
    return jnp.stack(turns, axis=1), jnp.stack(places, axis=1)


def skin(vertices: Array, weights: Array, turns: Array, shifts: Array) -> Array:
    """Move each vertex by the weighted mean of its bones' transforms (linear blend skinning).

    Args:
        vertices: at rest, (f, v, 3).
        weights: (v, j), the sum over j is 1.
        turns: rotations of the bones, (f, j, 3, 3).
        shifts: (f, j, 3); a bone moves x to turn @ x + shift.

    Returns:
        Vertices (f, v, 3).
    """
    turn = jnp.einsum("vj,fjde->fvde", weights, turns)
    shift = jnp.einsum("vj,fjd->fvd", weights, shifts)
    return jnp.einsum("fvde,fve->fvd", turn, vertices) + shift
