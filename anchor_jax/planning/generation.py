"""The programs of generation, made from sizes alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, Network, Part, Settings
from anchor_jax.checkpoint.parameters import with_types
from anchor_jax.compiling import matmul_precision
from anchor_jax.diffusion import Sampling, num_halves, plan_windows
from anchor_jax.diffusion.sample import frames_in_work, predict_windows, windows_each
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.diffusion.shortcuts import Mode, step_modes
from anchor_jax.diffusion.solvers import solver_steps
from anchor_jax.diffusion.windows import num_windows
from anchor_jax.generation.autoencoder import PICTURE_BATCH, decode_pixels
from anchor_jax.generation.face import face_denoiser, face_sampling
from anchor_jax.generation.networks import WindowDenoiser, body_denoiser, embedding_shape
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    abstract_params,
)
from anchor_jax.planning.estimate import Program
from anchor_jax.planning.flops import count_flops
from anchor_jax.shapes import Params, Size


def published_sizes() -> Anchor:
    """Return an anchor without parameters, whose networks have the sizes of the published ones."""
    unet, latents = UNetConfig(), VAEConfig().latent_channels
    part = lambda channels: Part(
        Network(replace(unet, in_channels=channels)), Network(ControlConfig())
    )
    images = CLIPVisionConfig()
    return Anchor(
        body=part(latents),
        face=part(2 * latents + 1),
        vae=Network(VAEConfig()),
        image_encoder=Network(images),
        text_encoder=Network(CLIPTextConfig()),
        schedule=ScheduleConfig(),
        empty_text=np.zeros((images.num_tokens, images.width), np.float32),
    )


def generation_programs(
    anchor: Anchor, settings: Settings, size: Size, device: Any, face: bool
) -> list[Program]:
    """Make the programs that a frame of a long video needs most time and memory for.

    Args:
        anchor: has the configs of the networks; its parameters are not used.
        settings: settings of the body and of the face, with a type that is not "auto".
        size: width and height of the video.
        device: what they are compiled for; it may be absent.
        face: faces are repainted too.
    """
    sampling = settings.sampling
    body = body_denoiser(anchor.body, sampling.dtype)
    programs = [
        _window_step("window step", anchor, anchor.body, body, sampling, size, device),
        _decoding("decoding", anchor, sampling, size, device),
    ]
    part = anchor.face
    if face and part is not None:
        square, of_face = (settings.face.size, settings.face.size), face_sampling(settings)
        denoise = face_denoiser(part, settings.face, sampling.dtype)
        programs += [
            _window_step("face step", anchor, part, denoise, of_face, square, device),
            _decoding("decoding faces", anchor, sampling, square, device),
        ]
    return programs


def bytes_beside(anchor: Anchor, sampling: Sampling, size: Size) -> int:
    """Return the bytes that generation keeps on the device beside its programs: the image encoder,
    and latents and pose images of the frames in work.

    Args:
        anchor: has the configs of the networks.
        sampling: steps, guidance and windows.
        size: width and height of the video.
    """
    frames = frames_in_work(sampling)
    sums = sampling.steps * num_halves(sampling.guidance) * sampling.overlap  # latents too
    width, height = size
    vae = anchor.vae.config
    latent = 4 * vae.latent_channels * (width // vae.factor) * (height // vae.factor)
    rings = frames * (latent + 3 * width * height) + sums * latent
    return parameter_bytes(anchor.image_encoder.config) + rings


def parameter_bytes(config: NetworkConfig) -> int:
    """Return the bytes of a network's parameters in float32."""
    return sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def step_flops(anchor: Anchor, shape: tuple[int, ...], sampling: Sampling) -> float:
    """Count the floating-point operations of one denoising step of the body, per video frame.

    Args:
        anchor: only its configs are used.
        shape: shape of the pose images (n, h, w, 3).
        sampling: its windows, since frames in two windows are computed twice, and its guidance,
            which doubles the work.
    """
    return _flops_of(anchor, shape, sampling, [Mode(num_halves(sampling.guidance))])


def sampling_flops(anchor: Anchor, shape: tuple[int, ...], sampling: Sampling) -> float:
    """Count the floating-point operations of all denoising steps of the body, per video frame, with
    the shortcuts of the settings; arguments as `step_flops`."""
    steps = solver_steps(anchor.schedule, sampling.steps, sampling.solver, sampling.spacing)
    modes = step_modes(steps, anchor.schedule.num_train_timesteps, sampling)
    return _flops_of(anchor, shape, sampling, modes)


def _flops_of(
    anchor: Anchor, shape: tuple[int, ...], sampling: Sampling, modes: Sequence[Mode]
) -> float:
    """Count the operations of steps of the body with these shortcuts, per video frame."""
    n, height, width, _ = shape
    windows = num_windows(n, sampling.stride)
    short = replace(
        sampling,
        window=min(sampling.window, n),
        overlap=min(sampling.overlap, n - 1),
        dtype="float32",  # any type has the same operations
    )
    inputs = _window_inputs(anchor, anchor.body, short, (width, height), 1)
    denoise = body_denoiser(anchor.body, short.dtype)
    flops = {mode: _window_flops(denoise, inputs, mode) for mode in set(modes)}
    return sum(flops[mode] for mode in modes) * windows / n


def share_computed_again(num_frames: int, sampling: Sampling) -> float:
    """Return how many times each frame is computed beside the first, in one step, on average. With
    overlaps of at most half a window it is the share of frames that are computed twice.

    >>> share_computed_again(13, Sampling(window=4, overlap=1))
    0.3076923076923077
    """
    windows = plan_windows(num_frames, sampling.window, sampling.overlap)
    return sum(map(len, windows)) / num_frames - 1


def _window_step(
    name: str,
    anchor: Anchor,
    part: Part,
    denoise: WindowDenoiser,
    sampling: Sampling,
    size: Size,
    device: Any,
) -> Program:
    """Make one denoising step of a group of windows, as `diffusion.sample` calls it."""
    windows = windows_each(sampling)
    inputs = _window_inputs(anchor, part, sampling, size, windows)
    numbers = jax.ShapeDtypeStruct((windows,), np.int32)

    def step(params, latents, condition, timesteps, num_real):
        with matmul_precision(sampling.dtype, sampling.tf32):
            return predict_windows.__wrapped__(
                denoise, params, latents, condition, timesteps, num_real
            )

    return Program(
        f"{name}, {windows} windows" if windows > 1 else name,
        jax.jit(step),
        _on(device, (*inputs, numbers, numbers)),
        # In every step, a frame of a long video is in window / stride windows. All devices call the
        # program at once.
        calls=sampling.steps / (windows * (sampling.devices or 1) * sampling.stride),
        flops=float(windows * _window_flops(denoise, inputs, Mode(num_halves(sampling.guidance)))),
    )


def _window_inputs(
    anchor: Anchor, part: Part, sampling: Sampling, size: Size, windows: int
) -> tuple[Any, ...]:
    """Return the shapes of parameters, latents and conditions of so many windows."""
    array = jax.ShapeDtypeStruct
    unet, vae = part.unet.config, anchor.vae.config
    width, height = size
    latent = height // vae.factor, width // vae.factor
    params = {
        "unet": _loaded(unet, sampling.dtype),
        "control": _loaded(part.control.config, sampling.dtype),
        "context": array((num_halves(sampling.guidance), *anchor.empty_text.shape), np.float32),
        "control_scale": array((), np.float32),
    }
    frames = windows, sampling.window
    denoiser = body_denoiser(part, sampling.dtype).denoiser  # the face's has the same shapes
    condition = {"poses": array((*frames, height, width, 3), np.uint8)}
    if embedding := embedding_shape(denoiser, sampling, height, width):
        condition = {"embedding": array((*frames, *embedding), sampling.dtype)}
    if channels := unet.in_channels - vae.latent_channels:
        condition["inpainting"] = array((*frames, *latent, channels), np.float32)
    return params, array((*frames, *latent, vae.latent_channels), np.float32), condition


def _window_flops(denoise: WindowDenoiser, inputs: tuple[Any, ...], mode: Mode) -> int:
    """Count the operations of one window, the first of `inputs`, with the shortcuts of a step."""

    def predict(mode, kept, params, latents, condition):
        window = latents[0], jax.tree.map(lambda x: x[0], condition)
        numbers = jnp.int32(0), jnp.int32(latents.shape[1])
        return denoise.shortcut(mode, kept, params, *window, *numbers)

    kept = {}
    if not mode.fresh:
        fresh = partial(predict, mode._replace(fresh=True), {})
        kept = jax.eval_shape(fresh, *inputs)[1]
    return count_flops(partial(predict, mode), kept, *inputs)


def _decoding(name: str, anchor: Anchor, sampling: Sampling, size: Size, device: Any) -> Program:
    """Make the decoding of a few frames."""
    config = anchor.vae.config
    latents = PICTURE_BATCH, size[1] // config.factor, size[0] // config.factor

    def decode(params, latents):
        with matmul_precision(sampling.dtype, sampling.tf32):
            return decode_pixels.__wrapped__(config, params, latents, sampling.dtype, False)

    shapes = jax.ShapeDtypeStruct((*latents, config.latent_channels), np.float32)
    return Program(
        f"{name}, {PICTURE_BATCH} frames",
        jax.jit(decode),
        _on(device, (_loaded(config, sampling.dtype), shapes)),
        calls=1 / (PICTURE_BATCH * (sampling.devices or 1)),
    )


def _loaded(config: NetworkConfig, dtype: str) -> Params:
    """Return the shapes of parameters as generation loads them: kernels in the type."""
    return with_types(abstract_params(config), jnp.float32, dtype)


def _on(device: Any, shapes: Any) -> Any:
    """Put the arguments of a program on a device."""
    place = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes
    )
