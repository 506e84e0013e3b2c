"""Compute the denoising loss of the structure-guided diffusion model (paper, equation 1)."""

from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from anchor_jax.diffusion.ddim import add_noise
from anchor_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod
from anchor_jax.models import Denoiser
from anchor_jax.shapes import Array, Params

_QUARTERS = 4  # the loss is also logged for each quarter of the timesteps


@dataclass(frozen=True)
class Model:
    """The trained networks and the options of their loss.

    Attributes:
        denoiser: control branch and UNet for single frames.
        schedule: noise schedule, and whether the UNet predicts noise or velocity.
        scaling_factor: multiplies the autoencoder's latents.
        drop_condition: probability that an example's tokens are replaced by those of the empty
            text, 0 to 1. This trains the unconditional prediction of classifier-free guidance
            (https://arxiv.org/abs/2207.12598). Published: 0.
        min_snr: gamma of min-SNR weighting (Hang et al. 2023, https://arxiv.org/abs/2303.09556).
            None weights all timesteps equally, as published.
    """

    denoiser: Denoiser
    schedule: ScheduleConfig
    scaling_factor: float
    drop_condition: float = 0.0
    min_snr: float | None = None


@flax.struct.dataclass
class DenoisingBatch:
    """A batch for the denoising loss, with all random numbers sampled.

    Attributes:
        latents: scaled samples of the posterior, x_0.
        noise: eps, standard normal.
        timesteps: t, uniform.
        tokens: appearance tokens, or those of the empty text.
        poses: pose images.
        inpainting: for the face, the mask (1 channel, 1 = keep) and the latents of the masked
            image. The UNet reads them after the noisy latents.
    """

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, " b"]
    tokens: Float[Array, "b s d"]
    poses: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"]
    inpainting: Float[Array, "b h w c+1"] | None = None


def sample_batch(
    model: Model, key: Array, batch: dict[str, Array], empty_text: Float[Array, "s d"]
) -> DenoisingBatch:
    """Sample posterior, noise, timestep and dropped condition of each example.

    The random numbers of an example depend only on `key` and its `position` in the batch, so they
    are the same for any number of devices and processes.

    Args:
        model: networks and options.
        key: PRNG key of the step.
        batch: "posterior" (b, h, w, 2c), mean and log-variance; "tokens" (b, s, d); "pose" uint8
            (b, H, W, 3); "position" int (b,). For the face also "mask" (b, h, w, 1) and
            "masked_posterior" (b, h, w, 2c), the posterior of the masked image.
        empty_text: tokens of a dropped condition.
    """

    def one(position: Array, posterior: Array) -> tuple[Array, ...]:
        keys = jax.random.split(jax.random.fold_in(key, position), 5)
        latents = _sample_posterior(keys[0], posterior) * model.scaling_factor
        return (
            latents,
            jax.random.normal(keys[1], latents.shape),
            jax.random.randint(keys[2], (), 0, model.schedule.num_train_timesteps),
            jax.random.uniform(keys[3]) < model.drop_condition,
            keys[4],
        )

    latents, noise, timesteps, dropped, keys = jax.vmap(one)(batch["position"], batch["posterior"])
    inpainting = None
    if "masked_posterior" in batch:
        masked = jax.vmap(_sample_posterior)(keys, batch["masked_posterior"]) * model.scaling_factor
        inpainting = jnp.concatenate([batch["mask"], masked], -1)
    tokens = jnp.where(dropped[:, None, None], empty_text, batch["tokens"])
    return DenoisingBatch(latents, noise, timesteps, tokens, batch["pose"], inpainting)


def predict(
    denoiser: Denoiser,
    params: Params,
    noisy: Float[Array, "b h w c"],
    timesteps: Int[Array, " b"],
    tokens: Float[Array, "b s d"],
    poses: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"],
    inpainting: Float[Array, "b h w c+1"] | None = None,
    control_scale: float = 1.0,
) -> Float[Array, "b h w c"]:
    """Predict noise or velocity from x_t, in float32. Each example is a window of one frame."""
    return denoiser(
        params,
        noisy[:, None],
        poses[:, None],
        timesteps,
        tokens,
        control_scale=control_scale,
        inpainting=None if inpainting is None else inpainting[:, None],
    )[:, 0]


def losses(model: Model, params: Params, batch: DenoisingBatch) -> Float[Array, " b"]:
    """Compute the loss of each example, w_t mean((target - prediction)^2).

    The target is eps or, for velocity prediction (https://arxiv.org/abs/2202.00512), v.
    """
    alphas = jnp.asarray(alphas_cumprod(model.schedule))[batch.timesteps]
    target = batch.noise
    if model.schedule.prediction_type == "v_prediction":
        signal, noise = (x[:, None, None, None] for x in (jnp.sqrt(alphas), jnp.sqrt(1 - alphas)))
        target = signal * batch.noise - noise * batch.latents
    noisy = add_noise(batch.latents, batch.noise, alphas)
    inputs = noisy, batch.timesteps, batch.tokens, batch.poses, batch.inpainting
    prediction = predict(model.denoiser, params, *inputs)
    squared = (target - prediction) ** 2
    weights = loss_weights(model, alphas)
    return weights * squared.mean((1, 2, 3))


def loss_weights(model: Model, alphas: Float[Array, " b"]) -> Float[Array, " b"]:
    """Compute w_t of each example: 1, or with min-SNR weighting min(SNR, gamma) / SNR for eps and
    min(SNR, gamma) / (SNR + 1) for v (https://arxiv.org/abs/2303.09556).

    Args:
        model: gamma, and the type of the prediction.
        alphas: cumulative products of alpha at the timesteps; SNR = alphas / (1 - alphas).
    """
    if model.min_snr is None:
        return jnp.ones_like(alphas)
    snr = alphas / (1 - alphas)
    velocity = model.schedule.prediction_type == "v_prediction"
    return jnp.minimum(snr, model.min_snr) / (snr + 1 if velocity else snr)


def by_quarter(model: Model, losses: np.ndarray, timesteps: np.ndarray) -> dict[str, float]:
    """Average the losses for each quarter of the timesteps, the noisiest quarter last.

    Args:
        model: its schedule has the number of timesteps.
        losses: (b,).
        timesteps: (b,).

    Returns:
        "loss/t1of4" to "loss/t4of4", without quarters that do not occur.
    """
    quarters = timesteps * _QUARTERS // model.schedule.num_train_timesteps
    return {
        f"loss/t{i + 1}of{_QUARTERS}": float(losses[quarters == i].mean())
        for i in range(_QUARTERS)
        if (quarters == i).any()
    }


def _sample_posterior(key: Array, posterior: Array) -> Array:
    """Sample from a normal posterior given as mean and log-variance (..., 2c)."""
    mean, log_variance = jnp.split(posterior, 2, -1)
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
