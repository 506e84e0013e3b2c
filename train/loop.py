"""Run the training loop of all programs: state, steps, logs, validation and checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import Compilation
from anchor_jax.data.loader import Batches
from anchor_jax.devices import make_mesh, put_batch
from anchor_jax.errors import AnchorError, note, shorten
from anchor_jax.memory import peak_memory_mb
from anchor_jax.progress import Bar, open_bar
from anchor_jax.shapes import Params
from anchor_jax.training.checkpoints import Checkpoints
from anchor_jax.training.optimizer import learning_rate
from anchor_jax.training.report import write_report
from anchor_jax.training.run import Run, Stop, stoppable
from anchor_jax.training.sharding import any_process, gather, put_whole
from anchor_jax.training.step import State

from .configs import LoopConfig, settings
from .program import Program, Started

# From the parameters to scalars, a picture uint8 (h, w, 3), and a score (higher is better).
Validate = Callable[[Params], tuple[dict[str, float], np.ndarray, float]]


_AGREE_EVERY = 5  # steps between the questions of several processes whether to stop or to save


@dataclass(frozen=True)
class Task:
    """What a program trains, and how.

    Attributes:
        name: label of the progress bar.
        started: the program, whose step is compiled meanwhile.
        initial: makes or loads the parameters if there is no checkpoint. Nothing else may keep
            them, so that they are in memory once.
        inputs_of: converts a batch to the inputs of the loss, on the host or on the first device.
        validate: called at intervals and at the end, or None.
        scalars_of: computes further scalars to log from the metrics of a step.
    """

    name: str
    started: Started
    initial: Callable[[], Params]
    inputs_of: Callable[[dict[str, np.ndarray]], Mapping[str, ArrayLike]]
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
    program = task.started.program
    checkpoints = Checkpoints(run.folder / "checkpoints", job.keep_last, job.keep_best)
    latest = checkpoints.latest()
    to_come = -(-(job.steps - (latest or 0)) // job.save_every)
    checkpoints.check_space(program.state, to_come)
    if latest is not None:
        state, position = checkpoints.restore(latest, program.state)
        batches.set_state(position)
    else:
        initial = put_whole(program.shardings.params, task.initial())
        state = Compilation(program.begin, initial).wait(show=run.is_main)(initial)
        del initial  # was donated
    run.begin(int(state.step))
    with stoppable() as stop:
        try:
            state = _run_steps(task, job, run, mesh, batches, checkpoints, state, stop)
        finally:
            checkpoints.close()
    if run.is_main:
        with open_bar("writing the report", 1, "page") as bar:
            write_report(run.folder / "report.html", settings(job), run.metrics())
            bar(1)
    if (number := int(state.step)) < job.steps:
        done = f"step {number} of {job.steps} is saved" if number else "no step was done"
        raise KeyboardInterrupt(f"{done}; repeat the command to continue")
    return gather(mesh, _trained(state, program))


def _run_steps(
    task: Task,
    job: LoopConfig,
    run: Run,
    mesh: Mesh,
    batches: Batches,
    checkpoints: Checkpoints,
    state: State,
    stop: Stop,
) -> State:
    """Run steps until the last one or a signal to stop, with logs, grids and checkpoints.

    A step is started before the one before it is looked at. So this process reads a batch, encodes
    it and sends it to the device while the device computes the step before.

    Returns:
        The last state. It is saved, unless the first step was not done.
    """
    number = begun = int(state.step)
    saver = _Saver(job, checkpoints, batches)
    step, show = None, run.is_main
    # Several processes compile to the end, since one that leaves lets the others wait for it.
    stop_compiling = stop.__bool__ if jax.process_count() == 1 else lambda: False
    with open_bar(task.name, job.steps, "step", show=show, done=number, smoothing=0.05) as bar:
        started = _StartedSteps(task, job, run, bar, number)
        while number < job.steps and not _agree(number, bool(stop)):
            batch = next(batches)
            frames = np.stack([batch["index"], batch["reference_index"]], 1).astype(np.int32)
            inputs = put_batch(mesh, {**task.inputs_of(batch), "frames": frames})
            if step is None:
                step = task.started.compilation.wait(stop_compiling, show)
                if step is None:
                    break
                saver.restart_clock()
            state, metrics = step(state, inputs)
            number, score = number + 1, None
            started.add(number, metrics)
            if task.validate is not None and _due(number, job.validate_every, job.steps):
                started.finish()
                bar.note(now="validating")
                scalars, picture, score = task.validate(
                    gather(mesh, _trained(state, task.started.program))
                )
                run.log(number, scalars)
                run.log_grid(number, picture)
                bar.note(psnr=f"{score:.1f} dB")
                started.restart_clock()
            if saver.due(number):
                started.finish()  # a state that is not finite is never saved
                saver.save(number, state, score)
        started.finish()
        if number > begun and saver.last != number:
            saver.save(number, state, None)
        bar.note(now="saving")
        checkpoints.wait()
        bar.note()
    return state


class _Saver:
    """Saves checkpoints at intervals of steps and of time.

    Args:
        job: the intervals.
        checkpoints: where they are saved.
        batches: the data, whose position a checkpoint contains.
        clock: returns seconds.
    """

    def __init__(
        self,
        job: LoopConfig,
        checkpoints: Checkpoints,
        batches: Batches,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._job, self._checkpoints, self._batches = job, checkpoints, batches
        self._clock = clock
        self.last = checkpoints.latest()  # the step that was saved last
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count the time from now on."""
        self._since = self._clock()

    def due(self, number: int) -> bool:
        """Return whether a checkpoint of step `number` is due, the same in all processes."""
        if _due(number, self._job.save_every, self._job.steps):
            return True
        seconds = 60 * self._job.save_minutes
        return seconds > 0 and _agree(number, self._clock() - self._since >= seconds)

    def save(self, number: int, state: State, score: float | None) -> None:
        """Start to write the checkpoint of step `number`, see `Checkpoints.save`."""
        self.restart_clock()
        self.last = number
        self._checkpoints.save(number, state, self._batches.get_state(), score)
        if self._job.ema_memory == "host":
            self._checkpoints.wait()  # Orbax may not copy it, and the next step donates it


class _StartedSteps:
    """Waits for steps, one step late; checks, shows and logs them.

    Args:
        task: what is trained.
        job: settings.
        run: gets the scalars.
        bar: advances.
        number: number of steps done.
    """

    def __init__(self, task: Task, job: LoopConfig, run: Run, bar: Bar, number: int):
        self._task, self._job, self._run, self._bar = task, job, run, bar
        self._rate = learning_rate(job.optimizer, job.steps)
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._done = number
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last step that was logged out of the speed."""
        self._began, self._since = time.perf_counter(), self._done

    def add(self, number: int, metrics: Mapping[str, jax.Array]) -> None:
        """Finish the step before, and remember step `number`, which has just been started."""
        self.finish()
        self._pending = number, metrics

    def finish(self) -> None:
        """Wait for the step that was added last.

        Raises:
            AnchorError: its loss or a gradient is not finite.
        """
        if self._pending is None:
            return
        number, metrics = self._pending
        self._pending = None
        _check_finite(number, metrics)
        self._done = number
        self._bar(1)
        if _due(number, self._job.log_every, self._job.steps):
            self._log(number, metrics)

    def _log(self, number: int, metrics: Mapping[str, jax.Array]) -> None:
        speed = (number - self._since) / (time.perf_counter() - self._began)
        values = {k: float(v) for k, v in metrics.items() if not v.ndim}
        values |= self._task.scalars_of(metrics) | {
            "learning_rate": float(np.asarray(self._rate(number - 1))),
            "frames_per_second": self._job.batch_size * speed,
            "memory_mb": peak_memory_mb(),
        }
        self._run.log(number, values, np.asarray(metrics["frames"]).tolist())
        self._bar.note(loss=f"{values['loss']:.4f}")
        self.restart_clock()


def save_anchor(run: Run, anchor: Anchor) -> None:
    """Write RUN/anchor, the result, see `checkpoint.save`."""
    with open_bar("writing the anchor", 1, "folder") as bar:
        checkpoint.save(run.folder / "anchor", anchor)
        bar(1)


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


def _agree(number: int, flag: bool) -> bool:
    """Return whether `flag` is true in any process. Several processes ask each other in some steps
    only, since they wait for all steps that have started before they get an answer."""
    if jax.process_count() > 1 and number % _AGREE_EVERY:
        return False
    return any_process(flag)


def _due(number: int, every: int, last: int) -> bool:
    """Return whether step `number` is a multiple of `every` (0: never) or the last step."""
    return number == last or (every > 0 and number % every == 0)


def _trained(state: State, program: Program) -> Params:
    """Return the moving average of the parameters if it is kept, else the parameters, in the memory
    of the devices."""
    if state.average is None:
        return state.params
    return jax.device_put(state.average, program.shardings.params)


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
