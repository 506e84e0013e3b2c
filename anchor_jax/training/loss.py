"""The denoising loss of the structure-guided diffusion model: equation (1) of the paper."""

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

QUARTERS = 4  # the loss is also told by quarters of the timesteps


@dataclass(frozen=True)
class Model:
    """What is trained, and on which loss.

    Attributes:
        denoiser: control branch and UNet, per frame.
        schedule: noise schedule, and what the UNet predicts.
        scaling_factor: of the autoencoder's latents.
        drop_condition: how often an example's tokens are replaced by those of the empty text, so
            that guidance has an unconditional half. Published: 0.
        min_snr: gamma of min-SNR weighting (Hang et al. 2023), or None for the published plain
            mean.
    """

    denoiser: Denoiser
    schedule: ScheduleConfig
    scaling_factor: float
    drop_condition: float = 0.0
    min_snr: float | None = None


@flax.struct.dataclass
class Draw:
    """All that is random in a batch, drawn: what the networks are to denoise.

    Attributes:
        latents: scaled samples of the posterior.
        noise: eps, standard normal.
        timesteps: t, uniform.
        tokens: appearance tokens.
        poses: pose images.
        inpainting: of the face, the mask (1 channel, 1 = keep) and the masked image's latents,
            which the UNet reads after the noisy latents.
    """

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, " b"]
    tokens: Float[Array, "b s d"]
    poses: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"]
    inpainting: Float[Array, "b h w c+1"] | None = None


def draw(
    model: Model, key: Array, batch: dict[str, Array], empty_text: Float[Array, "s d"]
) -> Draw:
    """Sample posterior, noise and timestep of every example.

    An example's random numbers hang on its `position` in the batch alone, so that any number of
    devices and processes draws the same ones.

    Args:
        model: networks and options.
        key: of this step.
        batch: `posterior` (b, h, w, 2c), mean and log-variance; `tokens` (b, s, d); `pose` uint8
            (b, H, W, 3); `position` int (b,); for the face also `mask` (b, h, w, 1) and
            `masked_posterior`, the masked image's.
        empty_text: tokens of a dropped condition.
    """

    def one(position: Array, posterior: Array) -> tuple[Array, ...]:
        keys = jax.random.split(jax.random.fold_in(key, position), 5)
        latents = _sample(keys[0], posterior) * model.scaling_factor
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
        masked = jax.vmap(_sample)(keys, batch["masked_posterior"]) * model.scaling_factor
        inpainting = jnp.concatenate([batch["mask"], masked], -1)
    tokens = jnp.where(dropped[:, None, None], empty_text, batch["tokens"])
    return Draw(latents, noise, timesteps, tokens, batch["pose"], inpainting)


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
    """The denoiser's prediction for x_t, frame by frame: each is a window of its own; float32."""
    return denoiser(
        params,
        noisy[:, None],
        poses[:, None],
        timesteps,
        tokens,
        control_scale=control_scale,
        inpainting=None if inpainting is None else inpainting[:, None],
    )[:, 0]


def losses(model: Model, params: Params, drawn: Draw) -> Float[Array, " b"]:
    """Of each example w_t times the mean of (target - prediction)^2; the target is eps or v."""
    alphas = jnp.asarray(alphas_cumprod(model.schedule))[drawn.timesteps]
    target = drawn.noise
    if model.schedule.prediction_type == "v_prediction":
        signal, noise = (x[:, None, None, None] for x in (jnp.sqrt(alphas), jnp.sqrt(1 - alphas)))
        target = signal * drawn.noise - noise * drawn.latents
    noisy = add_noise(drawn.latents, drawn.noise, alphas)
    inputs = noisy, drawn.timesteps, drawn.tokens, drawn.poses, drawn.inpainting
    prediction = predict(model.denoiser, params, *inputs)
    squared = (target - prediction) ** 2
    weights = loss_weights(model, alphas)
    return weights * squared.mean((1, 2, 3))


def loss_weights(model: Model, alphas: Float[Array, " b"]) -> Float[Array, " b"]:
    """w_t: 1, or min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v."""
    if model.min_snr is None:
        return jnp.ones_like(alphas)
    snr = alphas / (1 - alphas)
    velocity = model.schedule.prediction_type == "v_prediction"
    return jnp.minimum(snr, model.min_snr) / (snr + 1 if velocity else snr)


def by_quarter(model: Model, losses: np.ndarray, timesteps: np.ndarray) -> dict[str, float]:
    """Mean loss of the quarters of the timesteps that occur, noisiest last."""
    quarters = timesteps * QUARTERS // model.schedule.num_train_timesteps
    return {
        f"loss/t{i + 1}of{QUARTERS}": float(losses[quarters == i].mean())
        for i in range(QUARTERS)
        if (quarters == i).any()
    }


def _sample(key: Array, posterior: Array) -> Array:
    mean, log_variance = jnp.split(posterior, 2, -1)
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
