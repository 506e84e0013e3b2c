"""What stays float32 where the networks compute in bfloat16."""

import inspect
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from anchor_jax.diffusion.rings import _advance
from anchor_jax.diffusion.windows import count_windows
from anchor_jax.generation.autoencoder import decode_pixels
from anchor_jax.generation.networks import WindowDenoiser, cast_kernels
from anchor_jax.models import Denoiser, VAEConfig, abstract_params
from anchor_jax.models.blocks import TimeEmbedding, sinusoid
from anchor_jax.planning.flops import _inner
from tests.unit.test_pipeline import NETWORKS

# Softmax, norms and the sinusoid of the timestep. SiLU and GELU have other names.
DELICATE = {"exp", "exp2", "log", "rsqrt", "sqrt", "div", "cos", "sin"}


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in _inner(equation.params):
            yield from equations(inner)


def abstract(tree):
    return jax.eval_shape(lambda x: cast_kernels(x, "bfloat16"), tree)


def operations(function, *args) -> dict[str, set[str]]:
    """The types that each operation of a function reads, by its name."""
    found: dict[str, set[str]] = {}
    for equation in equations(jax.make_jaxpr(function)(*args).jaxpr):
        types = {str(getattr(x.aval, "dtype", "")) for x in equation.invars}
        found.setdefault(equation.primitive.name, set()).update(types)
    return found


def test_softmax_norms_and_timesteps_are_float32_in_bfloat16():
    """Catches a softmax, a norm or an embedding of the timestep in bfloat16, and networks that do
    not compute in bfloat16 at all."""
    unet, control = NETWORKS["body/unet"], NETWORKS["body/control"]
    array = jax.ShapeDtypeStruct
    params = {
        "unet": abstract(abstract_params(unet)),
        "control": abstract(abstract_params(control)),
        "context": array((2, 5, 8), "float32"),
        "control_scale": array((), "float32"),
    }
    condition = {"poses": array((3, 16, 16, 3), "uint8")}
    found = operations(
        WindowDenoiser(Denoiser(unet, control, "bfloat16")),
        params,
        array((3, 8, 8, 4), "float32"),
        condition,
        array((), "int32"),
        array((), "int32"),
    )
    assert found["conv_general_dilated"] >= {"bfloat16"}
    delicate = {name: types & {"bfloat16"} for name, types in found.items() if name in DELICATE}
    assert {"exp", "rsqrt", "cos", "sin"} <= set(delicate)
    assert not any(delicate.values()), delicate


def test_solver_guidance_and_pixels_are_float32_in_bfloat16():
    """Catches guidance or a step of a solver that rounds to bfloat16 at each step, and grey levels
    of which bfloat16 has only every second above 128 and every fourth above 256."""
    array = jax.ShapeDtypeStruct
    latents, sums = array((6, 2, 2, 4), "float32"), array((5, 2, 1, 2, 2, 4), "float32")
    predicted, numbers = array((1, 2, 4, 2, 2, 4), "float32"), array((1,), "int32")
    step = partial(
        _advance,
        counts=jnp.asarray(count_windows(np.ones(4, np.float32), 3)),
        weights=jnp.ones(4),
        alphas=jnp.ones((5, 2)),
        table=jnp.ones((5, 4)),
        guidance=7.5,
        prediction_type="epsilon",
    )
    clean = array((2, 6, 2, 2, 4), "float32")  # of a multistep solver
    state = latents, clean, sums
    found = operations(step, state, predicted, numbers, numbers, numbers, 1)
    assert not any("bfloat16" in types for types in found.values())
    vae = NETWORKS["vae"]
    assert isinstance(vae, VAEConfig)
    decode = inspect.unwrap(decode_pixels)  # a nested `jit` cannot have the options of a platform
    decode = partial(decode, vae, dtype="bfloat16", rounded=False)
    small = array((3, 2, 2, 4), "float32")
    found = operations(decode, abstract(abstract_params(vae)), small)
    assert found["conv_general_dilated"] == {"bfloat16"}
    assert "bfloat16" not in found["rsqrt"] | found["max"] | found["min"] | found["exp"]


def test_neighbouring_timesteps_differ_in_bfloat16():
    """Catches a timestep that is rounded before its angles are: bfloat16 has no 949 or 951."""
    embed = TimeEmbedding(32, jnp.bfloat16)
    params = embed.init(jax.random.key(0), jnp.zeros(1))
    rows = np.asarray(embed.apply(params, jnp.array([948, 949, 951, 952])), np.float32)
    assert (np.diff(rows, axis=0) != 0).any(1).all()
    angle = np.float64(951) * np.exp(-np.log(10000.0) * np.arange(16) / 16)
    np.testing.assert_allclose(sinusoid(jnp.array([951]), 32)[0, :16], np.cos(angle), atol=1e-4)
