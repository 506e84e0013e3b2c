"""Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598)."""

from jax.typing import ArrayLike
from jaxtyping import Float

from anchor_jax.shapes import Array


def num_halves(scale: float) -> int:
    """Return the number of predictions for guidance: 1 (conditional only) at scale 1, else 2."""
    return 1 if scale == 1 else 2


def guide(predictions: Float[Array, "b ..."], scale: ArrayLike) -> Float[Array, "..."]:
    """Apply classifier-free guidance: u + g (c - u).

    Args:
        predictions: the unconditional prediction u and the conditional one c, in this order; or c
            alone, which is then the result.
        scale: guidance scale g.
    """
    if len(predictions) == 1:
        return predictions[0]
    unconditional, conditional = predictions[0], predictions[1]
    return unconditional + scale * (conditional - unconditional)
