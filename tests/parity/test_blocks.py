"""Single parts of the networks against diffusers, before the tests of whole networks."""

# torch and diffusers are typed too loosely.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from anchor_jax.models.blocks import (
    ResidualBlock,
    SpatialTransformer,
    TimeEmbedding,
    sinusoid,
)
from anchor_jax.models.frames import FrameFold
from anchor_jax.models.group_norm import GroupNorm
from benchmarks.torch_peer import PooledGroupNorm
from tests.torch_side import module_params, randomise, relative, to_ours, to_torch

PER_FRAME = FrameFold(1, joint_attention=False, pooled_norm=False)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_sinusoid():
    """Catches sines before cosines, and frequencies divided by half - 1 (freq_shift 1)."""
    timesteps = np.array([0, 1, 481, 999])
    theirs = Timesteps(32, flip_sin_to_cos=True, downscale_freq_shift=0)(
        torch.from_numpy(timesteps)
    )
    ours = sinusoid(jnp.asarray(timesteps), 32)
    assert relative(ours, theirs) < 1e-5
    swapped = Timesteps(32, flip_sin_to_cos=False, downscale_freq_shift=0)
    assert relative(ours, swapped(torch.from_numpy(timesteps))) > 1e-3


def test_time_embedding():
    """Catches a missing or doubled activation between the linear layers, and a map of names that
    reads `linear_1` as an item of a list."""
    theirs = randomise(TimestepEmbedding(32, 128))
    module, timesteps = TimeEmbedding(32), np.array([3, 481])
    params = module_params(module, theirs, timesteps)
    out = jax.jit(module.apply)({"params": params}, timesteps)
    angles = Timesteps(32, flip_sin_to_cos=True, downscale_freq_shift=0)(
        torch.from_numpy(timesteps)
    )
    assert relative(out, theirs(angles)) < 1e-5


@pytest.mark.parametrize("out_channels", [16, 48])
def test_residual_block(out_channels):
    """Catches a time embedding added after the second norm or without its activation, a shortcut
    convolution for equal channels, eps 1e-6, and transposed convolution kernels."""
    theirs = randomise(
        ResnetBlock2D(
            in_channels=16, out_channels=out_channels, temb_channels=64, groups=8, eps=1e-5
        )
    )
    module = ResidualBlock(out_channels, 8)
    x, time = draw(2, 5, 6, 16), draw(2, 64, seed=1)
    params = module_params(module, theirs, x, time)
    out = jax.jit(module.apply)({"params": params}, x, time)
    assert relative(out, to_ours(theirs(to_torch(x), torch.from_numpy(time)))) < 1e-5


def test_residual_block_pools_its_norms_over_frames():
    """Catches per-frame statistics in a window, and statistics that span two videos."""
    theirs = randomise(ResnetBlock2D(in_channels=16, out_channels=16, temb_channels=64, groups=8))
    for norm in (theirs.norm1, theirs.norm2):
        norm.__class__, norm.num_frames = PooledGroupNorm, 3
    module, time = ResidualBlock(16, 8, 1e-6), draw(2, 64, seed=1)
    brightness = np.array([1, 2, 3, 4, 5, 6], np.float32)[:, None, None, None]
    x = draw(6, 5, 6, 16) * brightness
    params = module_params(module, theirs, x, time)
    apply = jax.jit(module.apply)
    pooled = apply(
        {"params": params}, x, time, FrameFold(3, joint_attention=False, pooled_norm=True)
    )
    expected = to_ours(theirs(to_torch(x), torch.from_numpy(time.repeat(3, 0))))
    assert relative(pooled, expected) < 1e-5
    assert relative(apply({"params": params}, x, time, PER_FRAME), expected) > 1e-3


def vjp_of_norm(module: GroupNorm, params: dict, x: np.ndarray, gradient: np.ndarray, *frames):
    apply = lambda params, x: module.apply({"params": params}, x, *frames)
    return jax.jit(lambda params, x, g: jax.vjp(apply, params, x)[1](g))(params, x, gradient)


@pytest.mark.parametrize("pooled", [False, True])
def test_gradients_of_group_normalisation(pooled: bool):
    """Catches a gradient that leaves out the path through mean or variance, sums over other frames
    or groups than the forward pass, and swapped gradients of scale and bias."""
    theirs: Any = randomise(torch.nn.GroupNorm(4, 12, eps=1e-5))
    theirs.requires_grad_(True)
    if pooled:
        theirs.__class__, theirs.num_frames = PooledGroupNorm, 3
    x, gradient = 2 + draw(6, 3, 5, 12), draw(6, 3, 5, 12, seed=1)
    inputs = to_torch(x).requires_grad_(True)
    theirs(inputs).backward(to_torch(gradient))
    module = GroupNorm(4)
    params = {"scale": theirs.weight.detach().numpy(), "bias": theirs.bias.detach().numpy()}
    frames = FrameFold(3, joint_attention=False, pooled_norm=pooled)
    of_params, of_x = vjp_of_norm(module, params, x, gradient, frames)
    assert relative(of_x, to_ours(inputs.grad)) < 1e-5
    assert relative(of_params["scale"], theirs.weight.grad) < 1e-5
    assert relative(of_params["bias"], theirs.bias.grad) < 1e-5
    _, half = vjp_of_norm(module, params, x.astype(jnp.bfloat16), gradient, frames)
    assert half.dtype == jnp.bfloat16 and relative(half, of_x) < 0.01


def test_padding_frames_have_no_gradient():
    """Catches padding that counts in the means of the gradient, and a gradient of padding
    frames."""
    x, gradient = draw(4, 3, 5, 12), draw(4, 3, 5, 12, seed=1)
    gradient[2:] = 0
    module, params = GroupNorm(4), {"scale": draw(12), "bias": draw(12, seed=1)}
    frames = FrameFold(2, joint_attention=False, pooled_norm=True)
    alone = vjp_of_norm(module, params, x[:2], gradient[:2], frames)
    num_real = jnp.array([2])
    padded = FrameFold(4, joint_attention=False, pooled_norm=True, num_real=num_real)
    of_params, of_x = vjp_of_norm(module, params, x, gradient, padded)
    assert relative(of_x[:2], alone[1]) < 1e-6 and not of_x[2:].any()
    for name, value in alone[0].items():
        assert relative(of_params[name], value) < 1e-6


def test_spatial_transformer():
    """Catches a head width that is used as the number of heads, swapped gate and value in GEGLU,
    the tanh approximation of GELU, eps 1e-5 in the outer norm, and a missing outer residual."""
    theirs = randomise(
        Transformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=32,
            cross_attention_dim=24,
            norm_num_groups=8,
        )
    )
    module = SpatialTransformer(4, 8)
    x, context = draw(2, 5, 6, 32), draw(2, 7, 24, seed=1)
    params = module_params(module, theirs, x, context, PER_FRAME)
    out = jax.jit(module.apply)({"params": params}, x, context, PER_FRAME)
    expected = theirs(to_torch(x), torch.from_numpy(context), return_dict=False)[0]
    assert relative(out, to_ours(expected)) < 1e-5
    heads = jax.jit(SpatialTransformer(8, 8).apply)
    assert relative(heads({"params": params}, x, context, PER_FRAME), to_ours(expected)) > 1e-3
