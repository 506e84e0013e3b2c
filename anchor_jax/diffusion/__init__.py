"""Diffusion sampling over videos. It is independent of the networks, which are passed in."""

from anchor_jax.diffusion.ddim import add_noise, ddim_step
from anchor_jax.diffusion.guidance import guide, num_halves
from anchor_jax.diffusion.sample import sample
from anchor_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod, sampling_steps
from anchor_jax.diffusion.settings import Sampling
from anchor_jax.diffusion.windows import plan_windows

__all__ = [
    "Sampling",
    "ScheduleConfig",
    "add_noise",
    "alphas_cumprod",
    "ddim_step",
    "guide",
    "num_halves",
    "plan_windows",
    "sample",
    "sampling_steps",
]
