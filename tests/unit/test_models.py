"""Properties of the networks that need no reference: frames, masks, rows, sizes."""

import dataclasses
from functools import partial
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax import models
from anchor_jax.models import (
    PER_FRAME,
    PUBLISHED,
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    Inflation,
    UNetConfig,
    VAEConfig,
    abstract_params,
    build,
    init_params,
)
from anchor_jax.models.blocks import Upsample, conv3
from anchor_jax.models.layers import Dense

SIZES = {
    "channels": (8, 16),
    "cross_attention": (True, False),
    "layers_per_block": 1,
    "num_heads": 2,
    "context_dim": 6,
    "norm_groups": 4,
}
UNET = UNetConfig(**SIZES)
CONTROL = ControlConfig(**SIZES, pose_embedding_channels=(4, 8))
VAE = VAEConfig(channels=(8, 16), layers_per_block=1, norm_groups=4)
ENCODERS = {"width": 8, "mlp_width": 16, "num_layers": 1, "num_heads": 2}


def apply(module, variables, *args, **kwargs) -> Any:
    return module.apply(variables, *args, **kwargs)


def draw(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def random_params(config):
    """Draw parameters that are nowhere zero, so that no computation is hidden by a zero factor."""
    rng = np.random.default_rng(0)

    def draw_like(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return jnp.asarray(values * 2 / np.sqrt(np.prod(leaf.shape[:-1])))
        return jnp.asarray(0.2 * values + (path[-1].key == "scale"))

    return {"params": jax.tree_util.tree_map_with_path(draw_like, abstract_params(config))}


@pytest.fixture(scope="module")
def window():
    """A function that predicts the noise of a window with both networks."""
    unet, control = build(UNET), build(CONTROL)
    unet_params, control_params = random_params(UNET), random_params(CONTROL)

    def predict(latents, context, poses, num_real=None, inflation=PUBLISHED):
        residuals = apply(
            control, control_params, latents, 300, context, poses, 2.0, num_real, inflation
        )
        return unet.apply(unet_params, latents, 300, context, residuals, num_real, inflation)

    return jax.jit(predict, static_argnames="inflation")


LATENTS, CONTEXT, POSES = draw(2, 2, 3, 4, 6, 4), draw(3, 2, 5, 6), draw(4, 2, 3, 8, 12, 3)


def close(a, b, tolerance=2e-5) -> bool:
    return bool(np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b))


def test_permuting_frames_permutes_the_prediction(window):
    """Catches a result that depends on the order of frames: a temporal position, or frames and
    pixels that are folded in the wrong order."""
    order = jnp.array([2, 0, 1])
    out = window(LATENTS, CONTEXT, POSES)
    assert close(window(LATENTS[:, order], CONTEXT, POSES[:, order]), out[:, order])


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Inflation)])
def test_each_switch_of_inflation_matters(window, field: str):
    """Catches a switch without effect."""
    inflation = dataclasses.replace(PUBLISHED, **{field: False})
    out = window(LATENTS, CONTEXT, POSES)
    assert not close(window(LATENTS, CONTEXT, POSES, inflation=inflation), out, 1e-3)


def test_per_frame_networks_see_one_frame(window):
    """Catches a computation that spans frames although inflation is off."""
    out = window(LATENTS, CONTEXT, POSES, inflation=PER_FRAME)
    for i in range(3):
        frame = slice(i, i + 1)
        alone = window(LATENTS[:, frame], CONTEXT, POSES[:, frame], inflation=PER_FRAME)
        assert close(alone, out[:, frame])


def test_padding_frames_do_not_exist(window):
    """Catches padding that changes real frames through attention or pooled statistics. The golden
    windows at the end of a video are shorter, not padded."""
    num_real = jnp.array([2, 2])
    padded = window(LATENTS.at[:, 2].set(1e3), CONTEXT, POSES.at[:, 2].set(1e3), num_real)
    short = window(LATENTS[:, :2], CONTEXT, POSES[:, :2])
    assert close(padded[:, :2], short)
    assert not close(window(LATENTS, CONTEXT, POSES)[:, :2], short, 1e-3)


def test_one_row_of_latents_serves_every_row_of_tokens(window):
    """Catches a row that is repeated at the wrong layer, and swapped halves of guidance."""
    num_real = jnp.array([2])
    shared = window(LATENTS[:1], CONTEXT, POSES[:1], num_real)
    repeated = window(
        jnp.tile(LATENTS[:1], (2, 1, 1, 1, 1)),
        CONTEXT,
        jnp.tile(POSES[:1], (2, 1, 1, 1, 1)),
        jnp.tile(num_real, 2),
    )
    assert close(shared, repeated)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_any_size_of_latents_comes_back(window, size: tuple[int, int]):
    """Catches a decoder that does not restore an odd size of the encoder."""
    out = window(draw(5, 1, 2, *size, 4), CONTEXT[:1], draw(6, 1, 2, 2 * size[0], 2 * size[1], 3))
    assert out.shape == (1, 2, *size, 4)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 3)])
def test_folded_upsampling_is_doubling_and_convolving(shape: tuple[int, ...]):
    """Catches a kernel entry in the wrong phase, or padding at the wrong edge."""
    x, module = draw(7, *shape), Upsample()
    variables = random_params_of(module, x)
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    expected = apply(conv3(shape[-1]), {"params": variables["params"]["conv"]}, doubled)
    np.testing.assert_allclose(apply(module, variables, x), expected, rtol=1e-4, atol=1e-5)


def random_params_of(module, *args):
    variables = jax.jit(module.init)(jax.random.key(0), *args)
    return jax.tree.map(lambda x: x + draw(8, *x.shape), variables)


def test_autoencoder_keeps_pictures_apart():
    """Catches statistics or attention that span the batch."""
    vae, params = build(VAE), random_params(VAE)
    images = draw(9, 2, 6, 8, 3)
    encode = jax.jit(lambda params, images: apply(vae, params, images, method="encode"))
    decode = jax.jit(lambda params, latents: apply(vae, params, latents, method="decode"))
    mean, log_variance = encode(params, images)
    assert mean.shape == log_variance.shape == (2, 3, 4, 4)
    decoded = decode(params, mean)
    assert decoded.shape == images.shape
    assert close(decode(params, mean[1:]), decoded[1:])


def test_fresh_control_branch_adds_nothing():
    """Catches zero convolutions that are not zero: training starts from the UNet alone."""
    params = {"params": init_params(CONTROL, jax.random.key(0))}
    control = jax.jit(partial(apply, build(CONTROL)))
    residuals = control(params, LATENTS, 300, CONTEXT, POSES, 1.0)
    assert [r.shape[2:] for r in residuals] == [
        (4, 6, 8),
        (4, 6, 8),
        (2, 3, 8),
        (2, 3, 16),
        (2, 3, 16),
    ]
    assert not any(np.any(r) for r in residuals)


@pytest.mark.parametrize(
    "config",
    [UNET, CONTROL, VAE, CLIPVisionConfig(**ENCODERS), CLIPTextConfig(**ENCODERS)],
    ids=lambda config: type(config).__name__,
)
def test_shapes_alone_are_those_of_fresh_parameters(config):
    """Catches an anchor that cannot be loaded, because a layer makes other parameters if there is
    no random key."""
    fresh = jax.eval_shape(partial(models._init, config), jax.random.key(0))
    assert abstract_params(config) == fresh


def test_given_parameters_are_not_initialised_again():
    """Catches layers that trace their initialisers again, which doubles the time of tracing, and
    the check that was made so: a parameter of another shape."""

    def init(*_):
        pytest.fail("initialised")

    layer, x = Dense(3, kernel_init=init), jnp.ones((1, 2))
    given = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    np.testing.assert_array_equal(layer.apply({"params": given}, x), [[3, 3, 3]])
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r"kernel.*\(2, 3\).*\(3, 2\)"):
        layer.apply({"params": given | {"kernel": jnp.ones((3, 2))}}, x)
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        Dense(3).apply({"params": {"bias": jnp.ones(3)}}, x)
