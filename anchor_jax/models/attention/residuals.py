"""What the forward pass of attention keeps for its gradient, the same on every platform."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from anchor_jax.shapes import Array


class Residuals(NamedTuple):
    """Numbers that the backward pass computes the weights from, exp(scores - shift) / norm.

    Shift and norm are not one number, shift + log(norm), because that would lose all digits of the
    norm where scores are large.

    Attributes:
        shift: what was subtracted from the scores, in the units of the platform's file.
        norm: sum of exp(scores - shift).
        rest: what the output lost when it was rounded to half precision; None in float32. Without
            it, the gradient of a query whose weights are almost 0 or 1 would be noise.
    """

    shift: Float[Array, "b m s"]
    norm: Float[Array, "b m s"]
    rest: Float[Array, "b s m d"] | None


def rounding_rest(exact: Float[Array, "b s m d"], out: Float[Array, "b s m d"]) -> Array | None:
    """Compute `Residuals.rest` of an output from its values in float32."""
    if out.dtype == jnp.float32:
        return None
    return (exact - out.astype(jnp.float32)).astype(out.dtype)


def weighted_gradient(
    gradient: Float[Array, "b s m d"], out: Float[Array, "b s m d"], residuals: Residuals
) -> tuple[Float[Array, "b s m d"], Float[Array, "b m s"]]:
    """Compute dO / norm, in the type of the output, and its products with the output,
    rowsum(dO / norm * O), float32."""
    norm = residuals.norm.swapaxes(1, 2)[..., None]
    gradient = (gradient.astype(jnp.float32) / norm).astype(out.dtype)
    exact = out.astype(jnp.float32)
    if residuals.rest is not None:
        exact += residuals.rest.astype(jnp.float32)
    row_sums = (gradient.astype(jnp.float32) * exact).sum(-1)
    return gradient, row_sums.swapaxes(1, 2)
