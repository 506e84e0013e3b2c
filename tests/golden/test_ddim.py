"""Golden G: the schedule's tables and a trajectory of 20 steps."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.diffusion import (
    ScheduleConfig,
    add_noise,
    alphas_cumprod,
    ddim_step,
    sampling_steps,
)
from anchor_jax.diffusion.ddim import clean_and_noise
from anchor_jax.models.blocks import sinusoid
from tests.torch_side import channels_last, relative

CONFIG = ScheduleConfig()


@pytest.fixture(scope="module")
def golden(golden_dir):
    return dict(np.load(golden_dir / "G_ddim.npz"))


def test_tables(golden):
    """Catches "linear" betas, and the square root taken once too often."""
    assert relative(alphas_cumprod(CONFIG), golden["alphas_cumprod"]) < 1e-5
    assert relative(1 - np.cumprod(1 - golden["betas"]), 1 - golden["alphas_cumprod"]) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 10, 20, 25, 30, 50, 100])
def test_timesteps(golden, count):
    """Catches a missing offset of one, and trailing or linspace spacing."""
    ours = [step.timestep for step in sampling_steps(CONFIG, count)]
    assert ours == golden[f"timesteps_{count}"].tolist()


def test_alphas_of_20_steps(golden, golden_dir):
    """Catches a final alpha of one, and the alpha of the next step in the list (offset twice)."""
    steps = sampling_steps(CONFIG, 20)
    assert relative([s.alpha for s in steps], golden["alphas_t_20"]) < 1e-5
    assert relative([s.alpha_prev for s in steps], golden["alphas_prev_20"]) < 1e-5
    assert steps[-1].alpha_prev == pytest.approx(golden["final_alpha_cumprod"][0], rel=1e-6)
    previous = json.loads((golden_dir / "G_ddim.json").read_text())["prev_timesteps_20"]
    assert [s.timestep - 50 for s in steps] == previous


def test_trajectory(golden):
    """Catches clipping of x_0 (it reaches 37 here) and any wrong sign or square root."""
    matrix, bias = golden["eps_model_M"], golden["eps_model_b"]
    x = jnp.asarray(channels_last(golden["x_init"]))
    for i, step in enumerate(sampling_steps(CONFIG, 20)):
        eps = jnp.tanh(x @ matrix.T + bias * (step.timestep / 1000))
        alpha, alpha_prev = jnp.float32(step.alpha), jnp.float32(step.alpha_prev)
        x0, _ = clean_and_noise(x, eps, alpha)
        assert relative(x0, channels_last(golden["pred_x0_20"][i])) < 1e-5, f"step {i}"
        x = ddim_step(x, eps, alpha, alpha_prev)
        assert relative(x, channels_last(golden["traj_20"][i])) < 1e-5, f"step {i}"


def test_add_noise(golden):
    """Catches alpha for its square root."""
    x0, noise = jnp.asarray(golden["addnoise_x0"]), jnp.asarray(golden["addnoise_noise"])
    alpha = jnp.asarray(alphas_cumprod(CONFIG)[golden["addnoise_t"]])
    assert relative(add_noise(x0, noise, alpha), golden["addnoise_out"]) < 1e-5


def test_sinusoid(golden):
    """Catches sines before cosines."""
    ours = sinusoid(jnp.asarray(golden["time_proj_32_t"]), 32)
    assert relative(ours, golden["time_proj_32"]) < 1e-5
    swapped = np.roll(golden["time_proj_32"], 16, axis=1)
    assert relative(ours, swapped) > 1e-3
