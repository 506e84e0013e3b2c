"""Golden C: whole videos in overlapping windows, from pose images to frames."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from anchor_jax.data.video import read_frames
from anchor_jax.diffusion import Sampling, plan_windows, sample
from anchor_jax.diffusion.tasks import Order
from anchor_jax.generation.autoencoder import decode
from anchor_jax.generation.networks import WindowDenoiser, initial_latents
from anchor_jax.generation.pipeline import generate
from anchor_jax.models import Denoiser
from tests.latents import LatentsOfSteps
from tests.torch_side import channels_last, relative

VIDEOS = ["N4_ws16_os4", "N9_ws4_os2", "N11_ws4_os1", "N16_ws16_os4"]


class Recording:
    """One recorded run: `arrays`, and what it was called with."""

    def __init__(self, golden_dir: Path, name: str):
        self.about = json.loads((golden_dir / f"C_video_{name}.json").read_text())
        self.settings = self.about["params"]
        self.arrays = dict(np.load(golden_dir / f"C_video_{name}.npz"))
        self.noise = channels_last(self.arrays["latents_init"])[0]
        self.latents = [channels_last(step)[0] for step in self.arrays["latents_steps"]]
        frames = channels_last(self.arrays["frames"])[0]
        self.frames = (frames * 255).astype(np.uint8)
        self.control_frames = self.arrays["control_frames"].transpose(0, 2, 3, 1)
        self.poses = np.round(self.control_frames * 255).astype(np.uint8)

    def params(self, anchor, empty=None, scale: float = 2.0):
        """The noise predictor's; `empty` replaces the unconditional tokens."""
        empty = anchor.empty_text[None] if empty is None else empty
        return {
            "unet": anchor.body.unet.params,
            "control": anchor.body.control.params,
            "context": jnp.concatenate([empty, self.arrays["prompt_embeds"]]),
            "control_scale": jnp.float32(scale),
        }

    def sample(self, anchor, params, poses, order: Order = "wave") -> list[np.ndarray]:
        """Our latents after every step."""
        steps = LatentsOfSteps(self.noise)
        sample(
            predictor(anchor),
            params,
            jnp.asarray(self.noise),
            {"poses": poses},
            anchor.schedule,
            Sampling(
                steps=self.settings["num_inference_steps"],
                guidance=self.settings["guidance_scale"],
                window=self.settings["window_size"],
                overlap=self.settings["window_overlap"],
            ),
            order=order,
            on_group=steps.add,
        )
        return steps.latents


def predictor(anchor) -> WindowDenoiser:
    return WindowDenoiser(Denoiser(anchor.body.unet.config, anchor.body.control.config))


@pytest.fixture(scope="module")
def nine(golden_dir) -> Recording:
    """Nine frames in five windows, the last two with three frames and one."""
    return Recording(golden_dir, "N9_ws4_os2")


@pytest.mark.parametrize("name", VIDEOS)
def test_latents_after_every_step_and_frames(golden_dir, anchor, name):
    """Catches a tail window that is shifted back, merged or padded with frames that count
    (0.5 %), guidance before averaging with other counts, and rounded instead of truncated
    frames."""
    recording = Recording(golden_dir, name)
    ours = recording.sample(anchor, recording.params(anchor), recording.poses)
    for step, (latents, expected) in enumerate(zip(ours, recording.latents, strict=True)):
        assert relative(latents, expected) < 2e-5, f"step {step}"
    frames = decode(anchor.vae, jnp.asarray(ours[-1])).astype(int)
    assert abs(frames - recording.frames).max() <= 1
    # Almost everywhere they are equal, which rounding would not leave so.
    assert (frames == recording.frames).mean() > 0.99
    in_steps = recording.sample(anchor, recording.params(anchor), recording.poses, "steps")
    np.testing.assert_array_equal(in_steps, ours, "the order of windows changes the result")


def test_each_window_of_the_first_step(nine, anchor):
    """Catches padding frames of a short window that change the real ones, swapped halves of
    guidance, and a shifted tail: it sees other frames."""
    predict = jax.jit(predictor(anchor))
    params, size = nine.params(anchor), nine.settings["window_size"]
    timestep = jnp.asarray(nine.arrays["timesteps"][0])
    for i, window in enumerate(nine.about["windows"]):
        num_real = np.int32(len(window))
        frames = np.resize(window, size)
        condition = {"poses": nine.poses[frames]}
        ours = predict(params, nine.noise[frames], condition, timestep, num_real)
        expected = channels_last(nine.arrays[f"step0_window{i}_eps_uncond_cond"])
        assert relative(ours[:, : len(window)], expected) < 1e-5, f"window {i}"
    condition = {"poses": nine.poses[-size:]}
    shifted = predict(params, nine.noise[-size:], condition, timestep, np.int32(size))
    assert relative(shifted[:, -1:], expected) > 1e-3


@pytest.mark.parametrize("mistake", ["BGR poses", "bilinear poses", "scale 1", "zero negative"])
def test_mistakes_show(nine, anchor, data_dir, mistake):
    """Would the tests above catch them? Each plausible mistake, made on purpose. (Those inside the
    networks are in test_window.py.)"""
    params, poses = nine.params(anchor), nine.poses
    match mistake:
        case "BGR poses":
            poses = np.ascontiguousarray(poses[..., ::-1])
        case "bilinear poses":
            files = [data_dir / "poses" / Path(file).name for file in nine.about["pose_files"]]
            images = [
                Image.open(file).resize((64, 64), Image.Resampling.BILINEAR) for file in files
            ]
            poses = np.stack([np.asarray(image) for image in images])
        case "scale 1":
            params = nine.params(anchor, scale=1.0)
        case "zero negative":
            params = nine.params(anchor, empty=jnp.zeros_like(anchor.empty_text)[None])
    ours = nine.sample(anchor, params, poses)
    assert relative(ours[-1], nine.latents[-1]) > 1e-3


@pytest.mark.parametrize("name", VIDEOS)
def test_pose_images_are_read_and_resized_as_published(golden_dir, data_dir, name):
    """Catches bilinear or bicubic resizing, BGR, width and height swapped."""
    recording = Recording(golden_dir, name)
    size = recording.settings["width"], recording.settings["height"]
    frames, _ = read_frames(data_dir / "poses", size)
    wanted = [int(Path(file).stem) - 1 for file in recording.about["pose_files"]]
    assert np.abs(frames[wanted].astype(int) - recording.control_frames * 255).max() < 1e-3


def test_generate(golden_dir, anchor, nine):
    """Catches an appearance or a noise that reaches only the parts and not the whole."""
    appearance = np.load(golden_dir / "D_clip.npz")["train_reference_values_uint8"]
    frames = generate(
        anchor, nine.poses, appearance, steps=3, window=4, overlap=2, noise=nine.noise
    )
    assert frames.dtype == np.uint8
    assert abs(frames.astype(int) - nine.frames).max() <= 1


def test_window_lists(golden_dir):
    """Catches a last window shifted back, one left out where a frame is covered already, and
    windows that stop at the first that reaches the end."""
    for call, expected in json.loads((golden_dir / "C_extras.json").read_text())["windows"].items():
        n, size, overlap = (int(part.split("=")[1]) for part in call.split(","))
        assert [list(window) for window in plan_windows(n, size, overlap)] == expected, call


def test_one_noise_frame_serves_all(golden_dir):
    """Catches noise drawn per frame where none is given."""
    report = json.loads((golden_dir / "C_extras.json").read_text())["report"]
    assert report["same noise on all frames when latents=None"]
    latents = initial_latents((5, 8, 8, 4))
    assert (latents == latents[:1]).all()
    assert latents[0].std() > 0.5
