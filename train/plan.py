"""Make the program of a stage's training step from sizes alone.

    step, arguments = training_program(PRESETS["finetune"]["sd15"], devices=topology.devices)
    step.lower(*arguments).compile().memory_analysis()

It is the program that `loop.fit` compiles, so its memory is that of the run. Devices may be absent:
those of `jax.experimental.topologies.get_topology_desc`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import resolve_dtype
from anchor_jax.planning.generation import parameter_bytes, published_sizes
from anchor_jax.training.sharding import batch_sharding, make_mesh
from anchor_jax.training.step import State

from . import face, finetune, pretrain
from .configs import Config
from .program import make_program
from .stage import Stage, make_model, make_objective

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE for module in (pretrain, finetune, face)
}


def training_program(
    job: Config,
    anchor: Anchor | None = None,
    stage: str = "finetune",
    size: tuple[int, int] = (512, 512),
    devices: Sequence[Any] | None = None,
) -> tuple[Any, tuple[State, dict[str, jax.ShapeDtypeStruct]]]:
    """Make the training step and its arguments as shapes.

    Args:
        job: settings. With the type "auto" the step is computed in bfloat16 if the devices are
            GPUs.
        anchor: has the configs of the networks; its parameters are not used. Default: networks of
            the published sizes.
        stage: "pretrain", "finetune" or "face".
        size: width and height of the pictures, multiples of the autoencoder's factor.
        devices: they share the batch. Default: all of this machine.

    Returns:
        The result of `jax.jit`, whose first argument is donated, and its arguments: a state and
        the inputs of a step, with `jax.ShapeDtypeStruct` leaves that have shardings.
    """
    anchor = published_sizes() if anchor is None else anchor
    mesh = make_mesh(devices)
    job = replace(job, dtype=resolve_dtype(job.dtype, mesh.devices.flat[0]))
    model = make_model(STAGES[stage], job, anchor)
    program = make_program(make_objective(model, anchor.empty_text, job), job, mesh)
    place, shapes = batch_sharding(mesh), _input_shapes(STAGES[stage], anchor, size)
    return program.step, (
        program.state,
        {
            name: jax.ShapeDtypeStruct((job.batch_size, *shape), dtype, sharding=place)
            for name, (shape, dtype) in shapes.items()
        },
    )


def bytes_beside(anchor: Anchor) -> int:
    """Return the bytes of the frozen networks, which training keeps on the device."""
    return sum(parameter_bytes(x.config) for x in (anchor.vae, anchor.image_encoder))


def _input_shapes(
    stage: Stage, anchor: Anchor, size: tuple[int, int]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of one example of each input of a step."""
    width, height = size
    vae, images = anchor.vae.config, anchor.image_encoder.config
    small = height // vae.factor, width // vae.factor
    posterior = (*small, 2 * vae.latent_channels), jnp.float32
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "posterior": posterior,
        "tokens": ((images.num_tokens, images.width), jnp.float32),
        "pose": ((height, width, 3), jnp.uint8),
        "position": ((), jnp.int32),
        "frames": ((2,), jnp.int32),
    }
    if stage.pictures.mask is not None:
        shapes |= {"mask": ((*small, 1), jnp.float32), "masked_posterior": posterior}
    return shapes
