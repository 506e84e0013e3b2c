"""A step of training: accumulation, moving average, random numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anchor_jax.training.step import init_state, make_step

OPTIMIZER = optax.sgd(0.5)


def loss(params, key, batch):
    """Squares of a line's errors, and a random number of each example."""
    errors = batch["x"] @ params["net"]["w"] - batch["y"]
    drawn = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(batch["position"])
    return (errors**2).mean(), {"errors": errors, "drawn": drawn}


def batch_of(count: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        "x": jnp.asarray(rng.normal(size=(count, 3)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=count), jnp.float32),
        "position": jnp.arange(count),
    }


def start(ema: bool = False):
    return init_state({"net": {"w": jnp.ones(3)}}, OPTIMIZER, 7, ema)


def test_accumulation_changes_nothing_but_memory():
    """Catches a sum for a mean, parts of the batch left out, examples returned in another order,
    and random numbers that depend on an example's place in its part."""
    batch = batch_of(8)
    whole, expected = make_step(loss, OPTIMIZER)(start(), batch)
    parts, metrics = make_step(loss, OPTIMIZER, accumulate=4)(start(), batch)
    np.testing.assert_allclose(parts.params["net"]["w"], whole.params["net"]["w"], rtol=1e-6)
    assert metrics.keys() == expected.keys() == {"loss", "gradient_norm/net", "errors", "drawn"}
    for name in metrics:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)


def test_steps_draw_other_numbers_from_the_same_seed():
    """Catches noise that is the same in every step, or another one after a restart."""
    step, batch = make_step(loss, OPTIMIZER), batch_of(2)
    state, first = step(start(), batch)
    _, second = step(state, batch)
    assert (first["drawn"] != second["drawn"]).all()
    again = dataclasses.replace(state, seed=start().seed)
    np.testing.assert_array_equal(step(again, batch)[1]["drawn"], second["drawn"])
    assert int(state.step) == 1


def test_the_moving_average():
    """Catches an average that starts at zero, or a decay that the early steps do not lower."""
    step, batch = make_step(loss, OPTIMIZER, ema=0.3), batch_of(4)
    state, average = start(ema=True), np.ones(3)
    for n in range(1, 5):
        state, _ = step(state, batch)
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * np.asarray(state.params["net"]["w"])
        np.testing.assert_allclose(state.average["net"]["w"], average, rtol=1e-6)
    assert start().average is None
