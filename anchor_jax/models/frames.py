"""The frames of a window inside a network, and which computations span them.

A network folds the frames into the batch: its features are (b f, h, w, c). `FrameFold` remembers
the fold.
"""

from dataclasses import dataclass

import flax.struct
import jax.numpy as jnp

from anchor_jax.models.reuse import NO_REUSE, Reuse
from anchor_jax.shapes import Array


@dataclass(frozen=True)
class Inflation:
    """How a per-frame network becomes one over all frames of a window (paper, section 3.2).

    Attributes:
        joint_attention: the UNet's self-attention spans all pixels of all frames (equation 5).
        pooled_norm: group normalisation of residual blocks and of the output pools its
            statistics over all frames, in the UNet and in the control branch.
        aliased_residual: the control residual of the last down feature is added to the mid
            block's input too. The paper does not say so; the published code does it at
            inference, through an in-place addition, also for one-frame windows.
    """

    joint_attention: bool = True
    pooled_norm: bool = True
    aliased_residual: bool = True


PUBLISHED = Inflation()
PER_FRAME = Inflation(joint_attention=False, pooled_norm=False, aliased_residual=False)


@flax.struct.dataclass
class FrameFold:
    """How the frames of windows are folded into the batch, and what spans them.

    Attributes:
        num: frames of a window, which are one row after the fold is undone.
        joint_attention: see `Inflation`.
        pooled_norm: see `Inflation`.
        num_real: int (b,), the leading frames of each window that are real; the others only pad
            it. None if all are real.
        reuse: features that are kept for the next step, or taken.
    """

    num: int = flax.struct.field(pytree_node=False)
    joint_attention: bool = flax.struct.field(pytree_node=False)
    pooled_norm: bool = flax.struct.field(pytree_node=False)
    num_real: Array | None = None
    reuse: Reuse = flax.struct.field(pytree_node=False, default=NO_REUSE)

    @property
    def mask(self) -> Array | None:
        """(b, f), which frames are real; None if all are."""
        return None if self.num_real is None else jnp.arange(self.num) < self.num_real[:, None]

    def unfold(self, x: Array) -> Array:
        """Reshape features (b f, ...) to (b, f, ...)."""
        return x.reshape(-1, self.num, *x.shape[1:])


def repeat_rows(x: Array, count: int) -> Array:
    """Tile the leading axis to `count` rows, unless it has as many."""
    return x if len(x) == count else jnp.tile(x, (count // len(x), *[1] * (x.ndim - 1)))
