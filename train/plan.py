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

from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import resolve_dtype
from anchor_jax.devices import make_mesh
from anchor_jax.planning.generation import parameter_bytes, published_sizes
from anchor_jax.training.step import State

from . import face, finetune, pretrain
from .configs import Config
from .program import input_shapes, make_program
from .stage import Stage, example_shapes, make_model, make_objective

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
    shapes = example_shapes(STAGES[stage], anchor, size)
    return program.step, (program.state, input_shapes(shapes, job, mesh))


def bytes_beside(anchor: Anchor) -> int:
    """Return the bytes of the frozen networks, which training keeps on the device."""
    return sum(parameter_bytes(x.config) for x in (anchor.vae, anchor.image_encoder))
