"""A control branch that nobody has trained yet."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint.parameters import abstract_params, flatten, unflatten
from anchor_jax.models import ControlConfig, UNetConfig
from anchor_jax.models.configs import EncoderConfig
from anchor_jax.models.control import PoseEmbedding
from anchor_jax.shapes import Params


def fresh_control_config(unet: UNetConfig) -> ControlConfig:
    """Of a control branch that fits the UNet, with the published pose embedding."""
    shared = {item.name: getattr(unet, item.name) for item in fields(EncoderConfig)}
    return ControlConfig(**shared)


def fresh_control(
    config: ControlConfig, unet: Params, seed: int, zero_embedding: bool = True
) -> Params:
    """A control branch that changes nothing yet: the UNet's encoder, a new pose embedding and zero
    convolutions, in the type of the UNet's first layer. The embedding's last convolution is zero,
    as published; small models learn sooner with another (`zero_embedding`)."""
    dtype = unet["conv_in"]["kernel"].dtype
    pixels = jnp.zeros((1, *2 * [2 ** len(config.pose_embedding_channels)], config.pose_channels))
    embedding = PoseEmbedding(config.pose_embedding_channels, config.channels[0])
    fresh = flatten(embedding.init(jax.random.key(seed), pixels)["params"])
    copied = flatten(unet)
    leaves = {}
    for path, leaf in flatten(abstract_params(config)).items():
        if path[0] == "controlnet_cond_embedding":
            if path[1] == "conv_out" and path[2] == "kernel" and not zero_embedding:
                draw = jax.nn.initializers.lecun_normal()
                fresh[path[1:]] = draw(jax.random.key(seed + 1), leaf.shape)
            leaves[path] = np.asarray(fresh[path[1:]]).astype(dtype)
        elif path[0].startswith("controlnet_"):
            leaves[path] = np.zeros(leaf.shape, dtype)
        else:
            leaves[path] = copied[path]
    return unflatten(leaves)
