"""The upper rungs: whole networks against diffusers and transformers, weights random."""

# torch and diffusers are typed too loosely.
# pyright: reportCallIssue=false

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from anchor_jax.models import (
    PER_FRAME,
    PUBLISHED,
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    Remat,
    UNetConfig,
    VAEConfig,
    build,
)
from benchmarks.torch_peer import inflate, window_step
from tests.torch_side import network_params, random_network, relative, to_ours, to_torch

# Unequal everywhere, so that nothing fits by accident: widths, heads, layers, levels without
# cross-attention.
SIZES = {
    "channels": (16, 32, 48),
    "layers_per_block": 2,
    "cross_attention": (True, True, False),
    "num_heads": 4,
    "context_dim": 24,
    "norm_groups": 8,
}
UNET = UNetConfig(**SIZES)
CONTROL = ControlConfig(**SIZES, pose_embedding_channels=(8, 12, 16, 20))
VAE = VAEConfig(channels=(16, 32, 48), layers_per_block=2, norm_groups=8)
VISION = CLIPVisionConfig(
    image_size=48, patch_size=16, width=32, mlp_width=80, num_layers=3, num_heads=4
)
TEXT = CLIPTextConfig(
    vocab_size=99, max_length=20, width=32, mlp_width=80, num_layers=3, num_heads=4
)
TIMESTEPS = np.array([481, 21], np.int32)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def window(frames: int, height: int, width: int, channels: int = 4):
    """Latents, tokens and poses of two videos."""
    poses = np.random.default_rng(5).random((2, frames, 8 * height, 8 * width, 3), np.float32)
    return draw(2, frames, height, width, channels, seed=3), draw(2, 7, 24, seed=4), poses


def per_frame(tokens: np.ndarray, frames: int) -> torch.Tensor:
    """What a per-frame torch network takes: one row a frame."""
    return torch.from_numpy(tokens.repeat(frames, axis=0))


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(4, 8, 12), (9, 8, 12), (4, 5, 7)], ids=["4", "9", "odd"]
)
def test_unet(channels, height, width):
    """Catches a skip taken in the wrong order, a head width taken for the number of heads, a
    symmetric-padding mistake on the way down, a doubling that overshoots odd sizes, channels 5 to
    9 of the face stage dropped, and frames that see each other."""
    config = dataclasses.replace(UNET, in_channels=channels)
    theirs = random_network(config)
    latents, tokens, _ = window(3, height, width, channels)
    expected = theirs(
        to_torch(latents),
        torch.from_numpy(TIMESTEPS.repeat(3)),
        per_frame(tokens, 3),
        return_dict=False,
    )[0]
    ours = jax.jit(build(config).apply, static_argnames="inflation")(
        {"params": network_params(config, theirs)}, latents, TIMESTEPS, tokens, inflation=PER_FRAME
    )
    assert relative(ours, to_ours(expected, 3)) < 1e-5


@pytest.fixture(scope="module")
def control_and_unet():
    """Torch networks and our parameters."""
    unet, control = random_network(UNET, 1), random_network(CONTROL, 2)
    return unet, control, network_params(UNET, unet), network_params(CONTROL, control)


def test_control_and_controlled_unet_per_frame(control_and_unet):
    """Catches poses in [-1, 1], a scale applied before the biased zero convolutions, residuals out
    of order, and the aliased residual where it does not belong (the training's per-frame use)."""
    unet, control, unet_params, control_params = control_and_unet
    latents, tokens, poses = window(2, 8, 12)
    timesteps, context = torch.from_numpy(TIMESTEPS.repeat(2)), per_frame(tokens, 2)
    down, mid = control(
        to_torch(latents),
        timesteps,
        context,
        to_torch(poses),
        conditioning_scale=1.5,
        return_dict=False,
    )
    expected = unet(
        to_torch(latents),
        timesteps,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    residuals = jax.jit(build(CONTROL).apply, static_argnames="inflation")(
        {"params": control_params}, latents, TIMESTEPS, tokens, poses, 1.5, inflation=PER_FRAME
    )
    distances = [relative(o, to_ours(t, 2)) for o, t in zip(residuals, [*down, mid], strict=True)]
    assert max(distances) < 1e-5
    apply = jax.jit(build(UNET).apply, static_argnames="inflation")
    inputs = {"params": unet_params}, latents, TIMESTEPS, tokens, residuals
    assert relative(apply(*inputs, inflation=PER_FRAME), to_ours(expected, 2)) < 1e-5
    alias = dataclasses.replace(PER_FRAME, aliased_residual=True)
    assert relative(apply(*inputs, inflation=alias), to_ours(expected, 2)) > 1e-3


def test_published_window_with_padding_frames(control_and_unet):
    """Catches padding frames that leak into attention or into pooled statistics: three real
    frames and two of garbage must come out as three frames do in torch."""
    unet, control, unet_params, control_params = control_and_unet
    latents, tokens, poses = window(3, 8, 12)
    inflated_unet, inflated_control = random_network(UNET, 1), random_network(CONTROL, 2)
    inflate(inflated_unet, inflated_control, 3)
    expected = window_step(
        inflated_unet,
        inflated_control,
        to_torch(latents),
        481,
        torch.from_numpy(tokens),
        to_torch(poses),
        2.0,
    )
    garbage = ((0, 0), (0, 2), (0, 0), (0, 0), (0, 0))

    @jax.jit
    def step(control, unet, latents, timestep, tokens, poses, num_real):
        inputs = latents, timestep, tokens
        residuals = build(CONTROL).apply(control, *inputs, poses, 2.0, num_real, PUBLISHED)
        return build(UNET).apply(unet, *inputs, residuals, num_real, PUBLISHED)

    padded = (
        {"params": control_params},
        {"params": unet_params},
        np.pad(latents, garbage, constant_values=3),
        481,
        tokens,
        np.pad(poses, garbage, constant_values=1),
    )
    ours = step(*padded, np.full(2, 3))
    assert relative(ours[:, :3], to_ours(expected, 3)) < 1e-5
    all_real = step(*padded, np.full(2, 5))
    assert relative(all_real[:, :3], to_ours(expected, 3)) > 1e-3


def test_autoencoder():
    """Catches symmetric padding on the way down, eps 1e-5 in its norms, attention with a wrong
    scale or several heads, and mean and log-variance swapped."""
    theirs = random_network(VAE)
    params = {"params": network_params(VAE, theirs)}
    images, latents = np.tanh(draw(2, 16, 24, 3)), draw(2, 5, 6, 4, seed=1)
    posterior = theirs.encode(to_torch(images), return_dict=False)[0]
    mean, log_variance = jax.jit(lambda p, x: build(VAE).apply(p, x, method="encode"))(
        params, images
    )
    assert relative(mean, to_ours(posterior.mean)) < 1e-5
    assert relative(log_variance, to_ours(posterior.logvar)) < 1e-5
    decoded = jax.jit(lambda p, x: build(VAE).apply(p, x, method="decode"))(params, latents)
    assert relative(decoded, to_ours(theirs.decode(to_torch(latents), return_dict=False)[0])) < 1e-5


def test_image_encoder():
    """Catches tokens after the last layer norm, a class token at the end, exact gelu, a missing
    first layer norm, and patches in column order."""
    theirs = random_network(VISION)
    pixels = draw(2, 48, 48, 3)
    expected = theirs(to_torch(pixels))
    params = {"params": network_params(VISION, theirs)}
    hidden, pooled = jax.jit(build(VISION).apply)(params, pixels)
    assert relative(hidden, expected.last_hidden_state) < 1e-5
    assert relative(pooled, expected.pooler_output) < 1e-5


def test_text_encoder():
    """Catches attention without the causal mask, exact gelu, and a hidden state before the last
    layer norm."""
    theirs = random_network(TEXT)
    ids = np.random.default_rng(0).integers(0, 99, (2, 11))
    expected = theirs(torch.from_numpy(ids)).last_hidden_state
    params = {"params": network_params(TEXT, theirs)}
    assert relative(jax.jit(build(TEXT).apply)(params, ids), expected) < 1e-5


def test_bfloat16_stays_near_float32(control_and_unet):
    """Catches statistics or a softmax in bfloat16, and a dtype that is ignored."""
    _, _, params, _ = control_and_unet
    latents, tokens, _ = window(2, 8, 12)
    inputs = {"params": params}, latents, 481, tokens
    full = jax.jit(build(UNET).apply)(*inputs)
    half = jax.jit(build(UNET, jnp.bfloat16).apply)(*inputs)
    assert half.dtype == jnp.bfloat16
    assert 1e-4 < relative(half.astype(jnp.float32), full) < 5e-2


@pytest.mark.parametrize("kind", [UNetConfig, pytest.param(ControlConfig, marks=pytest.mark.slow)])
def test_checkpointed_gradients_are_the_same(kind):
    """Catches a recomputed block that gets other arguments, checkpointing that is ignored, and
    attention that is computed again although its results are kept."""
    sizes = {"channels": (8, 16), "layers_per_block": 1, "cross_attention": (True, False)}
    config = kind(**SIZES | sizes)
    params = network_params(config, random_network(config))
    latents, tokens, poses = window(1, 4, 4)
    inputs = [jnp.asarray(x) for x in (latents, TIMESTEPS, tokens)]
    inputs += [] if kind is UNetConfig else [jnp.asarray(poses), 1.0]

    def loss(params, remat):
        out = build(config, remat=remat).apply({"params": params}, *inputs, inflation=PER_FRAME)
        return sum(jnp.square(x).mean() for x in jax.tree.leaves(out))

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, plain = gradient(params, "none")
    for remat in ("blocks", "all-but-attention"):
        again, gradients = gradient(params, remat)
        assert relative(again, value) < 1e-6
        flat = [np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (gradients, plain)]
        assert relative(*flat) < 1e-5
    traced = jax.make_jaxpr(jax.grad(loss), static_argnums=1)
    softmaxes = {
        remat: str(traced(jax.tree.map(jnp.asarray, params), remat)).count("reduce_max")
        for remat in get_args(Remat)
    }
    assert softmaxes["none"] == softmaxes["all-but-attention"] < softmaxes["blocks"]
