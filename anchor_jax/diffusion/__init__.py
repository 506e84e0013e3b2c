"""Diffusion sampling over videos; knows nothing of networks."""

from anchor_jax.diffusion.ddim import add_noise, ddim_step
from anchor_jax.diffusion.sample import sample
from anchor_jax.diffusion.schedule import ScheduleConfig, alphas_cumprod, sampling_steps
from anchor_jax.diffusion.windows import plan_windows

__all__ = [
    "ScheduleConfig",
    "add_noise",
    "alphas_cumprod",
    "ddim_step",
    "plan_windows",
    "sample",
    "sampling_steps",
]
