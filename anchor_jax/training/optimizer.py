"""AdamW (https://arxiv.org/abs/1711.05101) for the UNet and the control branch.

As published, only the control branch is clipped by its norm (https://arxiv.org/abs/1211.5063).
"""

from dataclasses import dataclass
from typing import Literal

import optax

from anchor_jax.errors import require


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer. The published system has a constant rate and clips "control".

    Attributes:
        learning_rate: the rate after the warm-up.
        schedule: "constant", or "cosine", which reaches zero at the last step
            (https://arxiv.org/abs/1608.03983).
        warmup: number of steps over which the rate rises linearly; the programs cut it to a
            tenth of the run.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled weight decay.
        first_moment: type that the first moment is kept in. "bfloat16" saves 2 bytes a parameter.
            The second moment stays float32, because one step changes it by a factor as small as
            `beta2`, 0.999, and bfloat16 has no number between 0.996 and 1.
        clip: which gradients are clipped by their norm: those of the control branch ("control"),
            those of both networks by their common norm ("global"), or none ("none").
        max_norm: the norm that they are clipped to.

    Raises:
        AnchorError: a number outside its range; one message names all of them.
    """

    learning_rate: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    first_moment: Literal["float32", "bfloat16"] = "float32"
    clip: Literal["control", "global", "none"] = "control"
    max_norm: float = 1.0

    def __post_init__(self):
        checks = (
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "0 to 1"),
            ("warmup", self.warmup, self.warmup >= 0, "at least 0 steps"),
            ("beta1", self.beta1, 0 <= self.beta1 < 1, "0 to below 1"),
            ("beta2", self.beta2, 0 <= self.beta2 < 1, "0 to below 1"),
            ("epsilon", self.epsilon, 0 < self.epsilon < 1, "a small positive number"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "0 to below 1"),
            ("max_norm", self.max_norm, self.max_norm > 0, "a positive number"),
        )
        require(
            *((good, f"{name} is {value}: expected {text}") for name, value, good, text in checks)
        )


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step, which counts from 0.

    The first step of a warm-up has the rate `learning_rate / warmup`, not 0.

    Args:
        config: settings of the optimizer.
        steps: number of steps of the run, warm-up included.
    """
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
    """Make the optimizer for a run of `steps` steps.

    With `clip="control"` the gradients must be {"unet": ..., "control": ...}.
    """
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
        mu_dtype=config.first_moment,
    )
    return optax.chain(*parts, adamw)
