"""Multiplications and additions of a computation, counted on what jax traces of it.

XLA's own count of a compiled program takes every loop's body once, however often it runs; attention
here is such loops.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from anchor_jax.checkpoint import Anchor
from anchor_jax.checkpoint.parameters import abstract_params
from anchor_jax.diffusion import Sampling, num_halves, plan_windows
from anchor_jax.generation.networks import WindowDenoiser
from anchor_jax.models import Denoiser
from anchor_jax.shapes import Array


def count_flops(function: Callable, *args: Any) -> int:
    """Of all matrix products and convolutions in `function(*args)`, two for each multiplication
    with its addition; a `scan` counts as often as it runs, a `while`, which may not run at all,
    never. Nothing is computed, and arguments may be `jax.ShapeDtypeStruct`."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def step_flops(anchor: Anchor, shape: tuple[int, ...], sampling: Sampling) -> float:
    """Of one denoising step of the body, for each frame of a video.

    Args:
        anchor: its configs alone are used.
        shape: of the pose images (n, h, w, 3).
        sampling: its windows, where frames in two of them are computed twice, and its guidance,
            without which the work is half.
    """
    unet, control, vae = anchor.body.unet.config, anchor.body.control.config, anchor.vae.config
    n, height, width, _ = shape
    size = min(sampling.window, n)
    array = jax.ShapeDtypeStruct
    context = (num_halves(sampling.guidance), len(anchor.empty_text), unet.context_dim)
    params = {
        "unet": abstract_params(unet),
        "control": abstract_params(control),
        "context": array(context, np.float32),
        "control_scale": array((), np.float32),
    }
    latents = size, height // vae.factor, width // vae.factor, vae.latent_channels
    denoise = WindowDenoiser(Denoiser(unet, control))

    def predict(params: dict, latents: Array, poses: Array) -> Array:
        return denoise(params, latents, {"poses": poses}, jnp.int32(0), jnp.ones(size, bool))

    poses = array((size, height, width, 3), np.uint8)
    flops = count_flops(predict, params, array(latents, np.float32), poses)
    return flops * len(plan_windows(n, sampling.window, sampling.overlap)) / n


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            inputs: list[Any] = [value.aval for value in equation.invars]
            output: Any = equation.outvars[0].aval
            numbers = equation.params["dimension_numbers"]
            if name == "dot_general":
                terms = math.prod(inputs[0].shape[axis] for axis in numbers[0][0])
            else:  # of the kernel, all axes but that of the output's channels
                terms = inputs[1].size // inputs[1].shape[numbers.rhs_spec[0]]
            total += 2 * output.size * terms
        else:
            times = {"scan": equation.params.get("length"), "while": 0}.get(name, 1)
            total += times * sum(map(_count, _inner(equation.params)))
    return total


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The computations that an equation's parameters hold."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
