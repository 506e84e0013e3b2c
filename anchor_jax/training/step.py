"""State of a run and one step of it: a pure function, jitted once, its state donated."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from anchor_jax.shapes import Array, Params

Loss = Callable[[Params, Array, dict[str, Array]], tuple[Array, dict[str, Array]]]


@flax.struct.dataclass
class State:
    """What a step changes, and what a checkpoint holds of it. Leaves may be arrays, their shapes or
    their shardings, so they have no types here.

    Attributes:
        step: int32 (), steps done.
        seed: uint32 (2,), the run's PRNG key as raw data; each step folds its number into it.
        params: of the trained networks, float32.
        moments: the optimizer's state.
        average: exponential moving average of the parameters, or None.
    """

    step: Any
    seed: Any
    params: Any
    moments: Any
    average: Any


def init_state(
    params: Params, optimizer: optax.GradientTransformation, seed: int, ema: bool
) -> State:
    """The state before the first step."""
    return State(
        step=jnp.zeros((), jnp.int32),
        seed=jax.random.key_data(jax.random.key(seed)),
        params=params,
        moments=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if ema else None,
    )


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    ema: float = 0.0,
) -> Callable[[State, dict[str, Array]], tuple[State, dict[str, Array]]]:
    """A function from state and batch to the next state and what happened.

    Args:
        loss: from parameters, key and batch to the mean loss and {name: (b,)} of the examples.
        optimizer: takes the gradients' mean.
        accumulate: parts that the batch is computed in, one after another, to save memory; an
            example's random numbers do not depend on it.
        ema: decay of the parameters' average, reached as (1 + n) / (10 + n); 0 for none.

    Returns:
        The step. It also returns `loss`, the norm of each network's gradient before clipping
        (`gradient_norm/unet`, ...), and the per-example values of `loss`.
    """

    def gradients(params: Params, key: Array, batch: dict[str, Array]):
        value = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            return value(params, key, batch)
        # Every device's rows are spread over all parts.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add(total, part):
            (mean, examples), grads = value(params, key, part)
            return jax.tree.map(jnp.add, total, (mean, grads)), examples

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, examples = lax.scan(add, start, parts)
        mean, grads = jax.tree.map(lambda x: x / accumulate, total)
        examples = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), examples)
        return (mean, examples), grads

    def step(state: State, batch: dict[str, Array]) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.seed), state.step)
        (mean, examples), grads = gradients(state.params, key, batch)
        updates, moments = optimizer.update(grads, state.moments, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        done = state.step + 1
        average = state.average
        if average is not None:
            decay = jnp.minimum(ema, (1 + done) / (10 + done))
            average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
        norms = {f"gradient_norm/{name}": optax.tree.norm(grads[name]) for name in grads}
        return State(done, state.seed, params, moments, average), {
            "loss": mean,
            **norms,
            **examples,
        }

    return step
