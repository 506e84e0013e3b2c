"""The optimizer: what it clips, its rate over the steps, and which settings it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchor_jax.errors import AnchorError
from anchor_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer

PARAMS = {"unet": {"a": jnp.ones(2)}, "control": {"b": jnp.ones(2), "c": jnp.ones(1)}}
# Norms: unet 13, control 3; 13.34 together.
GRADIENTS = {
    "unet": {"a": jnp.asarray([5.0, 12.0])},
    "control": {"b": jnp.asarray([2.0, 2.0]), "c": jnp.asarray([1.0])},
}


def clipped(config: OptimizerConfig):
    """What reaches AdamW of the gradients: its first moment after one step, undone."""
    optimizer = make_optimizer(config, 10)
    _, moments = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    first: Any = optax.tree.get(moments, "mu")
    return {name: optax.tree.norm(first[name]) / (1 - config.beta1) for name in first}


@pytest.mark.parametrize(
    ("config", "unet", "control"),
    [
        (OptimizerConfig(max_norm=1.5), 13, 1.5),
        (OptimizerConfig(max_norm=4.0), 13, 3),
        (OptimizerConfig(clip="global", max_norm=178**0.5 / 2), 6.5, 1.5),
        (OptimizerConfig(clip="none", max_norm=1.5), 13, 3),
    ],
)
def test_clipping(config, unet, control):
    """Catches the published default clipping the UNet too or a norm over both, a small gradient
    that is scaled up, and an option that is ignored."""
    norms = clipped(config)
    np.testing.assert_allclose(norms["unet"], unet, rtol=1e-6)
    np.testing.assert_allclose(norms["control"], control, rtol=1e-6)


def test_weight_decay_is_decoupled():
    """Catches decay that goes through the moments (Adam with L2), or is not scaled by the rate."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.5, weight_decay=0.1), 10)
    zeros = {"unet": {"a": jnp.zeros(2)}, "control": {"b": jnp.zeros(2), "c": jnp.zeros(1)}}
    updates: Any
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(np.asarray(updates["unet"]["a"]), -0.05, rtol=1e-6)


def test_the_first_moment_alone_is_rounded():
    """Catches an option that is ignored, and a second moment in bfloat16, which a thousandth of it
    cannot change."""
    optimizer = make_optimizer(OptimizerConfig(first_moment="bfloat16"), 10)
    moments: Any = optimizer.init(PARAMS)
    updates, moments = optimizer.update(GRADIENTS, moments, PARAMS)
    for name, dtype in (("mu", "bfloat16"), ("nu", "float32")):
        leaves = jax.tree.leaves(optax.tree.get(moments, name))
        assert {leaf.dtype.name for leaf in leaves} == {dtype}
    exact: Any = make_optimizer(OptimizerConfig(), 10)
    expected, _ = exact.update(GRADIENTS, exact.init(PARAMS), PARAMS)
    for ours, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2)


def rates(steps: int, **settings) -> np.ndarray:
    rate = learning_rate(OptimizerConfig(learning_rate=0.8, **settings), steps)
    return np.asarray([float(np.asarray(rate(i))) for i in range(steps + 1)])


def test_the_rate():
    """Catches a first step at rate zero, a warm-up that ends a step late or early, and a cosine
    that counts it or does not end at zero."""
    np.testing.assert_allclose(rates(3), 0.8)
    warm = [0.2, 0.4, 0.6, 0.8]
    np.testing.assert_allclose(rates(6, warmup=4), [*warm, 0.8, 0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(rates(2, warmup=1), 0.8, rtol=1e-6)
    cosine = 0.4 * (1 + np.cos(np.pi * np.arange(5) / 4))
    np.testing.assert_allclose(rates(4, schedule="cosine"), cosine, atol=1e-7)
    both = rates(8, schedule="cosine", warmup=4)
    np.testing.assert_allclose(both, [*warm, *cosine], atol=1e-7)


def test_settings_without_sense_are_refused_together():
    """Catches a rate of a hundred that is accepted, and problems reported one by one."""
    with pytest.raises(AnchorError, match=r"learning_rate is 100\.0.*; warmup is -1.*; max_norm"):
        OptimizerConfig(learning_rate=100.0, warmup=-1, max_norm=0.0)
