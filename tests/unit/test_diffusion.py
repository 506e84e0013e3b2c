"""Windows, schedule and sampling with a denoiser that is no network."""

import importlib
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.diffusion import (
    Sampling,
    ScheduleConfig,
    ddim_step,
    plan_windows,
    sample,
    sampling_steps,
)
from anchor_jax.diffusion import sample as sample_function
from anchor_jax.diffusion.ddim import clean_and_noise
from anchor_jax.diffusion.tasks import Line
from anchor_jax.diffusion.windows import count_windows, crossfade_weights

SCHEDULE = ScheduleConfig()
sample_module = importlib.import_module("anchor_jax.diffusion.sample")


def counts_of_frames(num_frames: int, weights: np.ndarray, stride: int) -> np.ndarray:
    """The counts of all frames of a video, (n,)."""
    counts = count_windows(weights, stride)
    blocks = -(-num_frames // stride)
    rows = np.minimum(np.arange(blocks), len(counts) - 1)
    return counts[rows].reshape(-1)[:num_frames]


@pytest.mark.parametrize("num_frames", range(1, 30))
@pytest.mark.parametrize(("size", "overlap"), [(4, 0), (4, 1), (4, 3), (16, 4), (1, 0)])
def test_windows_cover_every_frame_in_order(num_frames: int, size: int, overlap: int):
    """Catches missing frames at the end, a shifted last window, or one that starts after the
    end."""
    plan = plan_windows(num_frames, size, overlap)
    assert plan[0].start == 0 and plan[-1].stop == num_frames
    assert all(b.start - a.start == size - overlap for a, b in itertools.pairwise(plan))
    assert all(1 <= len(window) <= size for window in plan)
    counts = counts_of_frames(num_frames, np.ones(size, np.float32), size - overlap)
    inside = np.zeros(num_frames)
    for window in plan:
        inside[window.start : window.stop] += 1
    assert (counts == inside).all()


@pytest.mark.parametrize(("num_frames", "size", "overlap"), [(0, 4, 1), (5, 4, 4), (5, 4, -1)])
def test_impossible_windows_are_refused(num_frames: int, size: int, overlap: int):
    """Catches a loop that does not end, or ends at once."""
    with pytest.raises(ValueError, match=r"frame|overlap"):
        plan_windows(num_frames, size, overlap)


@pytest.mark.parametrize(("size", "overlap"), [(16, 4), (16, 8), (5, 0), (4, 1)])
def test_a_crossfade_is_linear(size: int, overlap: int):
    """Catches ramps that do not fit together. Away from the video's ends the weights of two windows
    add up to one, and that of the second grows by the same step from frame to frame."""
    weights = crossfade_weights(size, overlap)
    total = counts_of_frames(10 * size, weights, size - overlap)
    np.testing.assert_allclose(total[size:-size], 1, rtol=1e-6)
    steps = np.diff(weights[:overlap], prepend=0)
    np.testing.assert_allclose(steps, 1 / (overlap + 1), rtol=1e-6)


def window_mean_denoiser(params, latents, condition, timestep, num_real):
    """Mix frames through their mean over the window, as attention does. The two halves of guidance
    differ."""
    real = (jnp.arange(len(latents)) < num_real)[:, None, None, None]
    mean = (latents * real).sum(0) / real.sum()
    base = jnp.sin(latents + mean * params + timestep / 1000 + condition)
    return jnp.stack([0.5 * base, base])


def reference(latents, condition, num_steps, guidance, window, overlap, crossfade, params=0.3):
    """Compute algorithm 1 of the paper in plain loops over windows without padding."""
    latents = np.asarray(latents, np.float64)
    size = min(window, len(latents))
    for step in sampling_steps(SCHEDULE, num_steps):
        total, count = np.zeros((2, *latents.shape)), np.zeros(len(latents))
        for frames in plan_windows(len(latents), window, overlap):
            part = slice(frames.start, frames.stop)
            num_real = jnp.int32(len(frames))
            predicted = window_mean_denoiser(
                params, jnp.asarray(latents[part]), condition[part], step.timestep, num_real
            )
            for k, frame in enumerate(frames):
                nearest = min(k + 1, size - k)  # places from an end of a whole window
                weight = min(1.0, nearest / (overlap + 1)) if crossfade else 1.0
                total[:, frame] += weight * predicted[:, k]
                count[frame] += weight
        uncond, cond = total / count[:, None, None, None]
        prediction = uncond + guidance * (cond - uncond)
        latents = np.asarray(
            ddim_step(jnp.asarray(latents), jnp.asarray(prediction), step.alpha, step.alpha_prev)
        )
    return latents


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 13, 14, 29])
@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 3), (3, 0)])
@pytest.mark.parametrize("crossfade", [False, True])
def test_sampling_is_algorithm_1(num_frames: int, window: int, overlap: int, crossfade: bool):
    """Catches a group of windows that is cut or added in the wrong place, a padded frame that is
    counted, guidance before the average, swapped halves, and weights of a window that are missing
    in the sum of weights or belong to other frames."""
    rng = np.random.default_rng(num_frames)
    latents = rng.normal(size=(num_frames, 2, 3, 1)).astype(np.float32)
    condition = rng.normal(size=(num_frames, 1, 1, 1)).astype(np.float32)
    done = []
    out = sample(
        window_mean_denoiser,
        0.3,
        latents,
        condition,
        SCHEDULE,
        Sampling(steps=3, guidance=2.5, window=window, overlap=overlap, crossfade=crossfade),
        on_windows=done.append,
    )
    expected = reference(latents, condition, 3, 2.5, window, overlap, crossfade)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert sum(done) == 3 * len(plan_windows(num_frames, window, overlap))


def both_orders(num_frames: int, window: int, overlap: int, steps: int) -> list[np.ndarray]:
    """Sample noise in the two orders of tasks."""
    rng = np.random.default_rng(num_frames)
    latents = rng.normal(size=(num_frames, 2, 1, 1)).astype(np.float32)
    condition = rng.normal(size=(num_frames, 1, 1, 1)).astype(np.float32)
    sampling = Sampling(steps=steps, guidance=2.5, window=window, overlap=overlap)
    run = partial(sample, window_mean_denoiser, 0.3, latents, condition, SCHEDULE, sampling)
    return [np.asarray(run(order="steps")), np.asarray(run(order="wave"))]


@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("window", [(2, 1), (4, 1), (5, 2), (8, 3), (16, 4)])
def test_a_wave_gives_the_same_frames(window: tuple[int, int], steps: int):
    """Catches windows of the wave that read frames of another step, a ring that overwrites frames
    in use, and sums of two steps that mix."""
    rng = np.random.default_rng([*window, steps])
    for num_frames in (*rng.choice(np.arange(1, 16), 2, replace=False), rng.integers(16, 101)):
        in_steps, wave = both_orders(int(num_frames), *window, steps)
        np.testing.assert_array_equal(wave, in_steps, f"{num_frames} frames")


@pytest.mark.slow
@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("window", [(2, 1), (4, 1), (5, 2), (8, 3), (16, 4)])
def test_a_wave_gives_the_same_frames_at_every_length(window: tuple[int, int], steps: int):
    """As above, with every length up to 100 frames."""
    for num_frames in range(1, 101):
        in_steps, wave = both_orders(num_frames, *window, steps)
        np.testing.assert_array_equal(wave, in_steps, f"{num_frames} frames")


def test_blocks_leave_while_others_enter():
    """Catches a wave that reads the whole video before its first frames leave, and one that keeps
    what has left."""
    sampling = Sampling(steps=3, guidance=2.5, window=4, overlap=1)
    reads: list[int] = []

    def blocks():
        for index in range(60):
            reads.append(index)
            noise = np.full((3, 2, 1, 1), index, np.float32)
            yield {"noise": noise, "condition": np.zeros((3, 1, 1, 1), np.float32)}

    sampler = sample_module.Sampler(window_mean_denoiser, 0.3, blocks(), SCHEDULE, sampling)
    finished = (block for blocks in sampler for block in blocks)
    ahead = [len(reads) - index for index, _ in enumerate(finished)]
    assert len(ahead) == 60
    assert max(ahead) <= Line(steps=3, reach=1, group=3).capacity


@pytest.mark.parametrize("lengths", [(3, 2, 3), (3, 4), (3, 0, 3)])
def test_blocks_of_a_wrong_length_are_refused(lengths):
    """Catches frames that are left out or taken twice without a word."""
    zeros = (np.zeros((n, 1, 1, 1)) for n in lengths)
    blocks = ({"noise": x, "condition": x} for x in zeros)
    sampling = Sampling(steps=2, window=4, overlap=1)
    with pytest.raises(ValueError, match="length"):
        list(sample_module.Sampler(window_mean_denoiser, 0.3, blocks, SCHEDULE, sampling))


@pytest.mark.parametrize(
    ("num_frames", "window", "overlap", "steps", "solver"),
    [(40, 4, 1, 4, "ddim"), (23, 5, 3, 3, "unipc"), (17, 4, 0, 2, "ddim")],
)
def test_a_sampler_goes_on_from_any_group(num_frames, window, overlap, steps, solver):
    """Catches a part of the state that is not kept: latents, sums, conditions, the tasks that are
    done, and blocks that are read but not in work. Every group is the last of one sampler."""
    sampling = Sampling(steps, solver, guidance=2.5, window=window, overlap=overlap)
    rng = np.random.default_rng(5)
    frames = rng.standard_normal((2, num_frames, 2, 1, 1)).astype(np.float32)
    starts = range(0, num_frames, sampling.stride)
    cut = lambda x, start: x[start : start + sampling.stride]
    blocks = [{"noise": cut(frames[0], i), "condition": cut(frames[1], i)} for i in starts]

    def start(state=None):
        count = 0 if state is None else int(state["source"]["counts"][0])
        unread = iter(blocks[count:])
        return sample_module.Sampler(
            window_mean_denoiser, 0.3, unread, SCHEDULE, sampling, state=state
        )

    expected = [np.asarray(block) for blocks in start() for block in blocks]
    found, state = [], None
    while len(found) < len(expected):
        sampler = start(state)
        found += [np.asarray(block) for block in next(iter(sampler))]
        state = jax.tree.map(np.array, sampler.state())
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_length_compiles_the_network_once():
    """Catches a length of the video that changes the shapes of the compiled network. A video of few
    windows has another program, whose groups have one window."""
    traced = []

    def denoise(params, latents, condition, timestep, num_real):
        traced.append(latents.shape)
        return latents[None]

    sampling = Sampling(steps=2, window=4, overlap=1, guidance=1.0)
    run = partial(sample, denoise, None, schedule=SCHEDULE, sampling=sampling)
    for lengths in ((13, 41, 14), (5, 4, 6)):
        traced.clear()
        for num_frames in lengths:
            run(latents=np.zeros((num_frames, 1, 1, 1)), condition=np.zeros((num_frames, 1)))
        assert traced == [(4, 1, 1, 1)]


def test_the_program_scans_over_the_windows():
    """Catches windows that are unrolled, which takes longer to compile, or batched, which takes
    more memory."""
    zeros, numbers = jnp.zeros((3, 4, 1, 1, 1)), jnp.zeros(3, jnp.int32)
    predict = partial(sample_module.predict_windows.__wrapped__, window_mean_denoiser, 0.3)
    traced = jax.make_jaxpr(predict)(zeros, zeros, numbers, numbers + 4)
    (scan,) = (line for line in traced.eqns if line.primitive.name == "scan")
    assert scan.params["length"] == 3
    shapes = [variable.shape for variable in scan.params["jaxpr"].in_avals]
    assert shapes.count((4, 1, 1, 1)) == 2  # latents and condition of one window


def test_the_next_windows_are_dispatched_before_a_group_is_waited_for(monkeypatch):
    """Catches a device that idles while the host waits, and a host that runs steps ahead."""
    events = []
    real = sample_module.predict_windows

    def predict_windows(*args, **kwargs):
        events.append("dispatch")
        return real(*args, **kwargs)

    monkeypatch.setattr(sample_module, "predict_windows", predict_windows)
    sampling = Sampling(steps=2, guidance=2.5, window=4, overlap=1)
    zeros = np.zeros((10, 1, 1, 1))  # 4 windows, 4 groups
    denoise = window_mean_denoiser
    sample(denoise, 0.3, zeros, zeros, SCHEDULE, sampling, on_windows=events.append)
    assert events == ["dispatch", "dispatch", 2, "dispatch", 2, "dispatch", 2, 2]


def test_sampling_leaves_its_input_alone():
    """Catches donated buffers that belong to the caller."""
    latents = jnp.ones((3, 1, 1, 1))
    sample_function(
        window_mean_denoiser, 0.3, latents, np.zeros((3, 1, 1, 1)), SCHEDULE, Sampling(steps=2)
    )
    assert (latents == 1).all()


def test_v_prediction_finds_the_same_noise():
    """Catches a wrong sign or factor in v = sqrt(alpha) eps - sqrt(1 - alpha) x_0."""
    x0, eps, alpha = jnp.array([1.5, -2.0]), jnp.array([0.3, 0.7]), jnp.float32(0.36)
    x, v = 0.6 * x0 + 0.8 * eps, 0.6 * eps - 0.8 * x0
    for prediction, kind in ((eps, "epsilon"), (v, "v_prediction")):
        found = clean_and_noise(x, prediction, alpha, kind)
        np.testing.assert_allclose(found, (x0, eps), rtol=1e-5)


@pytest.mark.parametrize("num_steps", [0, 1001, -3])
def test_impossible_numbers_of_steps_are_refused(num_steps: int):
    """Catches an empty loop, which returns noise as the result."""
    with pytest.raises(ValueError, match="num_steps"):
        sampling_steps(SCHEDULE, num_steps)
