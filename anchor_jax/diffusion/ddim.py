"""[Denoising diffusion implicit models](https://arxiv.org/abs/2010.02502) (DDIM), deterministic
(eta = 0). `alpha` is alpha-bar, the cumulative product of 1 - beta, that paper's alpha."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from anchor_jax.shapes import Array


def clean_and_noise(
    x: Array, prediction: Array, alpha: ArrayLike, prediction_type: str = "epsilon"
) -> tuple[Array, Array]:
    """Split x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps into x_0 and eps.

    Args:
        x: the noisy sample x_t, any shape.
        prediction: the network's output, the same shape.
        alpha: alpha-bar at x's timestep.
        prediction_type: what the network predicts: "epsilon", eps (x_0 is equation (9) of the DDIM
            paper), or "v_prediction", v = sqrt(alpha) eps - sqrt(1 - alpha) x_0
            ([Salimans and Ho](https://arxiv.org/abs/2202.00512), section 4).

    Raises:
        ValueError: for another `prediction_type`.
    """
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
    """Compute x_{t-1} from x_t and the network's prediction: equation (12) of the DDIM paper with
    sigma = 0.

    Args:
        x: the noisy sample x_t, any shape.
        prediction: the network's output, the same shape.
        alpha: alpha-bar at x's timestep.
        alpha_prev: alpha-bar at the timestep of the result.
        prediction_type: as for `clean_and_noise`.
    """
    x0, eps = clean_and_noise(x, prediction, alpha, prediction_type)
    return jnp.sqrt(alpha_prev) * x0 + jnp.sqrt(1 - alpha_prev) * eps


def add_noise(x0: Array, eps: Array, alpha: Array) -> Array:
    """Compute x_t = sqrt(alpha) x_0 + sqrt(1 - alpha) eps, equation (4) of the DDIM paper.

    Args:
        x0: clean samples (b, ...).
        eps: noise of the same shape.
        alpha: alpha-bar of each row (b,).

    >>> add_noise(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.25]))
    Array([[0.5, 0.5]], dtype=float32)
    """
    alpha = alpha.reshape(-1, *[1] * (x0.ndim - 1))
    return jnp.sqrt(alpha) * x0 + jnp.sqrt(1 - alpha) * eps
