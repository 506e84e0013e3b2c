"""Count the multiplications and additions of a computation from its jaxpr.

XLA's own count of a compiled program counts the body of each loop once. Here attention runs in
loops, so that count is too small.
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
    """Count the floating-point operations of the matrix products and convolutions in a function.

    A multiplication with its addition counts as two. The body of a `scan` counts once for each
    iteration. The body of a `while` does not count, since its number of iterations is unknown.

    Args:
        function: the function, which is traced and not computed.
        args: its arguments, arrays or `jax.ShapeDtypeStruct`.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def step_flops(anchor: Anchor, shape: tuple[int, ...], sampling: Sampling) -> float:
    """Count the floating-point operations of one denoising step of the body, per video frame.

    Args:
        anchor: only its configs are used.
        shape: shape of the pose images (n, h, w, 3).
        sampling: its windows, since frames in two windows are computed twice, and its guidance,
            which doubles the work.
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
    """Count the operations of a jaxpr and of the jaxprs in its equations."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            inputs: list[Any] = [value.aval for value in equation.invars]
            output: Any = equation.outvars[0].aval
            numbers = equation.params["dimension_numbers"]
            if name == "dot_general":
                terms = math.prod(inputs[0].shape[axis] for axis in numbers[0][0])
            else:  # all axes of the kernel but that of the output channels
                terms = inputs[1].size // inputs[1].shape[numbers.rhs_spec[0]]
            total += 2 * output.size * terms
        else:
            times = {"scan": equation.params.get("length"), "while": 0}.get(name, 1)
            total += times * sum(map(_count, _inner(equation.params)))
    return total


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the jaxprs in the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
