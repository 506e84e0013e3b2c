"""Run the training loop of all programs: state, steps, logs, validation and checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from anchor_jax.compiling import compile_ahead, options
from anchor_jax.data.loader import Batches
from anchor_jax.errors import AnchorError, note, shorten
from anchor_jax.memory import peak_memory_mb
from anchor_jax.progress import open_bar
from anchor_jax.shapes import Params
from anchor_jax.training.checkpoints import Checkpoints
from anchor_jax.training.optimizer import learning_rate
from anchor_jax.training.report import write_report
from anchor_jax.training.run import Run, Stop, stoppable
from anchor_jax.training.sharding import (
    any_process,
    gather,
    make_mesh,
    put_batch,
    put_whole,
    replicated,
    state_sharding,
)
from anchor_jax.training.step import Loss, init_state, make_step

from .configs import LoopConfig, settings

# From the parameters to scalars, a picture uint8 (h, w, 3), and a score (higher is better).
Validate = Callable[[Params], tuple[dict[str, float], np.ndarray, float]]


@dataclass(frozen=True)
class Task:
    """What a program trains, and how.

    Attributes:
        name: label of the progress bar.
        shapes: shapes of the trained parameters, {name: tree}.
        initial: makes or loads these parameters if there is no checkpoint. Nothing else may keep
            them, so that they are in memory once.
        optimizer: computes updates from gradients.
        loss: see `make_step`.
        inputs_of: converts a batch to the inputs of the loss.
        validate: called at intervals and at the end, or None.
        scalars_of: computes further scalars to log from the metrics of a step.
    """

    name: str
    shapes: Params
    initial: Callable[[], Params]
    optimizer: optax.GradientTransformation
    loss: Loss
    inputs_of: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]
    validate: Validate | None
    scalars_of: Callable[[Mapping[str, Any]], dict[str, float]] = lambda metrics: {}


def fit(task: Task, job: LoopConfig, run: Run, mesh: Mesh, batches: Batches) -> Params:
    """Train to the last step, from the last checkpoint of the run or from the initial parameters.

    Args:
        task: what to train.
        job: settings.
        run: folder and logs of the run.
        mesh: the devices.
        batches: the data; the checkpoints contain its position.

    Returns:
        The moving average of the parameters if it is kept, else the parameters; whole, on the first
        device of each process.

    Raises:
        AnchorError: a loss is not finite, or the disk is full; checkpoints stay.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    begin = lambda params: init_state(params, task.optimizer, job.seed, job.ema > 0)
    start = jax.eval_shape(begin, task.shapes)
    places = state_sharding(mesh, start, job.fsdp)
    jitted = _jit_step(task, job, mesh, places)
    checkpoints = Checkpoints(run.folder / "checkpoints", job.keep_last, job.keep_best)
    latest = checkpoints.latest()
    if latest is not None:
        wanted = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), start, places
        )
        state, position = checkpoints.restore(latest, wanted)
        batches.set_state(position)
    else:
        state = jax.jit(begin, out_shardings=places)(put_whole(places.params, task.initial()))
    run.begin(int(state.step))
    with stoppable() as stop:
        try:
            state = _run_steps(task, job, run, mesh, batches, jitted, checkpoints, state, stop)
        finally:
            checkpoints.close()
    if run.is_main:
        write_report(run.folder / "report.html", settings(job), run.metrics())
    if (number := int(state.step)) < job.steps:
        raise KeyboardInterrupt(
            f"step {number} of {job.steps} is saved; repeat the command to continue"
        )
    return gather(mesh, _trained(state))


def _jit_step(task: Task, job: LoopConfig, mesh: Mesh, places: Any) -> Any:
    """Make the compiled training step, whose metrics also contain the frames of the batch."""

    def loss_and_frames(params, key, batch):
        mean, examples = task.loss(params, key, batch)
        return mean, examples | {"frames": batch["frames"]}

    return jax.jit(
        make_step(loss_and_frames, task.optimizer, accumulate=job.accumulate, ema=job.ema),
        in_shardings=(places, None),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
        compiler_options=options(),
    )


def _run_steps(
    task: Task,
    job: LoopConfig,
    run: Run,
    mesh: Mesh,
    batches: Batches,
    jitted: Any,
    checkpoints: Checkpoints,
    state: Any,
    stop: Stop,
) -> Any:
    """Run steps until the last one or a signal to stop, with logs, grids and checkpoints.

    Returns:
        The last state, which is saved.
    """
    number = int(state.step)
    saved = -1 if checkpoints.latest() is None else number
    rate = learning_rate(job.optimizer, job.steps)
    step = None
    show = run.is_main
    with open_bar(task.name, job.steps, "step", show=show, done=number, smoothing=0.05) as bar:
        began, since = time.perf_counter(), number
        while number < job.steps and not any_process(bool(stop)):
            batch = next(batches)
            frames = np.stack([batch["index"], batch["reference_index"]], 1).astype(np.int32)
            inputs = put_batch(mesh, {**task.inputs_of(batch), "frames": frames})
            step = step or compile_ahead(jitted, state, inputs)
            state, metrics = step(state, inputs)
            number, score = number + 1, None
            _check_finite(number, metrics)
            bar(1)
            if _due(number, job.log_every, job.steps):
                speed = (number - since) / (time.perf_counter() - began)
                values = {k: float(v) for k, v in metrics.items() if not v.ndim}
                values |= task.scalars_of(metrics) | {
                    "learning_rate": float(np.asarray(rate(number - 1))),
                    "frames_per_second": job.batch_size * speed,
                    "memory_mb": peak_memory_mb(),
                }
                run.log(number, values, np.asarray(metrics["frames"]).tolist())
                bar.note(loss=f"{values['loss']:.4f}")
                began, since = time.perf_counter(), number
            if task.validate is not None and _due(number, job.validate_every, job.steps):
                scalars, picture, score = task.validate(gather(mesh, _trained(state)))
                run.log(number, scalars)
                run.log_grid(number, picture)
                began, since = time.perf_counter(), number
            if _due(number, job.save_every, job.steps):
                checkpoints.save(number, state, batches.get_state(), score)
                saved = number
        if saved < number < job.steps:
            checkpoints.save(number, state, batches.get_state(), None)
        checkpoints.wait()
    return state


def is_complete(folder: Path) -> bool:
    """Return whether a run has its result already, and then print a note."""
    result = folder / "anchor"
    if result.exists():
        note(f"{folder} is complete: its result is {result}")
    return result.exists()


def open_devices(job: LoopConfig) -> Mesh:
    """Make the mesh of all devices.

    Raises:
        AnchorError: the batch size is not a multiple of devices times `accumulate`.
    """
    mesh = make_mesh()
    if job.batch_size % (mesh.size * job.accumulate):
        raise AnchorError(
            f"batch_size is {job.batch_size}: expected a multiple of {mesh.size} devices times"
            f" {job.accumulate} parts (accumulate)"
        )
    return mesh


def _due(number: int, every: int, last: int) -> bool:
    """Return whether step `number` is a multiple of `every` (0: never) or the last step."""
    return number == last or (every > 0 and number % every == 0)


def _trained(state: Any) -> Params:
    """Return the moving average of the parameters if it is kept, else the parameters."""
    return state.params if state.average is None else state.average


def _check_finite(number: int, metrics: Mapping[str, jax.Array]) -> None:
    """Raise AnchorError, which names the step and the examples, if a loss or a gradient is not
    finite."""
    norms = [value for name, value in metrics.items() if name.startswith("gradient_norm/")]
    if all(math.isfinite(value) for value in (metrics["loss"], *norms)):
        return
    frames = np.asarray(metrics["frames"])[~np.isfinite(np.asarray(metrics["losses"]))]
    pairs = [f"{frame} with reference {reference}" for frame, reference in frames.tolist()]
    if pairs:
        cause = f"the loss is not finite for frame {shorten(pairs, 8)} of the data set"
    else:
        cause = "the loss of every frame is finite, but not the gradient"
    raise AnchorError(
        f"step {number}: {cause}; the last checkpoint is kept: check the frames and their cached"
        " encodings, or lower the learning rate"
    )
