"""Make the initial control branch of an untrained part."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint.parameters import abstract_params, flatten, unflatten
from anchor_jax.compiling import run_once
from anchor_jax.models import ControlConfig, UNetConfig
from anchor_jax.models.configs import EncoderConfig
from anchor_jax.models.control import PoseEmbedding
from anchor_jax.shapes import Params


def fresh_control_config(unet: UNetConfig) -> ControlConfig:
    """Make the config of a control branch for a UNet, with the published pose embedding."""
    shared = {item.name: getattr(unet, item.name) for item in fields(EncoderConfig)}
    return ControlConfig(**shared)


def fresh_control(
    config: ControlConfig, unet: Params, seed: int, zero_embedding: bool = True
) -> Params:
    """Make the parameters of a control branch that does not change the UNet's output yet.

    It has a copy of the UNet's encoder, a new pose embedding and zero convolutions (ControlNet,
    https://arxiv.org/abs/2302.05543).

    Args:
        config: config of the control branch.
        unet: parameters of the UNet; the type of its first layer is that of the result.
        seed: seed of the pose embedding.
        zero_embedding: start the last convolution of the pose embedding at zero, as published.
            Small models learn faster from random values.
    """
    dtype = unet["conv_in"]["kernel"].dtype
    pixels = jnp.zeros((1, *2 * [2 ** len(config.pose_embedding_channels)], config.pose_channels))
    embedding = PoseEmbedding(config.pose_embedding_channels, config.channels[0])
    fresh = flatten(run_once(embedding.init, jax.random.key(seed), pixels)["params"])
    copied = flatten(unet)
    leaves = {}
    for path, leaf in flatten(abstract_params(config)).items():
        if path[0] == "controlnet_cond_embedding":
            if path[1] == "conv_out" and path[2] == "kernel" and not zero_embedding:
                initializer = jax.nn.initializers.lecun_normal()
                fresh[path[1:]] = initializer(jax.random.key(seed + 1), leaf.shape)
            leaves[path] = np.asarray(fresh[path[1:]]).astype(dtype)
        elif path[0].startswith("controlnet_"):
            leaves[path] = np.zeros(leaf.shape, dtype)
        else:
            leaves[path] = copied[path]
    return unflatten(leaves)
