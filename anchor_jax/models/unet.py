"""The denoising UNet: one half of the structure-guided diffusion model (paper, section 3.1)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float

from anchor_jax.models.blocks import (
    PUBLISHED,
    Downsample,
    Frames,
    GroupNorm,
    Inflation,
    ResidualBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    conv3,
    repeat_rows,
)
from anchor_jax.models.configs import EncoderConfig, UNetConfig
from anchor_jax.shapes import Array


class Block(nn.Module):
    """One resolution level: residual blocks, each with a transformer where the level has any.

    Going up (`skips` given), each layer first takes one skip off the end of the list. Returns the
    features and, going down, everything that the way up will want.
    """

    config: EncoderConfig
    level: int
    num_layers: int
    resample: str | None = None  # "down", "up"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        time: Array,
        context: Array,
        frames: Frames,
        skips: list[Array] | None = None,
    ) -> tuple[Array, list[Array]]:
        c, outputs = self.config, []
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        transformer = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        for i in range(self.num_layers):
            if skips is not None:
                skip = repeat_rows(skips.pop(), len(x))
                x = jnp.concatenate([x, skip], -1)
            x = residual(
                c.channels[self.level], c.norm_groups, dtype=self.dtype, name=f"resnets_{i}"
            )(x, time, frames)
            if c.cross_attention[self.level]:
                x = transformer(
                    c.num_heads, c.norm_groups, dtype=self.dtype, name=f"attentions_{i}"
                )(x, context, frames)
            outputs.append(x)
        if self.resample == "down":
            x = Downsample(dtype=self.dtype, name="downsamplers_0")(x)
            outputs.append(x)
        if self.resample == "up":
            assert skips, "the coarser levels leave the finer ones' skips"
            _, height, width, _ = skips[-1].shape
            x = Upsample(self.dtype, name="upsamplers_0")(x, (height, width))
        return x, outputs


class MidBlock(nn.Module):
    """Residual block, transformer, residual block at the coarsest level."""

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, time: Array, context: Array, frames: Frames) -> Array:
        c = self.config
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        transformer = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        width = c.channels[-1]
        x = residual(width, c.norm_groups, dtype=self.dtype, name="resnets_0")(x, time, frames)
        x = transformer(c.num_heads, c.norm_groups, dtype=self.dtype, name="attentions_0")(
            x, context, frames
        )
        return residual(width, c.norm_groups, dtype=self.dtype, name="resnets_1")(x, time, frames)


def encode(
    config: EncoderConfig,
    x: Array,
    time: Array,
    context: Array,
    frames: Frames,
    dtype: DTypeLike,
    remat: bool,
) -> list[Array]:
    """The way down, shared by the UNet and the control branch: every feature a skip is made of,
    from the input's own to the coarsest. Call it from a compact method: it adds the blocks to
    the calling module."""
    skips = [x]
    for level in range(len(config.channels)):
        last = level == len(config.channels) - 1
        x, outputs = Block(
            config,
            level,
            config.layers_per_block,
            None if last else "down",
            dtype,
            remat,
            name=f"down_blocks_{level}",
        )(x, time, context, frames)
        skips += outputs
    return skips


class UNet(nn.Module):
    """eps_theta(z_t, t, c) over the frames of a window. One class serves per-frame and inflated
    use; `inflation` says which."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "r f h w c"],
        timesteps: ArrayLike,
        context: Float[Array, "b s d"],
        control: Sequence[Float[Array, "_ f _ _ _"]] | None = None,
        frame_mask: Bool[Array, "r f"] | None = None,
        inflation: Inflation = PUBLISHED,
    ) -> Float[Array, "b f h w o"]:
        """Predict the noise.

        Args:
            latents: noisy; b rows, or one row for every row of the context: what comes before the
                first cross-attention is then computed once.
            timesteps: a scalar or one a row of the latents, in [0, 1000).
            context: appearance tokens.
            control: the control branch's residuals, scaled: one for each skip and, last, one for
                the mid block's output.
            frame_mask: False for frames that only pad a short window: real frames come out as if
                the others did not exist.
            inflation: what spans the frames.
        """
        c = self.config
        rows, f = latents.shape[:2]
        frames = Frames(f, inflation.joint_attention, inflation.pooled_norm, frame_mask)
        timesteps = jnp.broadcast_to(jnp.asarray(timesteps), (rows,))
        time = TimeEmbedding(c.channels[0], self.dtype, name="time_embedding")(timesteps)
        context = context.astype(self.dtype)
        x = latents.reshape(rows * f, *latents.shape[2:])
        x = conv3(c.channels[0], dtype=self.dtype, name="conv_in")(x)
        skips = encode(c, x, time, context, frames, self.dtype, self.remat)
        x = skips[-1]
        if control is not None:
            residuals = [r.reshape(-1, *r.shape[2:]).astype(self.dtype) for r in control]
            skips = [skip + r for skip, r in zip(skips, residuals[:-1], strict=True)]
            x = skips[-1] if inflation.aliased_residual else x
        x = MidBlock(c, self.dtype, self.remat, name="mid_block")(x, time, context, frames)
        if control is not None:
            x = x + residuals[-1]
        for i, level in enumerate(reversed(range(len(c.channels)))):
            x, _ = Block(
                c,
                level,
                c.layers_per_block + 1,
                "up" if level else None,
                self.dtype,
                self.remat,
                name=f"up_blocks_{i}",
            )(x, time, context, frames, skips)
        x = nn.silu(GroupNorm(c.norm_groups, dtype=self.dtype, name="conv_norm_out")(x, frames))
        x = conv3(c.out_channels, dtype=self.dtype, name="conv_out")(x)
        return x.reshape(-1, f, *x.shape[1:])
