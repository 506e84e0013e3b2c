"""Make the program of a training step, for devices that may be absent: only shapes are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from anchor_jax.compiling import Compilation, matmul_precision, options
from anchor_jax.devices import batch_sharding, replicated
from anchor_jax.shapes import Params
from anchor_jax.training.sharding import state_sharding
from anchor_jax.training.step import Loss, State, init_state, make_step

from .configs import LoopConfig


@dataclass(frozen=True)
class Objective:
    """What a step computes.

    Attributes:
        shapes: shapes of the trained parameters, {name: tree}.
        optimizer: computes updates from gradients.
        loss: see `make_step`.
        dtype: type that the loss is computed in.
    """

    shapes: Params
    optimizer: optax.GradientTransformation
    loss: Loss
    dtype: str = "float32"


@dataclass(frozen=True)
class Program:
    """A training step that is not compiled yet.

    Attributes:
        state: `jax.ShapeDtypeStruct` of the state, with shardings.
        begin: compiled at its first call: from the parameters, which are donated, to the first
            state.
        step: result of `jax.jit`: from the state, which is donated, and the inputs to the next
            state and metrics. The inputs are those of the loss, and "frames", int32 (b, 2): the
            frame and the reference of each example, which the metrics contain too.
    """

    state: State
    begin: Callable[[Params], State]
    step: Any

    @property
    def shardings(self) -> State:
        """The sharding of each leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.state)


@dataclass(frozen=True)
class Started:
    """A program whose step a thread compiles."""

    program: Program
    compilation: Compilation


def start_compiling(
    objective: Objective,
    job: LoopConfig,
    mesh: Mesh,
    shapes: Mapping[str, tuple[tuple[int, ...], Any]],
) -> Started:
    """Start to compile a training step, see `make_program` and `input_shapes`."""
    program = make_program(objective, job, mesh)
    inputs = input_shapes(shapes, job, mesh)
    return Started(program, Compilation(program.step, program.state, inputs))


def input_shapes(
    shapes: Mapping[str, tuple[tuple[int, ...], Any]], job: LoopConfig, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Make the inputs of a step, without values, from shape and type of an example of each."""
    place, own = batch_sharding(mesh), {"position": ((), jnp.int32), "frames": ((2,), jnp.int32)}
    return {
        name: jax.ShapeDtypeStruct((job.batch_size, *shape), dtype, sharding=place)
        for name, (shape, dtype) in {**shapes, **own}.items()
    }


def make_program(objective: Objective, job: LoopConfig, mesh: Mesh) -> Program:
    """Make the program of a training step.

    Args:
        objective: what a step computes.
        job: settings.
        mesh: the devices. They may be those of `jax.experimental.topologies`, for which the step
            can be lowered and compiled, but not run.
    """
    begin = lambda params: init_state(params, objective.optimizer, job.seed, job.ema > 0)
    start = jax.eval_shape(begin, objective.shapes)
    places = state_sharding(mesh, start, job.fsdp)
    on_host = job.ema > 0 and job.ema_memory == "host"
    if on_host:
        on_device = places.average
        average = jax.tree.map(lambda place: place.with_memory_kind("pinned_host"), on_device)
        places = replace(places, average=average)

    def loss_and_frames(params, key, batch):
        mean, examples = objective.loss(params, key, batch)
        return mean, examples | {"frames": batch["frames"]}

    step = make_step(
        loss_and_frames,
        objective.optimizer,
        accumulate=job.accumulate,
        ema=job.ema,
        average_on_host=on_host,
    )

    def precise_step(state, inputs):
        with matmul_precision(objective.dtype, job.tf32):  # also of gradients written by hand
            return step(state, inputs)

    on_cpus = mesh.devices.flat[0].platform == "cpu"
    return Program(
        jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), start, places
        ),
        jax.jit(begin, out_shardings=places, donate_argnums=0),
        jax.jit(
            precise_step,
            in_shardings=(places, None),
            out_shardings=(places, replicated(mesh)),
            donate_argnums=0,
            compiler_options=options(training=True) if on_cpus else None,
        ),
    )
