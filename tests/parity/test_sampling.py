"""The scheduler, and three steps of everything together, against diffusers."""

# torch and diffusers are typed too loosely.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from anchor_jax.diffusion import (
    Sampling,
    ScheduleConfig,
    add_noise,
    alphas_cumprod,
    ddim_step,
    sample,
    sampling_steps,
)
from anchor_jax.diffusion.solvers import solver_steps
from anchor_jax.diffusion.windows import plan_windows
from anchor_jax.generation.networks import WindowDenoiser
from anchor_jax.models import Denoiser
from benchmarks.torch_peer import inflate, window_step
from tests.latents import LatentsOfSteps
from tests.parity.test_networks import CONTROL, UNET, draw
from tests.torch_side import network_params, random_network, relative, to_ours, to_torch


def scheduler(**changes) -> diffusers.DDIMScheduler:
    """DDIM as the published system makes it from Stable Diffusion 1.5's config."""
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return diffusers.DDIMScheduler(**(settings | changes))


def test_timesteps_of_every_count():
    """Catches a rounded instead of a truncated stride, trailing or linspace spacing, a missing
    offset. At 1000 steps diffusers runs off its table (t = 1000); we stay at 999."""
    theirs, config = scheduler(), ScheduleConfig()
    for count in range(1, 1000):
        theirs.set_timesteps(count)
        ours = [step.timestep for step in sampling_steps(config, count)]
        assert ours == theirs.timesteps.clamp(max=999).tolist()


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_ddim_steps(count, prediction, to_one):
    """Catches a final alpha of 1 where alpha-bar_0 belongs, clipping of x_0, alpha taken one
    timestep off, and v taken for eps."""
    theirs = scheduler(prediction_type=prediction, set_alpha_to_one=to_one)
    theirs.set_timesteps(count)
    config = ScheduleConfig(prediction_type=prediction, set_alpha_to_one=to_one)
    ours = expected = jnp.asarray(draw(2, 3, 4, 4))
    for t, step in zip(theirs.timesteps, sampling_steps(config, count), strict=True):
        guess = draw(2, 3, 4, 4, seed=int(t))
        expected = theirs.step(torch.from_numpy(guess), t, torch.as_tensor(expected)).prev_sample
        alphas = jnp.float32(step.alpha), jnp.float32(step.alpha_prev)
        ours = ddim_step(ours, jnp.asarray(guess), *alphas, prediction)
        assert relative(ours, expected) < 1e-5


MULTISTEP = {
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


def multistep(solver: str, spacing: str, prediction: str = "epsilon"):
    """A multistep scheduler with its own defaults (order 2, final sigma zero) and the schedule of
    Stable Diffusion 1.5."""
    return MULTISTEP[solver](
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )


# Schedulers turn torch's tensors into NumPy's arrays in a way that NumPy 2 warns of.
converts = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@converts
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_timesteps_of_solvers(solver, spacing):
    """Catches the parts of DDIM for a multistep solver, and trailing timesteps one off."""
    theirs = scheduler(timestep_spacing=spacing)
    if solver != "ddim":
        theirs = multistep(solver, spacing)
    for count in (1, 2, 3, 7, 10, 15, 20, 32, 100):
        theirs.set_timesteps(count)
        steps = solver_steps(ScheduleConfig(), count, solver, spacing)
        assert [step.timestep for step in steps] == theirs.timesteps.tolist(), count


def mix(params, latents, condition, timestep, num_real):
    """A denoiser that mixes channels, frame by frame."""
    return jnp.tanh(latents @ params + timestep / 1000)[None]


@converts
@pytest.mark.parametrize(
    ("prediction", "spacing"), [("epsilon", "leading"), ("v_prediction", "trailing")]
)
@pytest.mark.parametrize("count", [1, 2, 3, 20])
@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_multistep_trajectories(solver, count, prediction, spacing):
    """Whole trajectories, in windows as of a video. Catches a wrong order of the first or last
    steps, a prediction of x_0 from another step, a corrector that is left out or of another order,
    and a last step that leaves noise."""
    matrix, expected = draw(4, 4, seed=3) / 2, draw(5, 2, 3, 4)
    ours = LatentsOfSteps(expected)
    sample(
        mix,
        matrix,
        expected,
        np.zeros((5, 1), np.float32),
        ScheduleConfig(prediction_type=prediction),
        Sampling(count, guidance=1.0, window=4, overlap=1, solver=solver, spacing=spacing),
        on_group=ours.add,
    )
    theirs = multistep(solver, spacing, prediction)
    theirs.set_timesteps(count)
    for i, t in enumerate(theirs.timesteps):
        guess = torch.from_numpy(np.tanh(expected @ matrix + np.float32(t / 1000)))
        expected = theirs.step(guess, t, torch.from_numpy(expected)).prev_sample.numpy()
        assert relative(ours.latents[i], expected) < 1e-5, f"step {i}"


def test_add_noise():
    """Catches alpha for its square root, and a table of another beta schedule."""
    x0, noise, timesteps = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1), np.array([0, 481, 999])
    theirs = scheduler().add_noise(*map(torch.from_numpy, (x0, noise, timesteps)))
    alphas = jnp.asarray(alphas_cumprod(ScheduleConfig())[timesteps])
    ours = add_noise(jnp.asarray(x0), jnp.asarray(noise), alphas)
    assert relative(ours, theirs) < 1e-5


def test_three_steps_of_a_video_in_windows():
    """Everything at once, against a plain loop over diffusers' networks and scheduler: catches
    averaging after guidance with other weights, halves of guidance swapped, a tail window shifted
    or merged, another order of steps, and noise predicted from stale latents."""
    unet, control = random_network(UNET, 1), random_network(CONTROL, 2)
    params = {
        "unet": network_params(UNET, unet),
        "control": network_params(CONTROL, control),
        "context": draw(2, 7, 24, seed=4),
        "control_scale": np.float32(2.0),
    }
    num_frames, size, overlap, guidance = 4, 3, 1, 7.5
    latents = draw(num_frames, 8, 12, 4)
    poses = np.random.default_rng(5).integers(0, 256, (num_frames, 64, 96, 3), dtype=np.uint8)
    ours = LatentsOfSteps(latents)
    sample(
        WindowDenoiser(Denoiser(UNET, CONTROL)),
        params,
        jnp.asarray(latents),
        {"poses": poses},
        ScheduleConfig(),
        Sampling(steps=3, guidance=guidance, window=size, overlap=overlap),
        on_group=ours.add,
    )

    ddim = scheduler()
    ddim.set_timesteps(3)
    x, context = to_torch(latents), torch.from_numpy(params["context"])
    pixels = to_torch(poses.astype(np.float32) / 255)
    for step, t in enumerate(ddim.timesteps):
        total, count = torch.zeros(2, *x.shape), torch.zeros(num_frames, 1, 1, 1)
        for window in plan_windows(num_frames, size, overlap):
            frames = list(window)
            inflate(unet, control, len(frames))
            both = x[frames].repeat(2, 1, 1, 1)
            noise = window_step(unet, control, both, int(t), context, pixels[frames], 2.0)
            total[:, frames] += noise.unflatten(0, (2, -1))
            count[frames] += 1
        empty, told = total / count
        x = ddim.step(empty + guidance * (told - empty), t, x).prev_sample
        assert relative(ours.latents[step], to_ours(x)) < 2e-5, f"step {step}"
    assert jax.tree.all(jax.tree.map(lambda p: np.isfinite(p).all(), ours.latents))
