"""The KL autoencoder of [latent diffusion](https://arxiv.org/abs/2112.10752): E(.) and D(.) of the
paper, which only `train autoencoder` trains."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from anchor_jax.models.blocks import Downsample, ResidualBlock, Upsample, attend, conv1, conv3
from anchor_jax.models.configs import VAEConfig
from anchor_jax.models.group_norm import GroupNorm
from anchor_jax.shapes import Array

_EPSILON = 1e-6


class _AttentionBlock(nn.Module):
    """One-head self-attention over the pixels of a feature map."""

    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        tokens = GroupNorm(self.groups, _EPSILON, self.dtype, name="group_norm")(x)
        tokens = tokens.reshape(len(x), -1, x.shape[-1])
        return x + attend(tokens, tokens, 1, self.dtype, qkv_bias=True).reshape(x.shape)


class _MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups, width = self.config.norm_groups, x.shape[-1]
        x = ResidualBlock(width, groups, _EPSILON, self.dtype, name="resnets_0")(x)
        x = _AttentionBlock(groups, self.dtype, name="attentions_0")(x)
        return ResidualBlock(width, groups, _EPSILON, self.dtype, name="resnets_1")(x)


class _Encoder(nn.Module):
    """Compute the moments of the posterior from an image."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        x = conv3(c.channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, channels in enumerate(c.channels):
            last = i == len(c.channels) - 1
            x = _DownBlock(c, channels, not last, self.dtype, name=f"down_blocks_{i}")(x)
        x = _MidBlock(c, self.dtype, name="mid_block")(x)
        x = nn.silu(GroupNorm(c.norm_groups, _EPSILON, self.dtype, name="conv_norm_out")(x))
        return conv3(2 * c.latent_channels, dtype=self.dtype, name="conv_out")(x)


class _Decoder(nn.Module):
    """Compute an image from a latent."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        x = conv3(c.channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = _MidBlock(c, self.dtype, name="mid_block")(x)
        for i, channels in enumerate(reversed(c.channels)):
            last = i == len(c.channels) - 1
            x = _UpBlock(c, channels, not last, self.dtype, name=f"up_blocks_{i}")(x)
        x = nn.silu(GroupNorm(c.norm_groups, _EPSILON, self.dtype, name="conv_norm_out")(x))
        return conv3(c.image_channels, dtype=self.dtype, name="conv_out")(x)


class _DownBlock(nn.Module):
    """Residual blocks of one level, then downsampling by two."""

    config: VAEConfig
    channels: int
    resample: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups = self.config.norm_groups
        for i in range(self.config.layers_per_block):
            x = ResidualBlock(self.channels, groups, _EPSILON, self.dtype, name=f"resnets_{i}")(x)
        if self.resample:
            x = Downsample((0, 1), self.dtype, name="downsamplers_0")(x)
        return x


class _UpBlock(nn.Module):
    """Residual blocks of one level, one more than in the encoder, then upsampling by two."""

    config: VAEConfig
    channels: int
    resample: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups = self.config.norm_groups
        for i in range(self.config.layers_per_block + 1):
            x = ResidualBlock(self.channels, groups, _EPSILON, self.dtype, name=f"resnets_{i}")(x)
        return Upsample(self.dtype, name="upsamplers_0")(x) if self.resample else x


class VAE(nn.Module):
    """Encoder and decoder. Images are in [-1, 1]. Latents are smaller by the config's factor and
    not scaled: the caller applies the scaling factor."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32

    def setup(self):
        c = self.config
        self.encoder = _Encoder(c, self.dtype)
        self.decoder = _Decoder(c, self.dtype)
        self.quant_conv = conv1(2 * c.latent_channels, dtype=self.dtype)
        self.post_quant_conv = conv1(c.latent_channels, dtype=self.dtype)

    def encode(
        self, images: Float[Array, "b H W 3"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Compute mean and log-variance (clipped to [-30, 20]) of the posterior, float32."""
        moments = self.quant_conv(self.encoder(images)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, -1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b H W 3"]:
        """Compute images, nominally in [-1, 1], float32, not clipped."""
        return self.decoder(self.post_quant_conv(latents)).astype(jnp.float32)

    def __call__(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b H W 3"]:
        """Reconstruct images from the posterior's mean. Initialising through this method creates
        every parameter."""
        return self.decode(self.encode(images)[0])
