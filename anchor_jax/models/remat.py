"""What the backward pass computes again instead of keeping it from the forward pass
([Chen et al. 2016](https://arxiv.org/abs/1604.06174))."""

from typing import Literal, TypeVar

import flax.linen as nn
import jax

M = TypeVar("M", bound=type[nn.Module])

# The outputs of attention, and what its backward pass needs of the softmax, have this name
# (`jax.ad_checkpoint.checkpoint_name`).
ATTENTION = "attention"

# "none": keep all activations. "blocks": keep the inputs of residual blocks and transformers, and
# compute each block again. "all-but-attention": as "blocks", but keep the results of attention.
Remat = Literal["none", "blocks", "all-but-attention"]


def recomputed(block: M, remat: Remat) -> M:
    """Return the class of a block whose activations are computed again as `remat` says."""
    if remat == "none":
        return block
    policy = jax.checkpoint_policies.save_only_these_names(ATTENTION)
    return nn.remat(block, policy=policy if remat == "all-but-attention" else None)
