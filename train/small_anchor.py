"""A small anchor: sizes of all its networks, and fresh ones around a trained autoencoder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import arg

from anchor_jax.checkpoint import Anchor
from anchor_jax.checkpoint.fresh_control import fresh_control, fresh_control_config
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    apply,
    init_params,
)
from anchor_jax.shapes import Params
from anchor_jax.training.optimizer import OptimizerConfig

from .configs import LoopConfig, Places


@dataclass(frozen=True)
class AutoencoderConfig(LoopConfig):
    """Settings of the autoencoder and sizes of all networks of the anchor.

    Attributes:
        kl_weight: of the posterior's divergence from a standard normal distribution, per pixel
            of the image, beside the mean squared error.
        cut: how often a frame's background is cut away, where the data set has mattes.
        channels: of the autoencoder's levels, finest first; its factor is 2^(levels - 1).
        latent_channels: of the latents.
        layers: residual blocks a level.
        unet_channels: of the UNet's levels, finest first.
        unet_attention: for each of those, whether it has transformers.
        unet_layers: residual blocks a level.
        heads: attention heads.
        groups: of every group normalisation.
        image_size: pixels of the appearance picture that the image encoder sees.
        patch_size: pixels a token.
        image_width: width of the tokens.
        image_layers: layers of the image encoder.
        prediction_type: what the UNet predicts; small models learn v sooner.
    """

    kl_weight: float = 2.5e-7
    cut: float = 0.5
    channels: tuple[int, ...] = (16, 32, 48)
    latent_channels: int = 8
    layers: int = 1
    unet_channels: tuple[int, ...] = (40, 64)
    unet_attention: tuple[bool, ...] = (False, True)
    unet_layers: int = 1
    heads: int = 4
    groups: int = 8
    image_size: int = 128
    patch_size: int = 16
    image_width: int = 64
    image_layers: int = 2
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"

    def _checks(self) -> dict[str, bool]:
        widths = (*self.channels, *self.unet_channels)
        return super()._checks() | {
            f"cut is {self.cut}: expected 0 to 1": 0 <= self.cut <= 1,
            f"unet_attention has {len(self.unet_attention)} entries: expected one for each of the"
            f" {len(self.unet_channels)} unet_channels": (
                len(self.unet_attention) == len(self.unet_channels)
            ),
            f"groups is {self.groups}: expected a divisor of all channels": (
                self.groups >= 1 and not any(width % self.groups for width in widths)
            ),
            f"heads is {self.heads}: expected a divisor of unet_channels and image_width": (
                self.heads >= 1
                and not any(w % self.heads for w in (*self.unet_channels, self.image_width))
            ),
            f"patch_size is {self.patch_size}: expected a divisor of image_size": (
                self.patch_size >= 1 and self.image_size % self.patch_size == 0
            ),
        }


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlaces(Places):
    """Where the autoencoder's things are.

    Attributes:
        anchor: an ANCHOR whose autoencoder learns further; default: a fresh one.
        preset: the settings that the others change.
    """

    anchor: Annotated[Path | None, arg(metavar="ANCHOR")] = None
    preset: Literal["small", "debug"] = "small"


@dataclass(frozen=True, kw_only=True)
class AutoencoderJob(AutoencoderConfig, AutoencoderPlaces):
    """A run of the autoencoder: its settings, and where things are."""


_RATES = OptimizerConfig(
    learning_rate=2e-3, schedule="cosine", warmup=50, clip="global", weight_decay=1e-4
)
_SMALL = AutoencoderConfig(
    steps=8000,
    batch_size=2,
    optimizer=_RATES,
    log_every=20,
    save_every=500,
    validate_every=500,
)
PRESETS: dict[str, AutoencoderConfig] = {
    "small": _SMALL,
    "debug": replace(
        _SMALL,
        steps=4,
        batch_size=2,
        optimizer=replace(_RATES, warmup=0),
        log_every=1,
        save_every=2,
        validate_every=2,
        validation_frames=2,
        channels=(8, 16),
        unet_channels=(8, 16),
        unet_attention=(False, True),
        heads=2,
        image_size=32,
        image_width=16,
        image_layers=1,
    ),
}


def make_configs(job: AutoencoderConfig) -> dict[str, NetworkConfig]:
    """Of every network of the anchor."""
    vae = VAEConfig(
        channels=job.channels,
        latent_channels=job.latent_channels,
        layers_per_block=job.layers,
        norm_groups=job.groups,
        scaling_factor=1.0,
    )
    unet = UNetConfig(
        in_channels=job.latent_channels,
        out_channels=job.latent_channels,
        channels=job.unet_channels,
        layers_per_block=job.unet_layers,
        cross_attention=job.unet_attention,
        num_heads=job.heads,
        context_dim=job.image_width,
        norm_groups=job.groups,
    )
    embedding = (16, 32, 64, 96)[: len(job.channels)]
    control = replace(fresh_control_config(unet), pose_embedding_channels=embedding)
    image_encoder = CLIPVisionConfig(
        image_size=job.image_size,
        patch_size=job.patch_size,
        width=job.image_width,
        mlp_width=4 * job.image_width,
        num_layers=job.image_layers,
        num_heads=job.heads,
    )
    text_encoder = CLIPTextConfig(
        vocab_size=2,
        max_length=image_encoder.num_tokens,
        width=job.image_width,
        mlp_width=4 * job.image_width,
        num_layers=1,
        num_heads=job.heads,
    )
    return {
        "body/unet": unet,
        "body/control": control,
        "face/unet": replace(unet, in_channels=2 * job.latent_channels + 1),
        "face/control": control,
        "vae": vae,
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
    }


def make_anchor(
    job: AutoencoderJob, vae: Params, scaling_factor: float, provenance: dict[str, Any]
) -> Anchor:
    """The trained autoencoder, and fresh networks around it."""
    configs = make_configs(job)
    config = configs["vae"]
    assert isinstance(config, VAEConfig)
    configs["vae"] = replace(config, scaling_factor=scaling_factor)
    params: dict[str, Params] = {"vae": vae}
    for i, name in enumerate(("body/unet", "face/unet", "image_encoder", "text_encoder")):
        params[name] = init_params(configs[name], jax.random.key(job.seed + i + 1))
    for part in ("body", "face"):
        control, unet = configs[f"{part}/control"], dict(params[f"{part}/unet"])
        if part == "face":  # the control branch reads the latents alone
            kernel = unet["conv_in"]["kernel"][:, :, : job.latent_channels]
            unet["conv_in"] = {**unet["conv_in"], "kernel": kernel}
        params[f"{part}/control"] = fresh_control(control, unet, job.seed, zero_embedding=False)
    text = configs["text_encoder"]
    assert isinstance(text, CLIPTextConfig)
    tokens = jnp.ones((1, text.max_length), jnp.int32).at[0, 0].set(0)  # begin, end, end, ...
    empty_text = np.asarray(apply(text, params["text_encoder"], tokens)[0], np.float32)
    schedule = ScheduleConfig(prediction_type=job.prediction_type)
    return Anchor(configs, schedule, empty_text, params, provenance)
