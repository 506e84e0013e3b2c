"""State, steps, logs and checkpoints: what the stages and the autoencoder have in common."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from anchor_jax.compiling import compile_ahead, options
from anchor_jax.data.loader import Batches
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.memory import peak_memory_mb
from anchor_jax.progress import open_bar
from anchor_jax.shapes import Params
from anchor_jax.training.checkpoints import Checkpoints
from anchor_jax.training.optimizer import learning_rate
from anchor_jax.training.report import write_report
from anchor_jax.training.run import Run, stoppable
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

# Shows what the parameters can do by now: scalars, a picture uint8 (h, w, 3), and the score: more
# is better.
Validate = Callable[[Params], tuple[dict[str, float], np.ndarray, float]]


def fit(
    name: str,
    job: LoopConfig,
    run: Run,
    mesh: Mesh,
    *,
    shapes: Params,
    initial: Callable[[], Params],
    optimizer: optax.GradientTransformation,
    loss: Loss,
    batches: Batches,
    inputs_of: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    validate: Validate | None,
    scalars_of: Callable[[Mapping[str, Any]], dict[str, float]] = lambda step: {},
) -> Params:
    """Train from the run's last checkpoint, or from `initial`, to the last step.

    Args:
        name: shown with the progress.
        job: settings.
        run: its folder.
        mesh: devices.
        shapes: of the trained networks' parameters, {name: tree}.
        initial: makes or loads these parameters, where there is no checkpoint to go on from; nobody
            else keeps them, so that they are in memory once.
        optimizer: of their gradients.
        loss: see `make_step`.
        batches: the data; its state is part of the checkpoints.
        inputs_of: a batch as the loss takes it.
        validate: called from time to time and at the end, or None.
        scalars_of: further scalars to log, of what a step returned.

    Returns:
        The trained parameters or, where there is one, their moving average; whole, on the first
        device of each process.

    Raises:
        AnchorError: a loss that is not finite, or a disk that is full; checkpoints stay.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    begin = lambda params: init_state(params, optimizer, job.seed, job.ema > 0)
    start = jax.eval_shape(begin, shapes)
    places = state_sharding(mesh, start, job.fsdp)

    def loss_and_frames(params, key, batch):
        mean, examples = loss(params, key, batch)
        return mean, examples | {"frames": batch["frames"]}

    jitted = jax.jit(
        make_step(loss_and_frames, optimizer, accumulate=job.accumulate, ema=job.ema),
        in_shardings=(places, None),
        out_shardings=(places, replicated(mesh)),
        donate_argnums=0,
        compiler_options=options(),
    )
    rate = learning_rate(job.optimizer, job.steps)
    checkpoints = Checkpoints(run.folder / "checkpoints", job.keep_last, job.keep_best)
    if (latest := checkpoints.latest()) is not None:
        wanted = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), start, places
        )
        state, data = checkpoints.restore(latest, wanted)
        batches.set_state(data)
    else:
        state = jax.jit(begin, out_shardings=places)(put_whole(places.params, initial()))
    number = int(state.step)
    saved = number if latest is not None else -1
    run.begin(number)
    step = None
    with (
        stoppable() as stop,
        open_bar(name, job.steps, "step", show=run.is_main, done=number, smoothing=0.05) as bar,
    ):
        try:
            began, since = time.perf_counter(), number
            while number < job.steps and not any_process(bool(stop)):
                batch = next(batches)
                frames = np.stack([batch["index"], batch["reference_index"]], 1).astype(np.int32)
                inputs = put_batch(mesh, {**inputs_of(batch), "frames": frames})
                step = step or compile_ahead(jitted, state, inputs)
                state, found = step(state, inputs)
                number, score = number + 1, None
                _check_finite(number, found)
                bar(1)
                if _due(number, job.log_every, job.steps):
                    speed = (number - since) / (time.perf_counter() - began)
                    values = {k: float(v) for k, v in found.items() if not v.ndim}
                    values |= scalars_of(found) | {
                        "learning_rate": float(np.asarray(rate(number - 1))),
                        "frames_per_second": job.batch_size * speed,
                        "memory_mb": peak_memory_mb(),
                    }
                    run.log(number, values, np.asarray(found["frames"]).tolist())
                    bar.note(loss=f"{values['loss']:.4f}")
                    began, since = time.perf_counter(), number
                if validate is not None and _due(number, job.validate_every, job.steps):
                    scalars, picture, score = validate(gather(mesh, _trained(state)))
                    run.log(number, scalars)
                    run.log_grid(number, picture)
                    began, since = time.perf_counter(), number
                if _due(number, job.save_every, job.steps):
                    checkpoints.save(number, state, batches.get_state(), score)
                    saved = number
            if saved < number < job.steps:
                checkpoints.save(number, state, batches.get_state(), None)
            checkpoints.wait()
        finally:
            checkpoints.close()
    if run.is_main:
        write_report(run.folder / "report.html", settings(job), run.metrics())
    if number < job.steps:
        raise KeyboardInterrupt(f"step {number} of {job.steps} is saved; the same command goes on")
    return gather(mesh, _trained(state))


def open_devices(job: LoopConfig) -> Mesh:
    """All devices, which have to divide the batch.

    Raises:
        AnchorError: they do not.
    """
    mesh = make_mesh()
    if job.batch_size % (mesh.size * job.accumulate):
        raise AnchorError(
            f"batch_size is {job.batch_size}: expected a multiple of {mesh.size} devices times"
            f" {job.accumulate} parts (accumulate)"
        )
    return mesh


def _due(number: int, every: int, last: int) -> bool:
    """Every so many steps (0: never) and at the last one."""
    return number == last or (every > 0 and number % every == 0)


def _trained(state: Any) -> Params:
    """The moving average of the parameters if it is kept, else the parameters."""
    return state.params if state.average is None else state.average


def _check_finite(number: int, found: Mapping[str, jax.Array]) -> None:
    """Raise AnchorError, naming step and examples, where a loss or a gradient is not finite."""
    norms = [value for name, value in found.items() if name.startswith("gradient_norm/")]
    if all(math.isfinite(value) for value in (found["loss"], *norms)):
        return
    frames = np.asarray(found["frames"])[~np.isfinite(np.asarray(found["losses"]))]
    pairs = [f"{frame} with reference {reference}" for frame, reference in frames.tolist()]
    if pairs:
        what = f"the loss is not finite for frame {shorten(pairs, 8)} of the data set"
    else:
        what = "the loss of every frame is finite, but not the gradient"
    raise AnchorError(
        f"step {number}: {what}; the last checkpoint is kept: check the frames and what is cached"
        " of them, or lower the learning rate"
    )
