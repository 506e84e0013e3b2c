"""The denoising UNet of [latent diffusion](https://arxiv.org/abs/2112.10752): one of the two
networks of the structure-guided diffusion model (paper, section 3.1)."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Int

from anchor_jax.models.blocks import (
    Downsample,
    ResidualBlock,
    SpatialTransformer,
    TimeEmbedding,
    Upsample,
    conv3,
)
from anchor_jax.models.configs import EncoderConfig, UNetConfig
from anchor_jax.models.frames import PUBLISHED, FrameFold, Inflation, repeat_rows
from anchor_jax.models.group_norm import GroupNorm
from anchor_jax.models.remat import Remat, recomputed
from anchor_jax.models.reuse import NO_REUSE, Reuse
from anchor_jax.shapes import Array


class _Block(nn.Module):
    """One resolution level: residual blocks, each followed by a transformer if the level has
    cross-attention.

    One class serves the encoder and the decoder. In the decoder (`skips` given) each layer first
    takes one skip off the end of the list. Returns the features after the block, and the features
    after each layer and after downsampling, which are the encoder's skips. `layers` leaves out the
    others; a block may be called once for each part of its layers.
    """

    config: EncoderConfig
    level: int
    num_layers: int
    resample: str | None = None  # "down", "up"
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        x: Array,
        time: Array,
        context: Array,
        frames: FrameFold,
        skips: list[Array] | None = None,
        layers: range | None = None,
    ) -> tuple[Array, list[Array]]:
        c, outputs = self.config, []
        residual = recomputed(ResidualBlock, self.remat)
        transformer = recomputed(SpatialTransformer, self.remat)
        for i in layers or range(self.num_layers):
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
            assert skips, "skips of the finer levels are still in the list"
            _, height, width, _ = skips[-1].shape
            x = Upsample(self.dtype, name="upsamplers_0")(x, (height, width))
        return x, outputs


class MidBlock(nn.Module):
    """Residual block, transformer, residual block at the coarsest level."""

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, time: Array, context: Array, frames: FrameFold) -> Array:
        c = self.config
        residual = recomputed(ResidualBlock, self.remat)
        transformer = recomputed(SpatialTransformer, self.remat)
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
    frames: FrameFold,
    dtype: DTypeLike,
    remat: Remat,
) -> list[Array]:
    """Run the encoder, which the UNet and the control branch have in common.

    Call it from a compact method: it adds the blocks to the calling module.

    Returns:
        The features of all skips, from the input `x` itself to the coarsest.
    """
    skips = [x]
    for level in range(len(config.channels)):
        last = level == len(config.channels) - 1
        x, outputs = _Block(
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
    """eps_theta(z_t, t, c) over the frames of a window. `inflation` selects per-frame or inflated
    use."""

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "r f h w c"],
        timesteps: ArrayLike,
        context: Float[Array, "b s d"],
        control: Sequence[Float[Array, "_ f _ _ _"]] | None = None,
        num_real: Int[Array, " r"] | None = None,
        inflation: Inflation = PUBLISHED,
        reuse: Reuse = NO_REUSE,
    ) -> Float[Array, "b f h w o"]:
        """Predict the noise.

        Args:
            latents: noisy latents; b rows, or one row that is shared by all rows of the context.
                The layers before the first cross-attention then compute that row once.
            timesteps: a scalar or one per row of the latents, in [0, 1000).
            context: appearance tokens.
            control: scaled residuals of the control branch: one for each skip and, last, one for
                the mid block's output.
            num_real: leading frames of each window that are real; the others only pad it, and do
                not change the prediction of the real ones. None: all.
            inflation: which computations span the frames.
            reuse: features that are kept in Flax's collection `reuse.COLLECTION`, or taken from it.
                Of "deep" ones that are taken, `control` has the first residual alone.

        Returns:
            The predicted noise of each row of the context.
        """
        c = self.config
        rows, f = latents.shape[:2]
        frames = FrameFold(f, inflation.joint_attention, inflation.pooled_norm, num_real, reuse)
        timesteps = jnp.broadcast_to(jnp.asarray(timesteps), (rows,))
        time = TimeEmbedding(c.channels[0], self.dtype, name="time_embedding")(timesteps)
        context = context.astype(self.dtype)
        x = latents.reshape(rows * f, *latents.shape[2:])
        residuals = [r.reshape(-1, *r.shape[2:]).astype(self.dtype) for r in control or ()]

        def encoded() -> list[Array]:
            """Compute the skips and, last, the mid block's output."""
            first = conv3(c.channels[0], dtype=self.dtype, name="conv_in")(x)
            if reuse.takes("deep"):
                return [first + residuals[0] if residuals else first]
            skips = encode(c, first, time, context, frames, self.dtype, self.remat)
            mid = skips[-1]
            if residuals:
                skips = [skip + r for skip, r in zip(skips, residuals[:-1], strict=True)]
                mid = skips[-1] if inflation.aliased_residual else mid
            mid = MidBlock(c, self.dtype, self.remat, name="mid_block")(mid, time, context, frames)
            return [*skips, mid + residuals[-1] if residuals else mid]

        kept = reuse.of(self, "encoder", lambda: [frames.unfold(skip) for skip in encoded()])
        skips = [skip.reshape(-1, *skip.shape[2:]) for skip in kept]
        x = self._decode(skips, time, context, frames)
        x = nn.silu(GroupNorm(c.norm_groups, dtype=self.dtype, name="conv_norm_out")(x, frames))
        x = conv3(c.out_channels, dtype=self.dtype, name="conv_out")(x)
        return frames.unfold(x)

    def _decode(self, skips: list[Array], time: Array, context: Array, frames: FrameFold) -> Array:
        """Run the decoder. `skips` ends with the mid block's output; of deep features that are
        taken, the first skip is enough."""
        c, reuse = self.config, frames.reuse
        layers = c.layers_per_block + 1

        def block(level: int) -> _Block:
            name = f"up_blocks_{len(c.channels) - 1 - level}"
            resample = "up" if level else None
            return _Block(c, level, layers, resample, self.dtype, self.remat, name=name)

        finest = block(0)

        def coarse() -> Array:
            """Compute the input of the finest level."""
            x = skips.pop()
            for level in reversed(range(1, len(c.channels))):
                x, _ = block(level)(x, time, context, frames, skips)
            return x

        def deep() -> Array:
            """Compute the input of the last layer."""
            x, _ = finest(coarse(), time, context, frames, skips, range(layers - 1))
            return frames.unfold(x)

        if not reuse.has("deep"):
            return finest(coarse(), time, context, frames, skips)[0]
        x = reuse.of(self, "deep", deep)
        x = x.reshape(-1, *x.shape[2:])
        return finest(x, time, context, frames, skips, range(layers - 1, layers))[0]
