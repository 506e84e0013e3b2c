"""Make a small anchor: configs of all networks, and random parameters beside the autoencoder."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np
from tyro.conf import arg

from anchor_jax.checkpoint import SMALL_SETTINGS, Anchor, Network, Part
from anchor_jax.checkpoint.fresh_control import fresh_control, fresh_control_config
from anchor_jax.compiling import run_once
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    apply,
    init_params,
)
from anchor_jax.progress import Progress, silent
from anchor_jax.shapes import Params
from anchor_jax.training.optimizer import OptimizerConfig

from .configs import LoopConfig, Places

Config = TypeVar("Config", bound=NetworkConfig)


@dataclass(frozen=True)
class AutoencoderConfig(LoopConfig):
    """Settings of the autoencoder and sizes of all networks of the anchor.

    Attributes:
        kl_weight: weight of the posterior's KL divergence from a standard normal distribution, per
            pixel of the image, relative to the mean squared error.
        cut: probability that the background of a frame is removed, if the data set has mattes.
        channels: channels of the autoencoder's levels, finest first; its factor is 2^(levels - 1).
        latent_channels: channels of the latents.
        layers: residual blocks in each level of the autoencoder.
        unet_channels: channels of the UNet's levels, finest first.
        unet_attention: for each level of the UNet, whether it has transformers.
        unet_layers: residual blocks in each level of the UNet.
        heads: attention heads.
        groups: groups of each group normalisation.
        image_size: side of the appearance picture in the image encoder, pixels.
        patch_size: side of the square that becomes a token, pixels.
        image_width: width of the tokens.
        image_layers: layers of the image encoder.
        prediction_type: what the UNet predicts; small models learn velocity faster than noise.
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

    def _conditions(self) -> list[tuple[bool, str]]:
        """Return what must hold, each with the message for when it does not."""
        widths = (*self.channels, *self.unet_channels)
        levels, heads, patch = len(self.unet_channels), self.heads, self.patch_size
        return [
            *super()._conditions(),
            (0 <= self.cut <= 1, f"cut is {self.cut}: expected 0 to 1"),
            (
                len(self.unet_attention) == levels,
                f"unet_attention has {len(self.unet_attention)} entries: expected one for each of"
                f" the {levels} unet_channels",
            ),
            (
                self.groups >= 1 and not any(width % self.groups for width in widths),
                f"groups is {self.groups}: expected a divisor of all channels",
            ),
            (
                heads >= 1 and not any(w % heads for w in (*self.unet_channels, self.image_width)),
                f"heads is {heads}: expected a divisor of unet_channels and image_width",
            ),
            (
                patch >= 1 and self.image_size % patch == 0,
                f"patch_size is {patch}: expected a divisor of image_size",
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlaces(Places):
    """The files and folders of a run of the autoencoder, and its preset.

    Attributes:
        anchor: an ANCHOR whose autoencoder is trained further.
        preset: named settings, which the other options change.
    """

    anchor: Annotated[
        Path | None, arg(metavar="ANCHOR", help_behavior_hint="(default: a new autoencoder)")
    ] = None
    preset: Literal["small", "debug"] = "small"


@dataclass(frozen=True, kw_only=True)
class AutoencoderJob(AutoencoderConfig, AutoencoderPlaces):
    """A run of the autoencoder: its settings, files and folders."""


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


@dataclass(frozen=True)
class Configs:
    """The configs of a small anchor; the control branches of body and face have the same one."""

    unet: UNetConfig
    face_unet: UNetConfig
    control: ControlConfig
    vae: VAEConfig
    image_encoder: CLIPVisionConfig
    text_encoder: CLIPTextConfig


def make_configs(job: AutoencoderConfig) -> Configs:
    """Make the configs of all networks from the settings of a run."""
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
    return Configs(
        unet=unet,
        face_unet=replace(unet, in_channels=2 * job.latent_channels + 1),
        control=replace(fresh_control_config(unet), pose_embedding_channels=embedding),
        vae=vae,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
    )


def make_anchor(
    job: AutoencoderJob,
    vae: Params,
    scaling_factor: float,
    provenance: dict[str, Any],
    progress: Progress = silent,
) -> Anchor:
    """Make an anchor from a trained autoencoder and untrained other networks.

    Args:
        job: the settings.
        vae: parameters of the autoencoder.
        scaling_factor: multiplies its latents, so that they have unit scale.
        provenance: the provenance of the anchor.
        progress: makes the progress bar.
    """
    configs = make_configs(job)

    def fresh(config: Config, number: int) -> Network[Config]:
        network = Network(config, init_params(config, jax.random.key(job.seed + number)))
        advance(1)
        return network

    def fresh_part(unet: Network[UNetConfig]) -> Part:
        # The control branch reads the latents only, and the face's UNet more channels.
        kernel = unet.params["conv_in"]["kernel"][:, :, : job.latent_channels]
        copied = {**unet.params, "conv_in": {**unet.params["conv_in"], "kernel": kernel}}
        control = fresh_control(configs.control, copied, job.seed, zero_embedding=False)
        return Part(unet, Network(configs.control, control), trained=False)

    with progress("making networks", 4, "network") as advance:
        text_encoder = fresh(configs.text_encoder, 4)
        image_encoder = fresh(configs.image_encoder, 3)
        body = fresh_part(fresh(configs.unet, 1))
        face = fresh_part(fresh(configs.face_unet, 2))
    tokens = np.ones((1, configs.text_encoder.max_length), np.int32)
    tokens[0, 0] = 0  # begin, end, end, ...
    encode = partial(apply, configs.text_encoder)
    empty_text = run_once(encode, text_encoder.params, tokens)[0]
    return Anchor(
        body=body,
        face=face,
        vae=Network(replace(configs.vae, scaling_factor=scaling_factor), vae),
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        schedule=ScheduleConfig(prediction_type=job.prediction_type),
        empty_text=np.asarray(empty_text, np.float32),
        settings=SMALL_SETTINGS,
        provenance=provenance,
    )
