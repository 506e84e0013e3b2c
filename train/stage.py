"""Run a stage of training: settings, devices, data, state, steps and the resulting anchor."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor, Part, Settings, check_stored
from anchor_jax.compiling import matmul_precision, resolve_dtype
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches, Load, check_spans, clip_spans
from anchor_jax.devices import join_processes
from anchor_jax.diffusion import Sampling
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.network_scores import NetworkScores
from anchor_jax.face import mask
from anchor_jax.generation.face import face_sampling
from anchor_jax.models import PER_FRAME, Denoiser, abstract_params
from anchor_jax.shapes import Params
from anchor_jax.training.loss import Model, by_quarter, losses, sample_batch
from anchor_jax.training.optimizer import make_optimizer
from anchor_jax.training.run import Run

from . import validation
from .configs import FREE, PRESETS, Config, Job, StagePlaces, parse, settings, translate
from .frozen import NETWORKS, Cached, Encoder, StagePictures, cache, keep_mask
from .inputs import (
    check_factor,
    contents,
    first_picture,
    history,
    measure_framing,
    validation_numbers,
)
from .loop import Task, fit, is_complete, open_devices, save_anchor
from .program import Objective, Started, start_compiling

_HELP = """If the run is stopped, repeat the command to continue from the last checkpoint.
The result is RUN/anchor; RUN/report.html shows curves and pictures, and TensorBoard reads
RUN/events.
"""
_STEP_INPUTS = ("posterior", "tokens", "pose", "position", "mask", "masked_posterior")


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        name: the command after `anchor-jax train`.
        part: the part of the anchor that is trained.
        pictures: the pictures of a data set that it is trained on.
    """

    name: str
    part: Literal["body", "face"]
    pictures: StagePictures


def run_stage(stage: Stage, text: str, args: Sequence[str] | None) -> None:
    """Train a stage to its last step, starting or continuing a run.

    Args:
        stage: the stage.
        text: the first part of its help.
        args: words of the command line; None takes those of the process.

    Raises:
        AnchorError: bad input; existing files are kept.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    words = sys.argv[1:] if args is None else args
    text = f"{text}\n{_HELP}"
    _train(stage, parse(Job, StagePlaces, PRESETS[stage.name], stage.name, text, words))


def _train(stage: Stage, job: Job) -> None:
    """Train to the last step, see `run_stage`."""
    join_processes(job.coordinator)
    mesh = open_devices(job)
    dataset = datasets.load(job.data)
    header = checkpoint.load(job.anchor, networks=())
    _check_data(stage, job.anchor, dataset, header)
    check_spans(dataset, clip_spans(dataset, 0.0, 1 - job.held_out))
    job = replace(_with_anchor_settings(stage, job, header), dtype=resolve_dtype(job.dtype))
    trained = [f"{stage.part}/unet", f"{stage.part}/control"]
    inputs = contents(dataset, header, [*trained, *NETWORKS])
    run_settings = {"stage": stage.name, **settings(job), **inputs}
    with Run(job.out, run_settings, FREE, translate) as run:
        if is_complete(job.out):
            return
        check_stored(job.anchor, trained)  # the others are loaded now
        started = start_compiling(  # goes on while frames are encoded
            make_objective(make_model(stage, job, header), header.empty_text, job),
            job,
            mesh,
            example_shapes(stage, header, dataset.pictures[stage.pictures.target]),
        )
        anchor = checkpoint.load(job.anchor, networks=NETWORKS)
        pictures = replace(stage.pictures, background=job.background)
        encoder = Encoder(anchor, pictures, job.tf32)
        encodings = cache(encoder, dataset, job.encodings) if job.cached else None
        cached = None if encodings is None else Cached(encodings)
        with (
            _make_batches(job, dataset, encoder, cached) as batches,
            matmul_precision(job.dtype, job.tf32),
        ):
            _fit_stage(stage, job, run, mesh, dataset, anchor, encoder, batches, started)


def _fit_stage(
    stage: Stage,
    job: Job,
    run: Run,
    mesh: Mesh,
    dataset: Dataset,
    anchor: Anchor,
    encoder: Encoder,
    batches: Batches,
    started: Started,
) -> None:
    """Train the networks and save the anchor."""
    model = make_model(stage, job, anchor)
    validation_frames = functools.cache(
        functools.partial(_validation_frames, job, dataset, encoder)
    )
    networks = functools.cache(NetworkScores)
    recommended = _new_settings(stage, job, dataset, anchor.settings)
    sampling = _sampling(stage, recommended).updated(steps=job.validation_steps)

    def validate(params):
        frames = validation_frames()  # read and encoded when they are needed first
        generated = validation.generate(
            model, params, encoder.vae, frames, anchor.empty_text, sampling
        )
        scores = validation.scores(frames, generated, networks())
        return scores, validation.grid(frames, generated), scores["validation/psnr"]

    task = Task(
        stage.name,
        started,
        initial=lambda: _load_part(stage, job.anchor),
        inputs_of=lambda batch: _step_inputs(encoder, batch),
        validate=validate,
        scalars_of=lambda metrics: by_quarter(
            model, np.asarray(metrics["losses"]), np.asarray(metrics["timesteps"])
        ),
    )
    params = fit(task, job, run, mesh, batches)
    _save_anchor(stage, job, run, dataset, recommended, params)


def _with_anchor_settings(stage: Stage, job: Job, anchor: Anchor) -> Job:
    """Fill in guidance, control scale and validation steps from the anchor if they are None."""
    sampling = _sampling(stage, anchor.settings).updated(
        guidance=job.guidance, control_scale=job.control_scale, steps=job.validation_steps
    )
    return replace(
        job,
        guidance=sampling.guidance,
        control_scale=sampling.control_scale,
        validation_steps=sampling.steps,
    )


def _sampling(stage: Stage, recommended: Settings) -> Sampling:
    """Return the recommended sampling settings of the stage's part."""
    return recommended.sampling if stage.part == "body" else face_sampling(recommended)


def _new_settings(stage: Stage, job: Job, dataset: Dataset, before: Settings) -> Settings:
    """Make the settings that the trained anchor recommends.

    They are those of the start anchor with the scales of this run's validation grids. For the face
    also the size is that of the data set, and pictures are cropped, not squashed.
    """
    scales = {"guidance": job.guidance, "control_scale": job.control_scale}
    if stage.part == "body":
        return replace(before, sampling=before.sampling.updated(**scales))
    size = dataset.pictures[stage.pictures.target][0]
    return replace(before, face=before.face.updated(**scales, size=size, fit="crop"))


def _load_part(stage: Stage, path: Path) -> dict[str, Params]:
    """Load the parameters that the stage trains from the ANCHOR at `path`."""
    anchor = checkpoint.load(path, networks=[f"{stage.part}/unet", f"{stage.part}/control"])
    part = anchor.part(stage.part)
    assert part is not None, "_check_data checks this"
    return {"unet": part.unet.params, "control": part.control.params}


def _check_data(stage: Stage, path: Path, dataset: Dataset, anchor: Anchor) -> None:
    """Check that the anchor has the networks, and the data set the pictures, that the stage needs.

    Raises:
        AnchorError: a part or a picture is missing, or sizes do not fit.
    """
    pictures = stage.pictures
    if anchor.part(stage.part) is None:
        raise AnchorError(
            f"{path} has no {stage.part}/unet: convert the ANCHOR with --face, or make one with"
            " anchor-jax train autoencoder"
        )
    wanted = [pictures.target, pictures.pose, pictures.matte, pictures.mask]
    missing = [name for name in wanted if name and name not in dataset.pictures]
    if missing:
        raise AnchorError(
            f"{dataset.path} has no {', '.join(missing)}, which {stage.name} needs; prepare it"
            " with " + ("mattes (--mattes, --green-screen)" if "matte" in missing else "them")
        )
    sizes = {name: dataset.pictures[name] for name in wanted if name}
    first = sizes[pictures.target]
    if any(size != first for size in sizes.values()):
        listing = ", ".join(f"{name} {w}x{h}" for name, (w, h) in sizes.items())
        raise AnchorError(f"{dataset.path} has pictures of different sizes: {listing}")
    check_factor(dataset, list(sizes), anchor.vae.config.factor)


def make_model(stage: Stage, job: Config, anchor: Anchor) -> Model:
    """Make the model: the networks that are trained, and the options of the loss."""
    part = anchor.part(stage.part)
    assert part is not None, "_check_data checks this"
    unet, control = part.unet.config, part.control.config
    return Model(
        Denoiser(unet, control, resolve_dtype(job.dtype), PER_FRAME, job.remat),
        anchor.schedule,
        anchor.vae.config.scaling_factor,
        drop_condition=job.drop_condition,
        min_snr=job.min_snr or None,
    )


def make_objective(model: Model, empty_text: np.ndarray, job: Config) -> Objective:
    """Make what a step computes: the denoising loss of both networks, and AdamW."""

    def loss(params, key, batch):
        sampled = sample_batch(model, key, batch, jnp.asarray(empty_text))
        each = losses(model, params, sampled)
        return each.mean(), {"losses": each, "timesteps": sampled.timesteps}

    return Objective(
        {
            "unet": abstract_params(model.denoiser.unet),
            "control": abstract_params(model.denoiser.control),
        },
        make_optimizer(job.optimizer, job.steps),
        loss,
        model.denoiser.dtype,
    )


def example_shapes(
    stage: Stage, anchor: Anchor, size: tuple[int, int]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of one example of each input of a step."""
    width, height = size
    vae, images = anchor.vae.config, anchor.image_encoder.config
    small = height // vae.factor, width // vae.factor
    posterior = (*small, 2 * vae.latent_channels), jnp.float32
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "posterior": posterior,
        "tokens": ((images.num_tokens, images.width), jnp.float32),
        "pose": ((height, width, 3), jnp.uint8),
    }
    if stage.pictures.mask is not None:
        shapes |= {"mask": ((*small, 1), jnp.float32), "masked_posterior": posterior}
    return shapes


def _make_batches(job: Job, dataset: Dataset, encoder: Encoder, cached: Cached | None) -> Batches:
    """Open the batches of this process.

    Args:
        job: the settings.
        dataset: the data set.
        encoder: its pictures are read unless their encodings are cached.
        cached: the cached encodings, or None.
    """
    pictures = encoder.pictures
    names = [pictures.pose, pictures.mask]
    if cached is None:
        names += [pictures.target, pictures.reference, pictures.matte]
        names += [pictures.matte and "reference_matte"]
    return Batches(
        dataset,
        job.batch_size // jax.process_count(),
        seed=job.seed,
        flip=job.flip,
        workers=job.workers,
        process=(jax.process_index(), jax.process_count()),
        spans=clip_spans(dataset, 0.0, 1 - job.held_out),
        pictures=[name for name in names if name],
        more=cached,
    )


def _step_inputs(encoder: Encoder, batch: dict[str, np.ndarray]) -> dict[str, ArrayLike]:
    """Make the inputs of a training step from a batch. What is not cached is encoded now, and stays
    on the device."""
    pictures = encoder.pictures
    inputs: dict[str, Any] = dict(batch)
    inputs["pose"] = batch[pictures.pose]
    if "posterior" not in inputs:
        names = [name for name in batch if name not in {"index", "reference_index", "position"}]
        examples = [{name: batch[name][i] for name in names} for i in range(len(batch["index"]))]
        inputs |= encoder.encode(*validation.compose(encoder, examples))
    if pictures.mask is not None:
        inputs["mask"] = mask.to_latents(keep_mask(batch[pictures.mask]), encoder.vae.config.factor)
    return {name: inputs[name] for name in _STEP_INPUTS if name in inputs}


def _validation_frames(job: Job, dataset: Dataset, encoder: Encoder) -> validation.GridFrames:
    """Load the frames of the validation grids; the reference is the first frame of the clip."""
    numbers = validation_numbers(dataset, job.held_out, job.validation_frames)
    starts = np.asarray(dataset.starts)
    firsts = [int(starts[np.searchsorted(starts, number, "right") - 1]) for number in numbers]
    return validation.load_frames(Load(dataset), encoder, numbers, firsts, job.seed)


def _save_anchor(
    stage: Stage,
    job: Job,
    run: Run,
    dataset: Dataset,
    recommended: Settings,
    trained: dict[str, Params],
) -> None:
    """Write RUN/anchor: the start anchor with the trained networks and the recommended settings."""
    if not run.is_main:
        return
    names = checkpoint.load(job.anchor, networks=()).networks()
    others = [name for name in names if not name.startswith(f"{stage.part}/")]
    anchor = checkpoint.load(job.anchor, networks=others, dtype=None)
    before = anchor.part(stage.part)
    assert before is not None, "_check_data checks this"
    part = Part(
        replace(before.unet, params=trained["unet"]),
        replace(before.control, params=trained["control"]),
    )
    result = replace(
        anchor,
        body=part if stage.part == "body" else anchor.body,
        face=part if stage.part == "face" else anchor.face,
        settings=recommended,
        framing=measure_framing(dataset) if stage.part == "body" else anchor.framing,
        appearance=first_picture(dataset) if stage.name == "finetune" else anchor.appearance,
        provenance=history(anchor.provenance, stage.name, job, dataset),
    )
    save_anchor(run, result)
    print(f"{run.folder / 'anchor'}: complete; {run.folder / 'report.html'} shows the run")
