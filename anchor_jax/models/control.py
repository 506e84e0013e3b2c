"""The control branch, a [ControlNet](https://arxiv.org/abs/2302.05543): one of the two networks of
the structure-guided diffusion model. A copy of the UNet's encoder reads the pose image, a render of
the body mesh. Its features are added to the UNet's skips (equation 2 of the paper)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Int

from anchor_jax.models.blocks import TimeEmbedding, conv1, conv3
from anchor_jax.models.configs import ControlConfig
from anchor_jax.models.frames import PUBLISHED, FrameFold, Inflation, repeat_rows
from anchor_jax.models.remat import Remat
from anchor_jax.models.unet import MidBlock, encode
from anchor_jax.shapes import Array

_zeros = nn.initializers.zeros
POSE_EMBEDDING = "controlnet_cond_embedding"  # the name of its parameters


class PoseEmbedding(nn.Module):
    """Convolutions from the pose image to the resolution of the latents. The last one is a zero
    convolution: its kernel is initialised with zeros."""

    hidden_channels: tuple[int, ...]
    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        first, *rest = self.hidden_channels
        x = nn.silu(conv3(first, dtype=self.dtype, name="conv_in")(x))
        for i, channels in enumerate(rest):
            x = nn.silu(conv3(x.shape[-1], dtype=self.dtype, name=f"blocks_{2 * i}")(x))
            x = nn.silu(conv3(channels, stride=2, dtype=self.dtype, name=f"blocks_{2 * i + 1}")(x))
        return conv3(self.channels, kernel_init=_zeros, dtype=self.dtype, name="conv_out")(x)


def pose_embedding(config: ControlConfig, dtype: DTypeLike) -> PoseEmbedding:
    """Make the module that embeds the pose images of a control branch."""
    return PoseEmbedding(
        config.pose_embedding_channels, config.channels[0], dtype, name=POSE_EMBEDDING
    )


class Control(nn.Module):
    """The control branch, ControlN(p_i) in the paper's notation. Its self-attention never spans the
    frames, whatever `inflation` is."""

    config: ControlConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "r f h w c"],
        timesteps: ArrayLike,
        context: Float[Array, "b s d"],
        poses: Float[Array, "p f _ _ _"],
        scale: ArrayLike,
        num_real: Int[Array, " r"] | None = None,
        inflation: Inflation = PUBLISHED,
        embedded: bool = False,
        shallow: bool = False,
    ) -> list[Float[Array, "_ f _ _ _"]]:
        """Compute the residuals that a UNet takes as `control`.

        Args:
            latents: noisy latents; b rows, or one row that is shared by all rows of the context.
            timesteps: a scalar or one per row of the latents.
            context: appearance tokens.
            poses: pose images, RGB in [0, 1]; one row per row of the latents, or one for all.
            scale: W_c of equation (2), applied after the zero convolutions.
            num_real: leading frames of each window that are real; None: all.
            inflation: as for the UNet.
            embedded: `poses` are results of `PoseEmbedding`, of the latents' size.
            shallow: compute the first residual alone.

        Returns:
            One residual for each skip, of the skip's shape, and one for the mid block's output.
        """
        c = self.config
        rows, f = latents.shape[:2]
        frames = FrameFold(f, False, inflation.pooled_norm, num_real)
        timesteps = jnp.broadcast_to(jnp.asarray(timesteps), (rows,))
        time = TimeEmbedding(c.channels[0], self.dtype, name="time_embedding")(timesteps)
        context = context.astype(self.dtype)
        pose = poses.reshape(-1, *poses.shape[2:])
        if not embedded:
            pose = pose_embedding(c, self.dtype)(pose)
        pose = repeat_rows(pose, rows * f)
        x = latents.reshape(rows * f, *latents.shape[2:])
        x = conv3(c.channels[0], dtype=self.dtype, name="conv_in")(x) + pose
        features, names = [x], ["controlnet_down_blocks_0"]
        if not shallow:
            features = encode(c, x, time, context, frames, self.dtype, self.remat)
            names = [f"controlnet_down_blocks_{i}" for i in range(len(features))]
            mid = MidBlock(c, self.dtype, self.remat, name="mid_block")
            features.append(mid(features[-1], time, context, frames))
            names.append("controlnet_mid_block")
        residuals = []
        for feature, name in zip(features, names, strict=True):
            zero_conv = conv1(feature.shape[-1], kernel_init=_zeros, dtype=self.dtype, name=name)
            # In float32, because bfloat16 would round the scale.
            residual = zero_conv(feature) * jnp.asarray(scale, jnp.float32)
            residual = residual.astype(self.dtype)
            residuals.append(residual.reshape(-1, f, *residual.shape[1:]))
        return residuals
