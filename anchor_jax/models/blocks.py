"""The parts that the UNet, the control branch and the autoencoder are made of.

Inside a network the frames of a window are folded into the batch: features are (b f, h, w, c).
`Frames` remembers the fold, and which of three computations look across frames.
"""

from dataclasses import dataclass

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from anchor_jax.models.attention import attention
from anchor_jax.models.products import convolution, product
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
class Frames:
    """The fold of a window: `num` frames a batch row, `mask` (b, f) False for frames that only
    pad the window (None: all are real)."""

    num: int = flax.struct.field(pytree_node=False)
    joint_attention: bool = flax.struct.field(pytree_node=False)
    pooled_norm: bool = flax.struct.field(pytree_node=False)
    mask: Array | None = None


def repeat_rows(x: Array, count: int) -> Array:
    """Tile the leading axis, where it is shorter, to `count`."""
    return x if len(x) == count else jnp.tile(x, (count // len(x), *[1] * (x.ndim - 1)))


def linear(features: int, **kwargs) -> nn.Dense:
    """A linear layer for tokens (b, s, c)."""
    return nn.Dense(features, dot_general=product, **kwargs)


def conv1(features: int, **kwargs) -> nn.Conv:
    return nn.Conv(features, (1, 1), conv_general_dilated=convolution, **kwargs)


def conv3(features: int, stride: int = 1, **kwargs) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        (stride, stride),
        padding=((1, 1), (1, 1)),
        conv_general_dilated=convolution,
        **kwargs,
    )


class GroupNorm(nn.Module):
    """Group normalisation of (b f, h, w, c), per frame, or pooled over the frames of a window.

    Statistics are float32, the variance is that of the centred values. Padding frames do not
    count.
    """

    groups: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, frames: Frames | None = None) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        num, real = 1, None
        if frames is not None and frames.pooled_norm:
            num, real = frames.num, frames.mask
        rows = x.reshape(-1, num, x.shape[1] * x.shape[2], x.shape[3])
        normalise = jax.jit(_normalise, static_argnums=(4, 5))  # traced once for all of one size
        out = normalise(rows, scale, bias, real, self.groups, self.epsilon)
        return out.reshape(x.shape).astype(self.dtype)


def _group_norm(
    x: Float[Array, "r f p c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    real: Bool[Array, "#r f"] | None,
    groups: int,
    epsilon: float,
) -> Float[Array, "r f p c"]:
    """Group normalisation over frames and pixels of each row, float32. Its gradient is written out:
    it needs two sums over the features, and the one that JAX derives takes three times as long."""
    return _normalise_and_keep(x, scale, bias, real, groups, epsilon)[0]


def _normalise_and_keep(x, scale, bias, real, groups, epsilon):
    def mean(values: Array) -> Array:
        """Of each channel's group. Channel by channel first, which keeps vectors whole, and frame
        by frame, so that the mask meets little."""
        means = values.mean(2).mean(1, where=None if real is None else real[..., None])
        return _share(means, groups)

    middle = mean(x.astype(jnp.float32))
    centred = x.astype(jnp.float32) - middle
    inverse = lax.rsqrt(mean(centred**2) + epsilon)
    return centred * (inverse * scale) + bias, (x, middle, inverse, scale, real)


def _normalise_gradients(groups, epsilon, kept, gradient):
    x, middle, inverse, scale, real = kept
    # With y = (x - m) / s: dx = (dy - mean(dy) - y mean(y dy)) / s, where dy is times the scale.
    normal = (x.astype(jnp.float32) - middle) * inverse
    sums = [values.sum((1, 2), keepdims=True) for values in (gradient, gradient * normal)]
    bias_gradient, scale_gradient = (s.sum((0, 1, 2)) for s in sums)
    frames = x.shape[1] if real is None else real.sum(1)[:, None, None, None]
    dy, ydy = (_share(s[:, 0, 0] * scale, groups) / (frames * x.shape[2]) for s in sums)
    through_statistics = dy + normal * ydy
    if real is not None:
        through_statistics = jnp.where(real[:, :, None, None], through_statistics, 0)
    x_gradient = (gradient * scale - through_statistics) * inverse
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient, None


_normalise = jax.custom_vjp(_group_norm, nondiff_argnums=(4, 5))
_normalise.defvjp(_normalise_and_keep, _normalise_gradients)


def _share(means: Array, groups: int) -> Array:
    """(r, c) -> (r, 1, 1, c): each channel gets the mean of its group."""
    r, c = means.shape
    shared = means.reshape(r, groups, c // groups).mean(-1, keepdims=True)
    return shared.repeat(c // groups, -1).reshape(r, 1, 1, c)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding (cosines first) and two linear layers: (b,) -> (b, 4 width)."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, timesteps: Array) -> Array:
        x = sinusoid(timesteps, self.width).astype(self.dtype)
        x = nn.Dense(4 * self.width, dtype=self.dtype, name="linear_1")(x)
        return nn.Dense(4 * self.width, dtype=self.dtype, name="linear_2")(nn.silu(x))


def sinusoid(timesteps: Array, width: int) -> Array:
    """[cos(t w_i), sin(t w_i)] with w_i = 10000^(-i / (width / 2)): (b,) -> float32 (b, width)."""
    half = width // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class ResidualBlock(nn.Module):
    """norm, silu, conv, twice, with the time embedding added between, around a shortcut."""

    channels: int
    groups: int
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, time: Array | None = None, frames: Frames | None = None) -> Array:
        h = nn.silu(GroupNorm(self.groups, self.epsilon, self.dtype, name="norm1")(x, frames))
        h = conv3(self.channels, dtype=self.dtype, name="conv1")(h)
        if time is not None:
            shift = nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(nn.silu(time))
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
    mask: Array | None = None,
    qkv_bias: bool = False,
) -> Array:
    """Multi-head attention of `x` (b, s, c) to `context` (b, t, c'). Call it from a compact method:
    it adds the four projections to the calling module."""
    width = x.shape[-1]

    def project(name: str, tokens: Array) -> Array:
        out = linear(width, use_bias=qkv_bias, dtype=dtype, name=name)(tokens)
        return out.reshape(*tokens.shape[:2], num_heads, width // num_heads)

    out = attention(project("to_q", x), project("to_k", context), project("to_v", context), mask)
    return linear(width, dtype=dtype, name="to_out_0")(out.reshape(x.shape))


class Attention(nn.Module):
    """Attention of a transformer block, to `context` or, without one, to itself."""

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, mask: Array | None = None) -> Array:
        return attend(x, x if context is None else context, self.num_heads, self.dtype, mask)


class Projection(nn.Module):
    """A linear layer one module deeper, where the checkpoints have it."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return linear(self.features, dtype=self.dtype, name="proj")(x)


class GatedFeedForward(nn.Module):
    """GEGLU (Shazeer 2020) with the exact Gaussian error function."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        h = Projection(8 * width, self.dtype, name="net_0")(x)
        h, gate = jnp.split(h, 2, -1)
        gate *= lax.erf(gate * 0.5**0.5) * 0.5 + 0.5  # a third faster than by erfc
        return linear(width, dtype=self.dtype, name="net_2")(h * gate)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the appearance tokens, feed-forward: (b f, s, c). Where x
    comes as one window (f, s, c) for several rows of tokens, they part at the cross-attention."""

    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array, frames: Frames) -> Array:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)

        shape = x.shape
        mask = None
        if frames.joint_attention:
            x = x.reshape(-1, frames.num * shape[1], shape[2])
            if frames.mask is not None:
                mask = jnp.broadcast_to(frames.mask, (len(x), frames.num))
                mask = jnp.repeat(mask, shape[1], axis=1)
        x = x + Attention(self.num_heads, dtype=self.dtype, name="attn1")(
            norm("norm1")(x), mask=mask
        )
        # The tokens are the same for every frame, so all frames' pixels share one key and value.
        x = repeat_rows(x.reshape(-1, frames.num * shape[1], shape[2]), len(context))
        x = x + Attention(self.num_heads, dtype=self.dtype, name="attn2")(norm("norm2")(x), context)
        x = x + GatedFeedForward(self.dtype, name="ff")(norm("norm3")(x))
        return x.reshape(-1, *shape[1:])


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map. Its normalisation is per frame."""

    num_heads: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array, frames: Frames) -> Array:
        n, h, w, c = x.shape
        out = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x)
        out = conv1(c, dtype=self.dtype, name="proj_in")(out).reshape(n, h * w, c)
        out = TransformerBlock(self.num_heads, self.dtype, name="transformer_blocks_0")(
            out, context, frames
        )
        out = conv1(c, dtype=self.dtype, name="proj_out")(out.reshape(-1, h, w, c))
        return repeat_rows(x, len(out)) + out


class Downsample(nn.Module):
    """A strided convolution to half the size. The autoencoder pads after the image only."""

    padding: tuple[int, int] = (1, 1)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Conv(
            x.shape[-1], (3, 3), (2, 2), (self.padding, self.padding), dtype=self.dtype, name="conv"
        )(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution, at 4/9 of its arithmetic: each of the four
    output phases sees two rows and two columns of the small image, under sums of kernel entries.

    `size` (h, w) is one less than the double where the way down had an odd size.
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
    """Three taps over doubled pixels as two over the pixels themselves: of an even output pixel
    the last two taps fall on one pixel, of an odd one the first two."""
    first, middle, last = jnp.split(kernel, 3, axis)
    pair = (first, middle + last) if phase == 0 else (first + middle, last)
    return jnp.concatenate(pair, axis)
