"""Shortcuts of sampling, with a denoiser that is no network, and what the networks reuse."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from anchor_jax.diffusion import Sampling, ScheduleConfig, ddim_step, plan_windows, sample
from anchor_jax.diffusion.sample import Sampler
from anchor_jax.diffusion.schedule import sampling_steps
from anchor_jax.diffusion.shortcuts import Mode, step_modes
from anchor_jax.generation.networks import WindowDenoiser
from anchor_jax.models import Denoiser
from anchor_jax.models.reuse import Reuse
from anchor_jax.planning.flops import count_flops
from tests.unit.test_models import CONTROL, UNET, draw, random_params

SCHEDULE = ScheduleConfig()
SETTINGS = (
    {"solver": "dpm++"},
    {"solver": "unipc", "spacing": "trailing"},
    {"guidance_interval": (0.2, 0.7)},
    {"reuse": "deep"},
    {"reuse": "encoder", "reuse_every": 3, "guidance_interval": (0.0, 0.6), "solver": "unipc"},
)


@dataclass(frozen=True)
class Toy:
    """A denoiser whose halves differ, and which keeps a mean over the window, as if it came from a
    deep layer: of both halves alike and of each by itself."""

    def __call__(self, params, latents, condition, timestep, num_real):
        return self.shortcut(Mode(2), {}, params, latents, condition, timestep, num_real)[0]

    def shortcut(self, mode, kept, params, latents, condition, timestep, num_real):
        gains = jnp.array([0.5, 1.0])[-mode.halves :, None, None, None, None]
        if mode.fresh:
            real = (jnp.arange(len(latents)) < num_real)[:, None, None, None]
            mean = (latents * real).sum(0, keepdims=True) / real.sum()
            kept = {} if mode.reuse == "none" else {"one": mean[None], "each": gains * mean}
        else:
            mean = kept["one"][0]
        each = kept["each"] if kept else gains * mean
        out = gains * jnp.sin(latents + mean * params + timestep / 1000 + condition) + each
        return out, kept


def sample_noise(num_frames: int, order, **settings) -> np.ndarray:
    """Sample with the toy from noise of a video."""
    rng = np.random.default_rng(num_frames)
    latents = rng.normal(size=(num_frames, 2, 1, 1)).astype(np.float32)
    condition = rng.normal(size=(num_frames, 1, 1, 1)).astype(np.float32)
    sampling = Sampling(**{"guidance": 2.5, "window": 4, "overlap": 1, **settings})
    return np.asarray(sample(Toy(), 0.3, latents, condition, SCHEDULE, sampling, order=order))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_wave_gives_the_same_frames(settings: dict):
    """Catches features or predictions of a window that another window or step overwrites."""
    for num_frames, steps in ((1, 3), (5, 2), (30, 6), (47, 4)):
        video = partial(sample_noise, num_frames, steps=steps, **settings)
        np.testing.assert_array_equal(video(order="wave"), video(order="steps"), f"{num_frames}")


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_sampler_with_shortcuts_goes_on_from_any_group(settings: dict):
    """Catches features, or predictions at earlier steps, that the state does not have."""
    rng = np.random.default_rng(5)
    frames = rng.normal(size=(9, 2, 3, 2, 1, 1)).astype(np.float32)
    blocks = [{"noise": noise, "condition": condition} for noise, condition in frames]
    sampling = Sampling(**{"steps": 4, "guidance": 2.5, "window": 4, "overlap": 1, **settings})

    def start(state=None) -> Sampler:
        read = 0 if state is None else int(state["source"]["counts"][0])
        return Sampler(Toy(), 0.3, iter(blocks[read:]), SCHEDULE, sampling, state=state)

    expected = [np.asarray(block) for finished in start() for block in finished]
    found, state = [], None
    while len(found) < len(expected):
        sampler = start(state)
        found += map(np.asarray, next(iter(sampler)))
        # As in a file: nested dicts of arrays.
        flat = flatten_dict(jax.tree.map(np.array, sampler.state()), sep="/")
        state = unflatten_dict(flat, sep="/")
    np.testing.assert_array_equal(found, expected)


def test_shortcuts_are_algorithm_1_with_what_is_kept():
    """Against plain loops. Catches features that are taken at the wrong step or of another window,
    guidance outside its interval or none inside, and the half that is left out."""
    num_frames, num_steps, interval = 14, 5, (0.3, 0.7)  # guidance at steps 1 and 2
    rng = np.random.default_rng(num_frames)
    latents = rng.normal(size=(num_frames, 2, 1, 1)).astype(np.float32)
    condition = rng.normal(size=(num_frames, 1, 1, 1)).astype(np.float32)
    features = {}
    for i, step in enumerate(sampling_steps(SCHEDULE, num_steps)):
        total, count = np.zeros((2, *latents.shape)), np.zeros((num_frames, 1, 1, 1))
        for frames in plan_windows(num_frames, 4, 1):
            part, fresh = slice(frames.start, frames.stop), i in (0, 1, 2, 4)
            out, features[frames.start] = Toy().shortcut(
                Mode(2, "deep", fresh),
                None if fresh else features[frames.start],
                0.3,
                jnp.asarray(latents[part]),
                condition[part],
                step.timestep,
                len(frames),
            )
            total[:, part] += out
            count[part] += 1
        empty, told = total / count
        scale = 2.5 if interval[0] <= step.timestep / 1000 <= interval[1] else 1.0
        guess = jnp.asarray(empty + scale * (told - empty), jnp.float32)
        latents = np.asarray(ddim_step(jnp.asarray(latents), guess, step.alpha, step.alpha_prev))
    ours = sample_noise(
        num_frames, "wave", steps=num_steps, reuse="deep", guidance_interval=interval
    )
    np.testing.assert_allclose(ours, latents, rtol=1e-4, atol=1e-5)


def test_modes_of_steps():
    """Catches an interval in steps rather than in timesteps, one that is reversed, and a first step
    that takes what nothing has kept."""
    steps = sampling_steps(SCHEDULE, 4)  # timesteps 751, 501, 251, 1
    modes = step_modes(steps, 1000, Sampling(guidance_interval=(0.2, 0.6)))
    assert [mode.halves for mode in modes] == [1, 2, 2, 1]
    modes = step_modes(steps, 1000, Sampling(guidance=1.0, reuse="deep", reuse_every=3))
    assert modes == [Mode(1, "deep", fresh) for fresh in (True, False, False, True)]
    modes = step_modes(steps, 1000, Sampling(guidance_interval=(0.2, 0.6), reuse="deep"))
    assert modes == [Mode(1, "deep"), Mode(2, "deep"), Mode(2, "deep"), Mode(1, "deep", False)]


DENOISE = Denoiser(UNET, CONTROL)
PARAMS = {"unet": random_params(UNET)["params"], "control": random_params(CONTROL)["params"]}
INPUTS = draw(2, 1, 3, 4, 6, 4), draw(4, 1, 3, 8, 12, 3), 300, draw(3, 2, 5, 6)


@pytest.mark.parametrize("kind", ["deep", "encoder", "attention", "control", "control+attention"])
def test_features_of_the_same_inputs_change_nothing(kind: str):
    """Catches features that are kept before they are complete, or put back elsewhere; a residual of
    the control branch that is added twice or not at all; and shortcuts that save nothing."""

    def call(reuse, kept):
        return DENOISE.reusing(reuse, kept, PARAMS, *INPUTS, control_scale=2.0)

    plain = jax.jit(DENOISE)(PARAMS, *INPUTS, control_scale=2.0)
    kept_from, kept = jax.jit(partial(call, Reuse(kind)))({})
    taken, same = jax.jit(partial(call, Reuse(kind, False)))(kept)
    np.testing.assert_allclose(kept_from, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taken, plain, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(same) == jax.tree.structure(kept)
    flops = [count_flops(partial(call, Reuse(kind, fresh)), kept) for fresh in (True, False)]
    assert flops[1] < 0.9 * flops[0]


def test_networks_sample_with_shortcuts():
    """The real signature of the networks, with guidance on an interval. Catches halves of features
    that are mixed up when one half is computed: with the same tokens in both halves, guidance and
    its interval change nothing."""
    params = {**PARAMS, "context": jnp.tile(INPUTS[3][:1], (2, 1, 1)), "control_scale": 2.0}
    latents = np.asarray(draw(5, 6, 4, 6, 4))
    poses = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), dtype=np.uint8)
    settings = Sampling(steps=4, window=4, overlap=1, reuse="control+attention")
    run = partial(sample, WindowDenoiser(DENOISE), params, latents, {"poses": poses}, SCHEDULE)
    both = run(settings)
    some = run(settings.updated(guidance_interval=(0.6, 1.0)))
    np.testing.assert_allclose(some, both, rtol=1e-3, atol=1e-3)
