"""AdamW over the UNet and the control branch, with the published clipping."""

from dataclasses import dataclass
from typing import Literal

import optax

from anchor_jax.errors import AnchorError

Clip = Literal["control", "global", "none"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Published: AdamW at a constant rate; the control branch's gradients alone are clipped.

    Attributes:
        learning_rate: after the warm-up.
        schedule: "constant", or "cosine" down to zero at the last step.
        warmup: steps over which the rate rises from zero.
        beta1: decay of the first moment.
        beta2: decay of the second.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled.
        clip: what is clipped by its norm: the control branch's gradients, all of them together,
            or nothing.
        max_norm: the norm that they are clipped to.

    Raises:
        AnchorError: numbers that make no sense.
    """

    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    clip: Clip = "control"
    max_norm: float = 1.0

    def __post_init__(self):
        wrong = [
            f"{name} is {value}: expected {expected}"
            for name, value, good, expected in (
                ("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "0 to 1"),
                ("warmup", self.warmup, self.warmup >= 0, "at least 0 steps"),
                ("beta1", self.beta1, 0 <= self.beta1 < 1, "0 to below 1"),
                ("beta2", self.beta2, 0 <= self.beta2 < 1, "0 to below 1"),
                ("epsilon", self.epsilon, 0 < self.epsilon < 1, "a small positive number"),
                ("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "0 to below 1"),
                ("max_norm", self.max_norm, self.max_norm > 0, "a positive number"),
            )
            if not good
        ]
        if wrong:
            raise AnchorError("; ".join(wrong))


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rate by step, counted from 0."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, steps - config.warmup))
    else:
        after = optax.constant_schedule(rate)
    if not config.warmup:
        return after
    rising = optax.linear_schedule(rate / config.warmup, rate, config.warmup - 1)
    return optax.join_schedules([rising, after], [config.warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The transformation of gradients {"unet": ..., "control": ...}."""
    clip = optax.clip_by_global_norm(config.max_norm)
    parts = {
        "control": [optax.masked(clip, {"unet": False, "control": True})],
        "global": [clip],
        "none": [],
    }[config.clip]
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )
    return optax.chain(*parts, adamw)
