"""The noise schedule and the timesteps of sampling, as numpy tables."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class ScheduleConfig:
    """Stable Diffusion 1.5's schedule: "scaled_linear" betas, "leading" timestep spacing.

    Attributes:
        num_train_timesteps: T, the number of timesteps in training.
        beta_start: the first beta. The square roots of the betas are equally spaced.
        beta_end: the last beta.
        steps_offset: added to each timestep of sampling.
        set_alpha_to_one: whether the last step leads to alpha-bar = 1 rather than alpha-bar_0.
        prediction_type: what the network predicts, "epsilon" (published) or "v_prediction".
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    prediction_type: str = "epsilon"


class Step(NamedTuple):
    """One denoising step: from alpha-bar at `timestep` to alpha-bar at the previous timestep."""

    timestep: int
    alpha: float
    alpha_prev: float


def alphas_cumprod(config: ScheduleConfig) -> np.ndarray:
    """Compute alpha-bar_t = prod (1 - beta_s) over s <= t: float32 (num_train_timesteps,)."""
    start, end = np.sqrt([config.beta_start, config.beta_end])
    betas = np.linspace(start, end, config.num_train_timesteps) ** 2
    return np.cumprod(1 - betas).astype(np.float32)


def sampling_steps(config: ScheduleConfig, num_steps: int) -> list[Step]:
    """List the steps of a sampler, noisiest first.

    >>> [step.timestep for step in sampling_steps(ScheduleConfig(), 20)][:3]
    [951, 901, 851]

    Raises:
        ValueError: if `num_steps` is not within 1 .. num_train_timesteps.
    """
    if not 1 <= num_steps <= config.num_train_timesteps:
        raise ValueError(f"num_steps is {num_steps}, not 1 to {config.num_train_timesteps}")
    alphas = alphas_cumprod(config)
    stride = config.num_train_timesteps // num_steps
    final = 1.0 if config.set_alpha_to_one else float(alphas[0])
    steps = []
    for i in reversed(range(num_steps)):
        t = min(i * stride + config.steps_offset, config.num_train_timesteps - 1)
        alpha_prev = float(alphas[t - stride]) if t >= stride else final
        steps.append(Step(t, float(alphas[t]), alpha_prev))
    return steps
