"""A whole video from end to end, through the library's own `generate`."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion import Sampling, sample
from anchor_jax.generation.autoencoder import decode
from anchor_jax.generation.networks import (
    WindowDenoiser,
    denoiser_params,
    encode_appearance,
    initial_latents,
)
from anchor_jax.generation.pipeline import generate
from anchor_jax.models import PER_FRAME, Denoiser
from anchor_jax.shapes import Images
from benchmarks.gpu.report import Section
from benchmarks.gpu.scale import Scale, faces, random_images

_MARGIN = 1.2  # a run with all steps may take this much longer than expected


def measure_videos(section: Section, scale: Scale, anchor: Anchor) -> None:
    """Measure the seconds of a frame: body alone, with faces, and each frame alone.

    The body is generated with all steps if the time suffices. Otherwise the seconds of all steps
    are calculated from those of few, since they grow linearly with the steps. Each kind of video is
    generated once before, which compiles what is not compiled yet.
    """
    section.notes.append(
        "From pose images in memory to frames in memory. scaled: the seconds of all steps are"
        f" calculated from those of {scale.few[0]} and {scale.few[1]} steps."
    )
    poses, appearance = random_images(scale.frames, scale.pixels), random_images(1, scale.pixels)[0]
    face = faces(scale)
    kinds: dict[str, Callable[[int], object]] = {
        "body alone": lambda steps: generate(anchor, poses, appearance, steps=steps),
        "with faces": lambda steps: generate(anchor, poses, appearance, steps=steps, face=face),
        "body alone, each frame alone": partial(
            _each_frame_alone, scale, anchor, poses, appearance
        ),
    }
    for name, run in kinds.items():
        if not section.out_of_time(name):
            with section.measuring(f"{name}, {scale.sampling.steps} steps") as result:
                result |= _measure(run, scale, section.left() if name == "body alone" else 0)


def _measure(run: Callable[[int], object], scale: Scale, left: float) -> dict[str, object]:
    """Measure one kind of video, with all steps if this takes less than the seconds `left`. `run`
    generates it with a number of steps."""
    few, more = scale.few
    began = time.perf_counter()
    first = _seconds(run, few)
    times = {few: _seconds(run, few), more: _seconds(run, more)}
    slope = (times[more] - times[few]) / (more - few)
    steps = scale.sampling.steps
    seconds = times[few] + slope * (steps - few)
    scaled = _MARGIN * seconds > left - (time.perf_counter() - began)
    if not scaled:
        seconds = _seconds(run, steps)
    return {
        "frames": scale.frames,
        "s_per_frame": seconds / scale.frames,
        "seconds": seconds,
        "scaled": scaled,
        "s_per_step": slope,
        "first_call_s": first,
        **{f"s_{count}_steps": value for count, value in times.items()},
    }


def _seconds(run: Callable[[int], object], steps: int) -> float:
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def _each_frame_alone(
    scale: Scale, anchor: Anchor, poses: Images, appearance: Images, steps: int
) -> Images:
    """Generate as `generate` does, but without attention and norms across frames, and without
    windows that overlap: what ControlNet computes for single pictures."""
    sampling: Sampling = replace(scale.sampling, steps=steps, overlap=0)
    unet, control = anchor.body.unet.config, anchor.body.control.config
    side, channels = scale.side, anchor.vae.config.latent_channels
    tokens = encode_appearance(anchor.image_encoder, appearance)
    latents = sample(
        WindowDenoiser(Denoiser(unet, control, sampling.dtype, PER_FRAME)),
        denoiser_params(anchor.body, tokens, anchor.empty_text, sampling),
        initial_latents((len(poses), side, side, channels)),
        {"poses": poses},
        anchor.schedule,
        sampling,
    )
    return decode(anchor.vae, latents, sampling.dtype)
