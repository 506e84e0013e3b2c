"""What is measured: the networks of Stable Diffusion 1.5's size, or tiny ones for a test; random
parameters, and operations of a computation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, Network, Settings, assemble
from anchor_jax.checkpoint.parameters import abstract_params, flatten, unflatten
from anchor_jax.diffusion import Sampling, ScheduleConfig
from anchor_jax.face.landmarks import Track
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.face import Face
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    blocks,
)
from anchor_jax.planning.flops import count_flops
from anchor_jax.shapes import Array, Images, Params

_NUMBERS = 1_000_003  # a prime, so that rows of a kernel differ


@dataclass(frozen=True)
class Scale:
    """Sizes of networks and inputs.

    Attributes:
        unet, control, vae, image_encoder: configs of the networks.
        pixels: side of the frames.
        frames: frames of the video.
        sampling: steps, windows, and the type of the computation.
        face: settings of the face stage.
        batch: examples of a training step.
        few: two numbers of steps, from which the time of all steps is calculated if the run has
            no time for all.
    """

    unet: UNetConfig
    control: ControlConfig
    vae: VAEConfig
    image_encoder: CLIPVisionConfig
    pixels: int
    frames: int
    sampling: Sampling
    face: FaceSampling
    batch: int
    few: tuple[int, int]

    @property
    def side(self) -> int:
        """Side of the latents."""
        return self.pixels // self.vae.factor


def full() -> Scale:
    """Return the published system's sizes, at 512x512."""
    return Scale(
        UNetConfig(),
        ControlConfig(),
        VAEConfig(),
        CLIPVisionConfig(),
        pixels=512,
        frames=119,
        sampling=Sampling(dtype="bfloat16"),
        face=FaceSampling(size=512),
        batch=4,
        few=(1, 3),
    )


def toy() -> Scale:
    """Return sizes that a CPU computes in seconds."""
    body: dict[str, Any] = {
        "channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention": (True, False),
        "num_heads": 2,
        "context_dim": 16,
        "norm_groups": 4,
    }
    return Scale(
        UNetConfig(**body),
        ControlConfig(**body, pose_embedding_channels=(4, 8)),
        VAEConfig(channels=(4, 8), layers_per_block=1, norm_groups=4),
        CLIPVisionConfig(width=16, mlp_width=16, num_layers=1, num_heads=2),
        pixels=16,
        frames=7,
        sampling=Sampling(steps=3, window=4, overlap=1, dtype="bfloat16"),
        face=FaceSampling(size=8),
        batch=2,
        few=(1, 2),
    )


def random_anchor(scale: Scale) -> Anchor:
    """Make an anchor with a face and random parameters on the device, in the types that they are
    used in."""
    inpainting = replace(scale.unet, in_channels=2 * scale.unet.in_channels + 1)
    configs: dict[str, NetworkConfig] = {
        "body/unet": scale.unet,
        "body/control": scale.control,
        "face/unet": inpainting,
        "face/control": scale.control,
        "vae": scale.vae,
        "image_encoder": scale.image_encoder,
    }
    networks = {
        name: Network(
            config,
            random_params(
                config, i, "float32" if name == "image_encoder" else scale.sampling.dtype
            ),
        )
        for i, (name, config) in enumerate(configs.items())
    }
    tokens = scale.image_encoder.num_tokens, scale.unet.context_dim
    return assemble(
        networks | {"text_encoder": Network(CLIPTextConfig())},
        {"body": True, "face": True},
        schedule=ScheduleConfig(),
        empty_text=np.random.default_rng(0).standard_normal(tokens, np.float32),
        settings=Settings(scale.sampling, scale.face),
    )


def random_params(config: NetworkConfig, seed: int, dtype: str) -> Params:
    """Draw parameters on the first device. Kernels have a standard deviation of 1/sqrt(fan-in) and
    the type `dtype`; scales are 1 and biases 0, float32.

    Each kernel repeats the same million numbers, so that a billion of them take two seconds and no
    compilation.
    """
    numbers = np.random.default_rng(seed).standard_normal(_NUMBERS, np.float32)
    device = jax.local_devices()[0]

    def leaf(path: tuple[str, ...], shape: tuple[int, ...]) -> Array:
        if len(shape) < 2:
            value = np.full(shape, path[-1] == "scale", np.float32)
        else:
            deviation = 1 / math.sqrt(math.prod(shape[:-1]))
            value = np.resize((numbers * deviation).astype(jnp.dtype(dtype)), shape)
        return jax.device_put(value, device)

    leaves = flatten(abstract_params(config))
    return unflatten({path: leaf(path, x.shape) for path, x in leaves.items()})


def random_images(count: int, side: int, seed: int = 0) -> Images:
    """Draw images, uint8 (count, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def faces(scale: Scale) -> Face:
    """Put a face of half the frame's size into the middle of each frame."""
    # Eyes, nose and corners of the mouth in a face of side 1, as in the published crop.
    points = np.array([[0.38, 0.47], [0.62, 0.47], [0.5, 0.61], [0.39, 0.72], [0.61, 0.72]])
    landmarks = scale.pixels * (0.25 + 0.5 * points)
    every = np.broadcast_to(landmarks, (scale.frames, 5, 2)).copy()
    return Face(Track(every, np.ones(scale.frames, bool), {}, {}))


def operations(function: Callable, *args: Any) -> int:
    """Count the operations of matrix products and convolutions of a function, which is traced only.

    Attention counts as its two products, whatever kernel computes it: a plain softmax takes the
    kernel's place. What a backward pass computes again is not counted.
    """

    def plain(query: Array, key: Array, value: Array, *_: Any) -> Array:
        weights = jax.nn.softmax(jnp.einsum("bsmd,btmd->bmst", query, key))
        return jnp.einsum("bmst,btmd->bsmd", weights, value)

    with mock.patch.object(blocks, "attention", plain):
        return count_flops(function, *args)
