"""Sample a video of any length: groups of windows, their average, and guidance.

Several devices share the windows of a group. Each has the parameters, and predicts its part. Then
one collective brings the predictions together: each process averages them and takes the solver's
step on its first device, which alone has the rings.

The networks are passed in as one callable:

    denoise(params, latents (f, h, w, c), condition (f, ...), timestep, num_real ())
        -> float32 (b, f, h, w, c)

with b = 2 (unconditional, conditional) or, at guidance scale 1, b = 1 (conditional only). The two
halves of guidance come from the context in `params` (see `generation.networks.denoiser_params`),
not from `condition`, which both halves share.

With shortcuts (see `shortcuts`) it also has a method

    denoise.shortcut(mode, kept, params, latents, condition, timestep, num_real)
        -> float32 (mode.halves, f, h, w, c), features (b, ...)

JAX caches compiled programs with this callable as the key. It must be hashable. Two calls share a
program only if their callables compare equal.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from anchor_jax.compiling import jit, return_freed_memory
from anchor_jax.devices import (
    own_copy,
    own_rows,
    put_batch,
    put_copies,
    shared_mesh,
    split_rows,
)
from anchor_jax.diffusion.rings import Block, Rings, Shape, Source, State
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.diffusion.settings import Sampling
from anchor_jax.diffusion.shortcuts import Switch, step_modes
from anchor_jax.diffusion.solvers import solver_steps
from anchor_jax.diffusion.tasks import Line, Order, Task, group_size, plan_groups
from anchor_jax.diffusion.windows import reach
from anchor_jax.shapes import Array

Denoise = Callable[..., Array]

# Windows in one call of the compiled program, at most, or one for each device if there are more.
# The program loops over the windows of a device, so their number does not change the time to
# compile. More windows mean fewer calls.
WINDOWS_PER_CALL = 4


def sample(
    denoise: Denoise,
    params,
    latents: ArrayLike,
    condition: Any,
    schedule: ScheduleConfig,
    sampling: Sampling,
    *,
    embed: Callable[[Any], Any] = lambda block: block,
    order: Order = "wave",
    on_windows: Callable[[int], object] | None = None,
    on_group: Callable[[list[Task], Array], object] | None = None,
) -> Array:
    """Denoise a whole video, see `Sampler`.

    Args:
        denoise: see the module's docstring.
        params: first argument of `denoise`, any pytree.
        latents: initial noise (n, h, w, c).
        condition: conditions of each frame, a NumPy array (n, ...) or a tree of them.
        schedule: noise schedule.
        sampling: steps, guidance and windows.
        embed: computes from the conditions of a block what `denoise` takes, once.
        order: order of the tasks, see `tasks`. It does not change the result.
        on_windows: see `Sampler`.
        on_group: see `Sampler`.

    Returns:
        Clean latents (n, h, w, c), float32.

    Raises:
        ValueError: more steps than the schedule has timesteps.
    """
    noise = jnp.asarray(latents, jnp.float32)
    starts = range(0, len(noise), sampling.stride)

    def block(start: int) -> Block:
        cut = lambda x: x[start : start + sampling.stride]
        return {"noise": cut(noise), "condition": embed(jax.tree.map(cut, condition))}

    sampler = Sampler(
        denoise,
        params,
        map(block, starts),
        schedule,
        sampling,
        order=order,
        num_windows=len(starts),
        on_windows=on_windows,
        on_group=on_group,
    )
    return jnp.concatenate([block for blocks in sampler for block in blocks])


def frames_in_work(sampling: Sampling) -> int:
    """Return the number of frames whose latents and conditions are on the device at once."""
    return _line(sampling).capacity * sampling.stride


class Sampler:
    """Denoises a video block by block: algorithm 1 of the paper.

    In each step, all windows are predicted, the predictions are averaged for each frame, guidance
    combines the averages, and the frames take one step of the solver. The memory does not depend on
    the length of the video, unless the order is "steps".

    Iterating yields, after each group of tasks, the list of blocks that are now clean (possibly
    none), in order: latents, float32 (k, h, w, c). The device may still be computing them.

    Args:
        denoise: see the module's docstring.
        params: first argument of `denoise`, any pytree.
        blocks: initial noise and conditions of the next `sampling.stride` frames; fewer at the end.
            They are read as they are needed.
        schedule: noise schedule.
        sampling: steps, guidance, windows and devices. A video shorter than a window is one window
            of the video's length.
        order: order of the tasks, see `tasks`.
        num_windows: the number of blocks, which the order "steps" needs.
        on_windows: called when windows are complete, with their number since the last call. The
            device computes the next group of windows meanwhile.
        on_group: called after each group with its tasks and their blocks (k, stride, h, w, c),
            which have taken this step.
        state: of an earlier sampler of the same arguments, which this one continues. `blocks` then
            are those that the earlier one had not read.

    Raises:
        ValueError: more steps than the schedule has timesteps, a block of the wrong length, or no
            block.
    """

    def __init__(
        self,
        denoise: Denoise,
        params,
        blocks: Iterable[Block],
        schedule: ScheduleConfig,
        sampling: Sampling,
        *,
        order: Order = "wave",
        num_windows: int | None = None,
        on_windows: Callable[[int], object] | None = None,
        on_group: Callable[[list[Task], Array], object] | None = None,
        state: State | None = None,
    ):
        state = state or {}
        self._mesh = shared_mesh(sampling.devices)
        self._denoise = denoise
        self._params = params if self._mesh is None else put_copies(self._mesh, params)
        self._order: Order = order
        self._on_windows, self._on_group = on_windows, on_group
        self._source = source = Source(blocks, sampling.stride, state.get("source"))
        steps = solver_steps(schedule, sampling.steps, sampling.solver, sampling.spacing)
        modes = step_modes(steps, schedule.num_train_timesteps, sampling)
        self._switch = Switch.of(denoise, modes)
        self._timesteps = np.array([step.timestep for step in steps], np.int32)
        self._shape = shape = Shape.of(source, sampling)
        line = _line(sampling)._replace(reach=shape.reach)
        if self._mesh is None and not source.has(line.group + max(shape.reach, 1) - 1):
            line = line._replace(group=1)  # the video is too short to fill others
        self._line, capacity = line, line.capacity
        if num_windows is not None:
            # A power of two, so that other lengths do not compile again.
            whole = 1 << (num_windows + shape.reach - 1).bit_length()
            capacity = whole if order == "steps" else min(whole, capacity)
        self._rings = Rings(
            capacity,
            shape,
            source,
            steps,
            sampling.guidance,
            max(mode.halves for mode in modes),
            sampling.solver,
            schedule.prediction_type,
            state.get("rings"),
        )
        self._done = [int(count) for count in state.get("done", [0] * len(steps))]

    def state(self) -> State:
        """Return what a new sampler needs to go on from here, between two groups. The arrays are
        valid until the next group is asked for."""
        return {
            "source": self._source.state(),
            "rings": self._rings.state(),
            "done": np.array(self._done, np.int64),
        }

    def __iter__(self) -> Iterator[list[Array]]:
        """Run the groups."""
        line, shape, source, rings = self._line, self._shape, self._source, self._rings
        wait = _wait_one_late(self._on_windows)
        compiled = False
        for tasks in plan_groups(line, source.has, self._order, self._done):
            rings.read(max(task.window for task in tasks) + shape.reach)
            # A group that is not full repeats its first window, whose prediction is then not used.
            filled = [*tasks, *[tasks[0]] * (line.group - len(tasks))]
            windows, at = np.array(filled, np.int32).T
            num_real = np.clip(source.num_frames - windows * shape.stride, 0, shape.size)
            predicted = self._predict(windows, at, num_real)
            if not compiled:
                return_freed_memory()
                compiled = True
            after = rings.advance(predicted, windows, at, len(tasks))
            if self._on_group is not None:
                self._on_group(tasks, after[: len(tasks)])
            wait(after, len(tasks))
            yield [
                block[: source.num_frames - task.window * shape.stride]
                for block, task in zip(after, tasks, strict=False)
                if task.step == line.steps - 1
            ]
        wait(None, 0)

    def _predict(self, windows: np.ndarray, at: np.ndarray, num_real: np.ndarray) -> Array:
        """Predict a group of windows of the rings, see `predict_windows`. The result is on the
        first device of each process."""
        mesh, timesteps = self._mesh, self._timesteps[at]
        own = slice(None) if mesh is None else own_rows(mesh, len(windows))
        latents, condition = self._rings.cut(windows[own], num_real[own])
        if self._switch is not None:
            inputs = latents, condition, timesteps[own], num_real[own]
            self._rings.keep(partial(self._switch.kept_shapes, self._params, *inputs))
            condition = self._switch.condition(condition, self._rings.take(windows[own]), at[own])
        batch: Any = latents, condition, timesteps[own], num_real[own]
        batch = batch if mesh is None else put_batch(mesh, batch)
        predicted = predict_windows(self._switch or self._denoise, self._params, *batch, mesh)
        if mesh is not None:
            predicted = jax.tree.map(own_copy, predicted)
        if self._switch is not None:
            predicted, kept = predicted
            self._rings.put(windows, kept)
        return predicted


def _line(sampling: Sampling) -> Line:
    """Return what the plan of a video depends on that is not shorter than a window."""
    group = windows_each(sampling) * (sampling.devices or 1)
    return Line(sampling.steps, reach(sampling.window, sampling.stride), group)


def windows_each(sampling: Sampling) -> int:
    """Return the number of windows of a group that each device predicts."""
    return group_size(sampling.steps, max(WINDOWS_PER_CALL // (sampling.devices or 1), 1))


@partial(jit, static_argnames=("denoise", "mesh"))
def predict_windows(
    denoise: Denoise,
    params,
    latents: Array,
    condition: Any,
    timesteps: Array | np.ndarray,
    num_real: Array | np.ndarray,
    mesh: Mesh | None = None,
) -> Any:
    """Predict a group of windows. Each device predicts its part, one window after the other.

    Args:
        denoise: see the module's docstring.
        params: first argument of `denoise`.
        latents: noisy latents (g, size, h, w, c) of the windows.
        condition: their conditions (g, size, ...).
        timesteps: timestep of each window, (g,).
        num_real: number of leading frames of each window that are real, (g,).
        mesh: the devices, which divide g; None is one device.

    Returns:
        What `denoise` returns, float32 (g, b, size, h, w, c), on every device.
    """

    def predict(params, *windows):
        return lax.scan(lambda _, window: (None, denoise(params, *window)), None, windows)[1]

    return split_rows(predict, mesh)(params, latents, condition, timesteps, num_real)


def _wait_one_late(
    on_windows: Callable[[int], object] | None,
) -> Callable[[Array | None, int], None]:
    """Return a function that takes the blocks of a group, which the device may still be computing,
    and its number of windows. It waits for the group of the call before and calls `on_windows`. So
    the device always has a next group to compute, and the host is never further ahead."""
    running: list[tuple[Array, int]] = []

    def wait(blocks: Array | None, windows: int) -> None:
        for before, count in running:
            before.block_until_ready()
            if on_windows is not None:
                on_windows(count)
        running[:] = [] if blocks is None else [(blocks, windows)]

    return wait
