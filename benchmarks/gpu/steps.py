"""The compiled programs of generation and training, one by one: time, rate and memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, Part
from anchor_jax.compiling import options
from anchor_jax.diffusion import Sampling, ScheduleConfig
from anchor_jax.diffusion.sample import WINDOWS_PER_CALL, predict_windows
from anchor_jax.generation.autoencoder import PICTURE_BATCH, decode_pixels
from anchor_jax.generation.face import face_sampling
from anchor_jax.generation.networks import WindowDenoiser, denoiser_params
from anchor_jax.models import PER_FRAME, PUBLISHED, Denoiser, Inflation, Remat
from anchor_jax.shapes import Array, Params
from anchor_jax.training.loss import Model, losses, sample_batch
from anchor_jax.training.optimizer import OptimizerConfig, make_optimizer
from anchor_jax.training.step import init_state, make_step
from benchmarks.gpu.report import Section, program_gb, seconds_of
from benchmarks.gpu.scale import Scale, operations, random_images, random_params

_TIMESTEP = 481


@dataclass
class Program:
    """A program to measure.

    Attributes:
        lowered: returns the traced program, which is not compiled yet.
        arguments: what it is called with.
        calls: how many of the measured unit one call computes.
        flops: operations of one unit.
        donates: whether a call replaces its first argument by its first result.
    """

    lowered: Callable[[], Any]
    arguments: list[Any]
    calls: int
    flops: int
    donates: bool = False


def window_program(
    anchor: Anchor, scale: Scale, part: Part, inflation: Inflation = PUBLISHED
) -> Program:
    """Make the program of `sample`'s windows: control branch and UNet, both halves of guidance.

    Args:
        anchor: the anchor.
        scale: sizes.
        part: its body or face. The face's windows are of faces.
        inflation: what spans the frames.
    """
    face = part is anchor.face
    sampling = face_sampling(anchor.settings) if face else scale.sampling
    pixels = scale.face.size if face else scale.pixels
    frames = WINDOWS_PER_CALL * sampling.window
    inputs = _window_inputs(scale, frames, pixels, face)
    windows = jax.tree.map(lambda x: x.reshape(WINDOWS_PER_CALL, -1, *x.shape[1:]), inputs)
    params = _window_params(anchor, scale, part, sampling)
    denoiser = Denoiser(part.unet.config, part.control.config, sampling.dtype, inflation)
    numbers = np.array([_TIMESTEP, sampling.window], np.int32)
    arguments = [params, *windows, *np.repeat(numbers[:, None], WINDOWS_PER_CALL, 1)]
    return Program(
        partial(_lower, predict_windows, WindowDenoiser(denoiser), *arguments),
        arguments,
        WINDOWS_PER_CALL,
        _window_operations(denoiser, params, *inputs, sampling.window),
    )


def _window_inputs(
    scale: Scale, frames: int, pixels: int, face: bool
) -> tuple[Array, dict[str, Array]]:
    """Draw latents and conditions of a group of windows. As in `sample`, they are on the device;
    else JAX would compile another program."""
    side, channels = pixels // scale.vae.factor, scale.vae.latent_channels
    shape = frames, side, side, channels
    latents = np.random.default_rng(1).standard_normal(shape, np.float32)
    condition = {"poses": random_images(frames, pixels)}
    if face:
        more = (*shape[:3], channels + 1)
        condition["inpainting"] = np.random.default_rng(2).standard_normal(more, np.float32)
    return jax.device_put((latents, condition), jax.local_devices()[0])


def _window_params(anchor: Anchor, scale: Scale, part: Part, sampling: Sampling) -> Params:
    """Collect the parameters of the windows, with random appearance tokens."""
    tokens = np.random.default_rng(3).standard_normal(anchor.empty_text.shape, np.float32)
    tokens = jax.device_put(tokens, jax.local_devices()[0])
    return denoiser_params(part, tokens, anchor.empty_text, sampling)


def _window_operations(
    denoiser: Denoiser, params: Params, latents: Array, condition: dict[str, Any], window: int
) -> int:
    """Count the operations of one window."""

    def predict(params: Params, latents: Array, condition: dict[str, Array]) -> Array:
        inpainting = condition.get("inpainting")
        return denoiser(
            params,
            latents[None],
            condition["poses"][None],
            _TIMESTEP,
            params["context"],
            control_scale=params["control_scale"],
            inpainting=None if inpainting is None else inpainting[None],
        )

    cut = jax.tree.map(lambda x: x[:window], (latents, condition))
    return operations(predict, params, *jax.tree.map(_abstract, cut))


def decode_program(anchor: Anchor, scale: Scale) -> Program:
    """Make the decoder's program, for the frames that one call of `decode` takes."""
    latents, _ = _window_inputs(scale, PICTURE_BATCH, scale.pixels, False)
    vae, dtype = anchor.vae, scale.sampling.dtype
    decode = partial(_plain(decode_pixels), vae.config, dtype=dtype, rounded=False)
    return Program(
        partial(_lower, decode_pixels, vae.config, vae.params, latents, dtype, False),
        [vae.params, latents],
        PICTURE_BATCH,
        operations(decode, vae.params, _abstract(latents)) // PICTURE_BATCH,
    )


def training_program(scale: Scale, remat: Remat = "none", dtype: str = "bfloat16") -> Program:
    """Make the training step: loss, gradients, clipping and AdamW, without an EMA."""
    configs = {"unet": scale.unet, "control": scale.control}
    denoiser = Denoiser(scale.unet, scale.control, dtype, PER_FRAME, remat)
    model = Model(denoiser, ScheduleConfig(), scale.vae.scaling_factor)
    optimizer = make_optimizer(OptimizerConfig(), 1000)

    empty_text = jnp.zeros((scale.image_encoder.num_tokens, scale.unet.context_dim))

    def loss(params: Params, key: Array, batch: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        each = losses(model, params, sample_batch(model, key, batch, empty_text))
        return each.mean(), {"losses": each}

    params = {name: random_params(configs[name], i, "float32") for i, name in enumerate(configs)}
    begin = jax.jit(lambda params: init_state(params, optimizer, 0, ema=False), donate_argnums=0)
    state, batch = begin(params), _training_batch(scale)
    compiler = options(training=True)
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0, compiler_options=compiler)
    gradient = lambda params, batch: jax.grad(loss, has_aux=True)(params, jax.random.key(0), batch)
    flops = operations(gradient, jax.tree.map(_abstract, state.params), batch)
    return Program(partial(_lower, step, state, batch), [state, batch], 1, flops, donates=True)


def _training_batch(scale: Scale) -> dict[str, Array]:
    """Draw a batch, with the pictures encoded."""
    rng = np.random.default_rng(4)
    posterior = (scale.batch, scale.side, scale.side, 2 * scale.vae.latent_channels)
    tokens = (scale.batch, scale.image_encoder.num_tokens, scale.unet.context_dim)
    return {
        "posterior": jnp.asarray(rng.standard_normal(posterior, np.float32)),
        "tokens": jnp.asarray(rng.standard_normal(tokens, np.float32)),
        "pose": jnp.asarray(random_images(scale.batch, scale.pixels)),
        "position": jnp.arange(scale.batch),
    }


def measure_steps(
    section: Section, scale: Scale, anchor: Anchor, peak: float | None
) -> tuple[Program, Any]:
    """Compile and measure window step, decoder and face step; return the window step.

    They are compiled at the same time, each in a thread, and go into JAX's compilation cache, where
    `generate` finds them.

    Args:
        section: gets the results.
        scale: sizes.
        anchor: random parameters.
        peak: the device's rate of bfloat16 matrix products in TFLOP/s, if measured.
    """
    section.notes.append(
        "Operations are those of matrix products and convolutions, counted on the traced program"
        " with attention as two products. share: of the measured rate of bfloat16 matrix products."
    )
    assert anchor.face is not None
    per_frame = replace(scale, sampling=replace(scale.sampling, overlap=0))
    programs = {
        "window step": window_program(anchor, scale, anchor.body),
        "decode one frame": decode_program(anchor, scale),
        "face step": window_program(anchor, scale, anchor.face, PER_FRAME),
        "window step, each frame alone": window_program(anchor, per_frame, anchor.body, PER_FRAME),
    }
    with ThreadPoolExecutor(len(programs)) as pool:
        compiling = {name: pool.submit(compile_program, p) for name, p in programs.items()}
    for name, program in programs.items():
        with section.measuring(name) as result:
            result |= _measure(program, compiling[name].result(), peak)
    name, program = next(iter(programs.items()))
    return program, compiling[name].result()


def measure_training(section: Section, scale: Scale, peak: float | None) -> None:
    """Compile and measure a training step, as the presets for 40 GB and for 24 GB compute it."""
    section.notes.append(
        f"Batch {scale.batch}, {scale.pixels} px, bfloat16, parameters and moments float32, no EMA."
    )
    remats: tuple[Remat, ...] = ("none", "all-but-attention")
    for remat in remats:
        if section.out_of_time(f"remat {remat}"):
            continue
        with section.measuring(f"remat {remat}") as result:
            result |= _measure_training(scale, remat, peak)


def _measure_training(scale: Scale, remat: Remat, peak: float | None) -> dict[str, Any]:
    program = training_program(scale, remat)
    result = _measure(program, compile_program(program), peak)
    return result | {"images_per_s": scale.batch / result["seconds"]}


def _lower(jitted: Any, *args: Any, **kwargs: Any) -> Any:
    return jitted.lower(*args, **kwargs)


def _plain(jitted: Any) -> Callable:
    return jitted.__wrapped__


def compile_program(program: Program) -> Any:
    """Compile a program; `program.arguments` are then what it is called with."""
    return program.lowered().compile()


def _measure(program: Program, compiled: Any, peak: float | None) -> dict[str, Any]:
    """Measure a compiled program: seconds of one unit, rate, and the memory it asks for."""

    def call() -> Any:
        result = compiled(*program.arguments)
        if program.donates:
            program.arguments[0] = result[0]
        return result

    seconds = seconds_of(call) / program.calls
    rate = program.flops / seconds / 1e12
    share = {} if peak is None else {"share": rate / peak}
    more = {"tflop": program.flops / 1e12, "tflops": rate, **share}
    return {"seconds": seconds, **more, **program_gb(compiled)}


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
