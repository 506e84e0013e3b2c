"""The state of sampling: latents, conditions and sums of the windows in work.

Latents and conditions are kept in rings of blocks (see `windows`), each block of latents at its own
step. For each step there is also the sum that the windows so far leave for the frames of the next
ones. Once a window is predicted and all windows before it are, its block is complete at this step,
and takes the solver's step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from anchor_jax.diffusion.ddim import clean_and_noise, ddim_step
from anchor_jax.diffusion.guidance import guide
from anchor_jax.diffusion.schedule import Step
from anchor_jax.diffusion.settings import Sampling
from anchor_jax.diffusion.solvers import Solver, multistep, solver_table
from anchor_jax.diffusion.windows import count_windows, crossfade_weights, reach
from anchor_jax.shapes import Array

Block = dict[str, Any]  # "noise" (k, h, w, c) and "condition", arrays (k, ...) by their names
State = dict[str, Any]  # arrays by their names, nested


class Source:
    """Reads blocks as late as possible, and counts them.

    Args:
        blocks: noise and conditions of each block.
        stride: frames of a block; only the last may have fewer.
        state: of an earlier source; `blocks` are those that it had not read.
    """

    def __init__(self, blocks: Iterable[Block], stride: int, state: State | None = None):
        self._blocks, self._stride = iter(blocks), stride
        self._waiting: deque[Block] = deque()
        self._count, self._ended = 0, False
        self.num_frames = 0  # of the blocks so far
        if state is not None:
            waiting = state.get("waiting", {})
            self._waiting.extend(waiting[name] for name in sorted(waiting, key=int))
            self._count, self.num_frames = map(int, state["counts"][:2])
            self._ended = bool(state["counts"][2])

    def state(self) -> State:
        """Return what a new source needs to go on from here."""
        counts = np.array([self._count, self.num_frames, self._ended], np.int64)
        return {
            "counts": counts,
            "waiting": {str(number): block for number, block in enumerate(self._waiting)},
        }

    def has(self, index: int) -> bool:
        """Return whether the video has a block of this index; read up to it."""
        while self._count <= index and not self._ended:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                break
            frames = len(block["noise"])
            if self.num_frames % self._stride or not 1 <= frames <= self._stride:
                raise ValueError(f"block {self._count} or the one before has a wrong length")
            self._waiting.append(block)
            self._count, self.num_frames = self._count + 1, self.num_frames + frames
        return index < self._count

    def next(self) -> Block:
        """Return the first block that was not returned yet, and forget it."""
        return self._waiting.popleft()

    @property
    def first(self) -> Block:
        """The first block, before `next` is called."""
        return self._waiting[0]


class Shape(NamedTuple):
    """Frames of the windows.

    Attributes:
        size: frames of a window.
        stride: frames from the start of a window to the start of the next, and of a block.
        weights: weights of the frames of a window, (size,).
    """

    size: int
    stride: int
    weights: np.ndarray

    @property
    def reach(self) -> int:
        """How many of the next windows start inside a window."""
        return reach(self.size, self.stride)

    @classmethod
    def of(cls, source: Source, sampling: Sampling) -> "Shape":
        """Make the shape. A video shorter than a window is one window."""
        if not source.has(0):
            raise ValueError("a video has at least one frame")
        source.has(reach(sampling.window, sampling.stride))
        size = min(sampling.window, source.num_frames)
        weights = np.ones(size, np.float32)
        if sampling.crossfade:
            weights = crossfade_weights(size, sampling.overlap)
        return cls(size, min(sampling.stride, size), weights)


class Rings:
    """Latents, conditions and sums of the windows in work, on the first device.

    Args:
        capacity: number of blocks.
        shape: frames of the windows.
        source: where the blocks come from.
        steps: denoising steps.
        guidance: scale of classifier-free guidance.
        halves: predictions of a window: 2 with guidance, else 1.
        solver: see `solvers`.
        prediction_type: what the network predicts, as for `ddim_step`.
        state: of earlier rings of the same arguments, which these continue.
    """

    def __init__(
        self,
        capacity: int,
        shape: Shape,
        source: Source,
        steps: Sequence[Step],
        guidance: float,
        halves: int,
        solver: Solver,
        prediction_type: str,
        state: State | None = None,
    ):
        self._capacity, self._shape, self._source = capacity, shape, source
        self._entered = 0
        self._kept: Any = None  # what windows keep, (capacity, ...)
        self._has_room = False  # see `keep`

        def empty(*size: int, like: ArrayLike = 0.0) -> Array:
            # On the device that parameters are loaded to. JAX would compile again if it changed.
            zeros = jnp.zeros(size, jnp.asarray(like).dtype)
            return jax.device_put(zeros, jax.local_devices()[0])

        table = solver_table(steps, solver)
        if state is None:
            noise, condition = source.first["noise"], source.first["condition"]
            frames, latent = capacity * shape.stride, np.shape(noise)[1:]
            keep = lambda x: empty(frames, *x.shape[1:], like=x[:0])
            self._latents, self._condition = empty(frames, *latent), jax.tree.map(keep, condition)
            self._sums = empty(len(steps), halves, shape.size - shape.stride, *latent)
            self._clean = empty(0 if table is None else table.shape[1] - 2, frames, *latent)
        else:
            self._entered = int(state["entered"])
            arrays = jax.device_put(state["arrays"], jax.local_devices()[0])
            self._latents, self._condition, self._sums, self._clean = (
                arrays[name] for name in ("latents", "condition", "sums", "clean")
            )
            self._kept = arrays.get("kept")
        self._advance = partial(
            _advance,
            counts=jnp.asarray(count_windows(shape.weights, shape.stride)),
            weights=jnp.asarray(shape.weights),
            alphas=jnp.asarray([(step.alpha, step.alpha_prev) for step in steps], jnp.float32),
            table=None if table is None else jnp.asarray(table),
            guidance=guidance,
            prediction_type=prediction_type,
        )

    def state(self) -> State:
        """Return what new rings need to go on from here. The arrays are on the device, and only
        valid until the next call of another method."""
        arrays = {
            "latents": self._latents,
            "condition": self._condition,
            "sums": self._sums,
            "clean": self._clean,
        }
        if self._kept is not None:
            leaves = jax.tree.leaves(self._kept)
            arrays["kept"] = {str(number): leaf for number, leaf in enumerate(leaves)}
        return {"entered": np.int64(self._entered), "arrays": arrays}

    def read(self, last: int) -> None:
        """Put the blocks up to index `last`, as far as the video has them, into the rings."""
        while self._entered <= last and self._source.has(self._entered):
            start = self._start(self._entered)
            block = self._source.next()
            self._latents, self._condition = _enter(
                (self._latents, self._condition), (block["noise"], block["condition"]), start
            )
            self._entered += 1

    def cut(self, windows: np.ndarray, num_real: np.ndarray) -> tuple[Array, Any]:
        """Cut out latents and conditions (g, size, ...) of windows."""
        rings = self._latents, self._condition
        return _cut(rings, self._start(windows), num_real, size=self._shape.size)

    def keep(self, shapes: Callable[[], Any]) -> None:
        """Before the first window, make room for what windows keep: `shapes()` of one window, a
        tree of `jax.ShapeDtypeStruct`."""
        if self._has_room:
            return
        self._has_room = True
        zeros = lambda x: jnp.zeros((self._capacity, *x.shape), x.dtype)
        room = jax.device_put(jax.tree.map(zeros, shapes()), jax.local_devices()[0])
        if self._kept:  # from the state: leaves by their numbers
            leaves = [self._kept[str(number)] for number in range(len(self._kept))]
            room = jax.tree.unflatten(jax.tree.structure(room), leaves)
        self._kept = room

    def take(self, windows: np.ndarray) -> Any:
        """Return what windows have kept, (g, ...)."""
        return _take(self._kept, windows % self._capacity)

    def put(self, windows: np.ndarray, kept: Any) -> None:
        """Write what windows keep, (g, ...)."""
        self._kept = _put(self._kept, windows % self._capacity, kept)

    def advance(self, predicted: Array, windows: np.ndarray, at: np.ndarray, count: int) -> Array:
        """Let the blocks of windows take their step.

        Args:
            predicted: result of `predict_windows`.
            windows: indices of the windows, (g,).
            at: their steps, (g,).
            count: number of leading windows that are used.

        Returns:
            The blocks after the step, (g, stride, h, w, c).
        """
        state = self._latents, self._clean, self._sums
        (self._latents, self._clean, self._sums), after = self._advance(
            state, predicted, self._start(windows), windows, at, count
        )
        return after

    def _start(self, window: Any) -> Any:
        """Return the place of a window's first frame."""
        return window % self._capacity * self._shape.stride


@partial(jax.jit, donate_argnums=0)
def _enter(rings: Any, block: Any, start: ArrayLike) -> Any:
    """Write a block (k, ...) at frame `start`."""
    write = partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
    return jax.tree.map(lambda ring, x: write(ring, jnp.asarray(x, ring.dtype)), rings, block)


@jax.jit
def _take(rings: Any, slots: Array) -> Any:
    return jax.tree.map(lambda ring: ring[slots], rings)


@partial(jax.jit, donate_argnums=0)
def _put(rings: Any, slots: Array, rows: Any) -> Any:
    return jax.tree.map(lambda ring, new: ring.at[slots].set(new), rings, rows)


@partial(jax.jit, static_argnames="size")
def _cut(rings: Any, starts: Array, num_real: Array, size: int) -> Any:
    """Cut out `size` frames from each start, (g, size, ...). Those that are not real become 0."""
    places = jnp.arange(size)

    def cut(ring: Array) -> Array:
        frames = jnp.take(ring, (starts[:, None] + places) % len(ring), 0)
        real = places < num_real[:, None]
        return jnp.where(real.reshape(*real.shape, *[1] * (ring.ndim - 1)), frames, 0)

    return jax.tree.map(cut, rings)


@partial(jax.jit, static_argnames="prediction_type", donate_argnames="state")
def _advance(
    state: tuple[Array, Array, Array],
    predicted: Array,
    starts: Array,
    windows: Array,
    at: Array,
    used: int | Array,
    *,
    counts: Array,
    weights: Array,
    alphas: Array,
    table: Array | None,
    guidance: ArrayLike,
    prediction_type: str,
) -> tuple[tuple[Array, Array, Array], Array]:
    """Average the windows, apply guidance and take the solver's step, window after window.

    Args:
        state: three arrays: the ring of latents (frames, h, w, c); the ring of the predictions of
            x_0 at the steps before, newest first, as many as the solver needs, (k, frames, h, w,
            c); of each step, what the windows so far predict for frames that the next ones contain
            too, (steps, b, overlap, h, w, c).
        predicted: predictions of a group, (g, b, size, h, w, c).
        starts: places of the windows in the ring, (g,).
        windows: their indices, (g,).
        at: their steps, (g,).
        used: number of leading windows that are used.
        counts: sums of weights, see `count_windows`.
        weights: weights of the frames of a window, (size,).
        alphas: alpha-bar at each step and after it, (steps, 2).
        table: result of `solver_table`.
        guidance: scale of classifier-free guidance.
        prediction_type: as for `ddim_step`.

    Returns:
        The state, and the blocks after the step, (g, stride, h, w, c).
    """
    latents, clean, sums = state
    overlap, stride = sums.shape[2], counts.shape[1]
    blocks = []
    for i in range(len(predicted)):
        before = lax.dynamic_slice_in_dim(latents, starts[i], stride)
        total = predicted[i] * weights[:, None, None, None]
        total = total.at[:, :overlap].add(sums[at[i]])
        count = counts[jnp.minimum(windows[i], len(counts) - 1)]
        mean = total[:, :stride] / count[:, None, None, None]
        prediction = guide(mean, guidance)
        alpha, alpha_prev = alphas[at[i]]
        if table is None:
            block = ddim_step(before, prediction, alpha, alpha_prev, prediction_type)
        else:
            x0, _ = clean_and_noise(before, prediction, alpha, prediction_type)
            earlier = lax.dynamic_slice_in_dim(clean, starts[i], stride, 1)
            latest = jnp.concatenate([x0[None], earlier])
            block = multistep(before, latest, table[at[i]])
            kept = jnp.where(jnp.less(i, used), latest[:-1], earlier)
            clean = lax.dynamic_update_slice_in_dim(clean, kept, starts[i], 1)
        block = jnp.where(jnp.less(i, used), block, before)
        latents = lax.dynamic_update_slice_in_dim(latents, block, starts[i], 0)
        rest = jnp.where(jnp.less(i, used), total[:, stride:], sums[at[i]])
        sums = sums.at[at[i]].set(rest)
        blocks.append(block)
    return (latents, clean, sums), jnp.stack(blocks)
