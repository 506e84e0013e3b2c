"""Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598)."""

from jax.typing import ArrayLike
from jaxtyping import Float

from anchor_jax.shapes import Array


def num_halves(scale: float) -> int:
    """How many predictions guidance needs: the conditional one alone where its scale is 1."""
    return 1 if scale == 1 else 2


def guide(predictions: Float[Array, "b ..."], scale: ArrayLike) -> Float[Array, "..."]:
    """u + g (c - u): the conditional prediction c moved away from the unconditional one u.

    Args:
        predictions: u and c, in this order; or c alone, which is then the result.
        scale: g.
    """
    if len(predictions) == 1:
        return predictions[0]
    unconditional, conditional = predictions[0], predictions[1]
    return unconditional + scale * (conditional - unconditional)
