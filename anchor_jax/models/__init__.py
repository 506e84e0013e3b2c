"""The five networks of the paper: their configs, modules and parameters."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from anchor_jax.compiling import run_once
from anchor_jax.models.clip import CLIPText, CLIPVision
from anchor_jax.models.configs import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.models.control import Control
from anchor_jax.models.denoiser import Denoiser
from anchor_jax.models.frames import PER_FRAME, PUBLISHED, Inflation
from anchor_jax.models.remat import Remat
from anchor_jax.models.unet import UNet
from anchor_jax.models.vae import VAE
from anchor_jax.shapes import Params

__all__ = [
    "PER_FRAME",
    "PUBLISHED",
    "VAE",
    "CLIPText",
    "CLIPTextConfig",
    "CLIPVision",
    "CLIPVisionConfig",
    "Control",
    "ControlConfig",
    "Denoiser",
    "Inflation",
    "NetworkConfig",
    "Remat",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "abstract_params",
    "apply",
    "build",
    "init_params",
]


def build(
    config: NetworkConfig, dtype: DTypeLike = jnp.float32, remat: Remat = "none"
) -> nn.Module:
    """Build the module of a config.

    Args:
        config: config of one of the five networks.
        dtype: type of the computation. Parameters keep theirs.
        remat: what the backward pass computes again instead of keeping it, see `models.remat`
            (UNet and control branch only).

    Raises:
        TypeError: if `config` is not the config of a network.
    """
    match config:
        case UNetConfig():
            return UNet(config, dtype, remat)
        case ControlConfig():
            return Control(config, dtype, remat)
        case VAEConfig():
            return VAE(config, dtype)
        case CLIPVisionConfig():
            return CLIPVision(config, dtype)
        case CLIPTextConfig():
            return CLIPText(config, dtype)
    raise TypeError(f"no network has a config of type {type(config).__name__}")


def apply(
    config: NetworkConfig, params: Params, *args, dtype: DTypeLike = jnp.float32, **kwargs
) -> Any:
    """Call the network of a config: `build(config, dtype).apply({"params": params}, ...)`."""
    return build(config, dtype).apply({"params": params}, *args, **kwargs)


def init_params(config: NetworkConfig, key: jax.Array) -> Params:
    """Initialise float32 parameters: a nested dict, module names as in the torch checkpoints."""
    return run_once(partial(_init, config), key)


def abstract_params(config: NetworkConfig) -> Params:
    """Return the tree of `init_params` with `jax.ShapeDtypeStruct` leaves. Computes nothing."""
    return jax.eval_shape(partial(_init, config, {}))


def _init(config: NetworkConfig, keys: Any) -> Params:
    return dict(build(config).init(keys, *_smallest_input(config))["params"])


def _smallest_input(config: NetworkConfig) -> tuple[jax.Array, ...]:
    match config:
        case UNetConfig() | ControlConfig():
            size = 2 ** (len(config.channels) - 1)
            latents = jnp.zeros((1, 1, size, size, config.in_channels))
            inputs = (latents, jnp.zeros(1), jnp.zeros((1, 1, config.context_dim)))
            if isinstance(config, UNetConfig):
                return inputs
            pixels = size * 2 ** (len(config.pose_embedding_channels) - 1)
            return (*inputs, jnp.zeros((1, 1, pixels, pixels, config.pose_channels)), jnp.ones(()))
        case VAEConfig():
            return (jnp.zeros((1, config.factor, config.factor, config.image_channels)),)
        case CLIPVisionConfig():
            return (jnp.zeros((1, config.image_size, config.image_size, 3)),)
        case CLIPTextConfig():
            return (jnp.zeros((1, config.max_length), jnp.int32),)
