"""The state of a run and the training step, a pure function from a state to the next."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from anchor_jax.shapes import Array, Params

# From parameters, key and batch to the mean loss and {name: (b,)}, values of each example.
Loss = Callable[[Params, Array, dict[str, Array]], tuple[Array, dict[str, Array]]]


@flax.struct.dataclass
class State:
    """Everything that a step changes, and that a checkpoint stores.

    The leaves may be arrays, their shapes or their shardings, so the fields have no types here.

    Attributes:
        step: int32 (), number of steps done.
        seed: uint32 (2,), the run's PRNG key as raw data. Each step folds its number into it.
        params: parameters of the trained networks, float32.
        moments: the optimizer's state.
        average: exponential moving average (EMA) of the parameters, or None.
    """

    step: Any
    seed: Any
    params: Any
    moments: Any
    average: Any


def init_state(
    params: Params, optimizer: optax.GradientTransformation, seed: int, ema: bool
) -> State:
    """Make the state before the first step."""
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
    average_on_host: bool = False,
) -> Callable[[State, dict[str, Array]], tuple[State, dict[str, Array]]]:
    """Make the training step, a function from state and batch to the next state and metrics.

    Args:
        loss: from parameters, key and batch to the mean loss and {name: (b,)} of the examples.
        optimizer: gets the mean gradient of the batch.
        accumulate: number of parts of a batch, which are computed one after another to save
            memory. An example's random numbers do not depend on it.
        ema: decay of the parameters' moving average. After n steps the decay is at most
            (1 + n) / (10 + n), the warm-up of TensorFlow's average
            (https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage).
            It is computed only if the state has an average.
        average_on_host: the average is in the host's memory. The device reads and writes it a
            few leaves at a time, so that it needs no memory there.

    Returns:
        The step. Its metrics are `loss`, the norm of each network's gradient before clipping
        (`gradient_norm/unet`, ...), and the values that `loss` returns for each example.
    """

    def gradients(params: Params, key: Array, batch: dict[str, Array]):
        value = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            return value(params, key, batch)
        # Each part takes every `accumulate`-th row, so that every device has rows in all parts.
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
            if average_on_host:
                average = jax.device_put(average, jax.memory.Space.Device)
            average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
            if average_on_host:
                average = jax.device_put(average, jax.memory.Space.Host)
        norms = {f"gradient_norm/{name}": optax.tree.norm(grads[name]) for name in grads}
        return State(done, state.seed, params, moments, average), {
            "loss": mean,
            **norms,
            **examples,
        }

    return step
