"""The building blocks of the UNet, the control branch and the autoencoder, as in
[latent diffusion](https://arxiv.org/abs/2112.10752). Features are (b f, h, w, c): see `frames`."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from anchor_jax.models.attention import attention
from anchor_jax.models.frames import FrameFold, repeat_rows
from anchor_jax.models.group_norm import GroupNorm
from anchor_jax.models.layers import Conv, Dense, LayerNorm
from anchor_jax.models.products import convolution, product
from anchor_jax.shapes import Array


def linear(features: int, **kwargs) -> nn.Dense:
    """Build a linear layer for tokens (b, s, c)."""
    return Dense(features, dot_general=product, **kwargs)


def conv1(features: int, **kwargs) -> nn.Conv:
    """Build a 1x1 convolution."""
    return Conv(features, (1, 1), conv_general_dilated=convolution, **kwargs)


def conv3(features: int, stride: int = 1, **kwargs) -> nn.Conv:
    """Build a 3x3 convolution with a padding of one pixel."""
    return Conv(
        features,
        (3, 3),
        (stride, stride),
        padding=((1, 1), (1, 1)),
        conv_general_dilated=convolution,
        **kwargs,
    )


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding (cosines first) and two linear layers: (b,) -> (b, 4 width)."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, timesteps: Array) -> Array:
        x = sinusoid(timesteps, self.width).astype(self.dtype)
        x = Dense(4 * self.width, dtype=self.dtype, name="linear_1")(x)
        return Dense(4 * self.width, dtype=self.dtype, name="linear_2")(nn.silu(x))


def sinusoid(timesteps: Array, width: int) -> Array:
    """Embed timesteps as [cos(t w_i), sin(t w_i)] with w_i = 10000^(-i / (width / 2)):
    (b,) -> float32 (b, width). [Attention Is All You Need](https://arxiv.org/abs/1706.03762),
    section 3.5, has sines first, alternating with cosines.

    >>> sinusoid(jnp.zeros(1), 4)
    Array([[1., 1., 0., 0.]], dtype=float32)
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class ResidualBlock(nn.Module):
    """A residual block: twice group norm, SiLU and convolution, with the time embedding added in
    between; the shortcut is a 1x1 convolution if the number of channels changes."""

    channels: int
    groups: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, time: Array | None = None, frames: FrameFold | None = None
    ) -> Array:
        h = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm1")(x, frames))
        h = conv3(self.channels, dtype=self.dtype, name="conv1")(h)
        if time is not None:
            shift = Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
            h = (h.reshape(len(time), -1, *h.shape[1:]) + shift[:, None, None, None]).reshape(
                h.shape
            )
        h = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm2")(h, frames))
        h = conv3(self.channels, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = conv1(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


def attend(
    x: Array,
    context: Array,
    num_heads: int,
    dtype: DTypeLike,
    lengths: Array | None = None,
    qkv_bias: bool = False,
) -> Array:
    """Compute multi-head attention of `x` (b, s, c) to `context` (b, t, c'), with its projections.

    Call it from a compact method: it adds the four projections to the calling module.

    Args:
        x: tokens that attend.
        context: tokens that are attended to.
        num_heads: heads, each c / num_heads wide.
        dtype: type of the computation.
        lengths: (b,), the leading tokens of the context that are attended to; None: all.
        qkv_bias: whether the projections to queries, keys and values have a bias.
    """
    width = x.shape[-1]

    def project(name: str, tokens: Array) -> Array:
        out = linear(width, use_bias=qkv_bias, dtype=dtype, name=name)(tokens)
        return out.reshape(*tokens.shape[:2], num_heads, width // num_heads)

    query, key, value = project("to_q", x), project("to_k", context), project("to_v", context)
    out = attention(query, key, value, lengths)
    return linear(width, dtype=dtype, name="to_out_0")(out.reshape(x.shape))


class _Attention(nn.Module):
    """Attention of a transformer block: cross-attention to `context`, else self-attention."""

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, context: Array | None = None, lengths: Array | None = None
    ) -> Array:
        return attend(x, x if context is None else context, self.num_heads, self.dtype, lengths)


class _Projection(nn.Module):
    """A linear layer in a separate module, because checkpoints name its parameters so."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return linear(self.features, dtype=self.dtype, name="proj")(x)


class _GatedFeedForward(nn.Module):
    """A feed-forward layer gated by GELU ([GEGLU](https://arxiv.org/abs/2002.05202)),
    with the exact Gaussian error function."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        h = _Projection(8 * width, self.dtype, name="net_0")(x)
        h, gate = jnp.split(h, 2, -1)
        gate *= lax.erf(gate * 0.5**0.5) * 0.5 + 0.5  # a third faster than with erfc
        return linear(width, dtype=self.dtype, name="net_2")(h * gate)


class _TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the appearance tokens, feed-forward: (b f, s, c).

    `x` may be one window (f, s, c) for several rows of `context`. Then it is repeated for each row
    before the cross-attention.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array, frames: FrameFold) -> Array:
        def norm(name: str) -> nn.LayerNorm:
            return LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        shape = x.shape
        lengths = None
        if frames.joint_attention:
            x = x.reshape(-1, frames.num * shape[1], shape[2])
            if frames.num_real is not None:
                lengths = jnp.broadcast_to(frames.num_real * shape[1], (len(x),))

        def attend_to_self() -> Array:
            attention = _Attention(self.num_heads, dtype=self.dtype, name="attn1")
            out = attention(norm("norm1")(x), lengths=lengths)
            return out.reshape(-1, frames.num * shape[1], shape[2])

        x = x + frames.reuse.of(self, "attention", attend_to_self).reshape(x.shape)
        # The tokens are the same for every frame, so all frames' pixels share one key and value.
        x = repeat_rows(x.reshape(-1, frames.num * shape[1], shape[2]), len(context))
        x = x + _Attention(self.num_heads, dtype=self.dtype, name="attn2")(
            norm("norm2")(x), context
        )
        x = x + _GatedFeedForward(self.dtype, name="ff")(norm("norm3")(x))
        return x.reshape(-1, *shape[1:])


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map. Its normalisation is per frame."""

    num_heads: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array, frames: FrameFold) -> Array:
        n, h, w, c = x.shape
        out = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x)
        out = conv1(c, dtype=self.dtype, name="proj_in")(out).reshape(n, h * w, c)
        out = _TransformerBlock(self.num_heads, self.dtype, name="transformer_blocks_0")(
            out, context, frames
        )
        out = conv1(c, dtype=self.dtype, name="proj_out")(out.reshape(-1, h, w, c))
        return repeat_rows(x, len(out)) + out


class Downsample(nn.Module):
    """Halve the size with a strided convolution. The autoencoder pads only at the bottom and at
    the right."""

    padding: tuple[int, int] = (1, 1)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Conv(
            x.shape[-1], (3, 3), (2, 2), (self.padding, self.padding), dtype=self.dtype, name="conv"
        )(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two and a 3x3 convolution, with 4/9 of the multiplications.

    An output pixel has one of four phases: an even or odd row, an even or odd column. The 3x3
    kernel then covers only two rows and two columns of the small image, so that each phase is a
    convolution of the small image with a 2x2 kernel. Its entries are sums of the 3x3 kernel's.

    `size` (h, w) is one less than twice the input's where the encoder halved an odd size.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
        conv = conv3(x.shape[-1], dtype=self.dtype, name="conv")
        n, h, w, c = x.shape
        if self.is_initializing() or (size is not None and size != (2 * h, 2 * w)):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            return conv(x if size is None else x[:, : size[0], : size[1]])
        params = conv.variables["params"]
        kernel = jnp.asarray(params["kernel"], jnp.float32)
        bias = jnp.asarray(params["bias"], self.dtype)
        x = x.astype(self.dtype)

        def phase(row: int, column: int) -> Array:
            small = _fold_taps(_fold_taps(kernel, 0, row), 1, column).astype(self.dtype)
            padding = ((1 - row, row), (1 - column, column))
            return lax.conv_general_dilated(
                x, small, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        out = jnp.stack([jnp.stack([phase(i, j) for j in (0, 1)], 3) for i in (0, 1)], 2)
        return out.reshape(n, 2 * h, 2 * w, c) + bias


def _fold_taps(kernel: Array, axis: int, phase: int) -> Array:
    """Turn three taps over doubled pixels into two taps over the pixels themselves. For an even
    output pixel the last two taps fall on one pixel, for an odd one the first two.

    >>> _fold_taps(jnp.array([1, 2, 4]), 0, phase=0), _fold_taps(jnp.array([1, 2, 4]), 0, phase=1)
    (Array([1, 6], dtype=int32), Array([3, 4], dtype=int32))
    """
    first, middle, last = jnp.split(kernel, 3, axis)
    pair = (first, middle + last) if phase == 0 else (first + middle, last)
    return jnp.concatenate(pair, axis)
