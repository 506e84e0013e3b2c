"""Denoising diffusion implicit models (Song et al. 2021), deterministic (eta = 0)."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from anchor_jax.shapes import Array


def clean_and_noise(
    x: Array, prediction: Array, alpha: ArrayLike, prediction_type: str = "epsilon"
) -> tuple[Array, Array]:
    """Split x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps into x_0 and eps, given the network's
    prediction of eps, or of v = sqrt(alpha) eps - sqrt(1 - alpha) x_0."""
    signal, noise = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
    if prediction_type == "epsilon":
        return (x - noise * prediction) / signal, prediction
    if prediction_type == "v_prediction":
        return signal * x - noise * prediction, noise * x + signal * prediction
    raise ValueError(f"prediction_type {prediction_type!r} is not epsilon or v_prediction")


def ddim_step(
    x: Array,
    prediction: Array,
    alpha: ArrayLike,
    alpha_prev: ArrayLike,
    prediction_type: str = "epsilon",
) -> Array:
    """x_{t-1} from x_t and the network's prediction: equation (12) of the DDIM paper, sigma = 0.

    Args:
        x: the noisy sample, any shape.
        prediction: the same shape.
        alpha: alpha-bar at x's timestep.
        alpha_prev: alpha-bar at the timestep to go to.
        prediction_type: what `prediction` is.
    """
    x0, eps = clean_and_noise(x, prediction, alpha, prediction_type)
    return jnp.sqrt(alpha_prev) * x0 + jnp.sqrt(1 - alpha_prev) * eps


def add_noise(x0: Array, eps: Array, alpha: Array) -> Array:
    """x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps; `alpha` (b,) is alpha-bar of each row."""
    alpha = alpha.reshape(-1, *[1] * (x0.ndim - 1))
    return jnp.sqrt(alpha) * x0 + jnp.sqrt(1 - alpha) * eps
