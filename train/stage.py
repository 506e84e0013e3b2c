"""The program that the three stages are: settings, devices, data, state, steps, anchor."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor, Part, Settings, check_stored
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches, Load, check_spans, clip_spans
from anchor_jax.diffusion import Sampling
from anchor_jax.errors import AnchorError
from anchor_jax.face import mask
from anchor_jax.generation.face import face_sampling
from anchor_jax.models import PER_FRAME, Denoiser, abstract_params
from anchor_jax.shapes import Params
from anchor_jax.training.loss import Model, by_quarter, draw, losses
from anchor_jax.training.optimizer import make_optimizer
from anchor_jax.training.run import Run

from . import validation
from .configs import FREE, Job, note, settings
from .frozen import NETWORKS, Cached, Encoder, StagePictures, cache, keep_mask
from .inputs import check_factor, contents, history, validation_numbers
from .loop import fit, open_devices

STEP_INPUTS = ("posterior", "tokens", "pose", "position", "mask", "masked_posterior")


@dataclass(frozen=True)
class Stage:
    """What is particular to a stage of training: the anchor's part and the pictures it sees."""

    name: str
    part: Literal["body", "face"]
    pictures: StagePictures


def train(stage: Stage, job: Job) -> None:
    """Train until the last step, or go on with a run that is there.

    Raises:
        AnchorError: bad input, told in one line; nothing that was there is lost.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    join_processes(job.coordinator)
    mesh = open_devices(job)
    dataset = datasets.load(job.data)
    header = checkpoint.load(job.anchor, networks=())
    check_data(stage, job.anchor, dataset, header)
    check_spans(dataset, clip_spans(dataset, 0.0, 1 - job.held_out))
    job = with_anchor_settings(stage, job, header)
    names = [f"{stage.part}/unet", f"{stage.part}/control", *NETWORKS]
    decisive = {"stage": stage.name, **settings(job), **contents(dataset, header, names)}
    run = Run(job.out, decisive, FREE)
    try:
        if (job.out / "anchor").exists():
            note(f"{job.out} is complete: its result is {job.out / 'anchor'}")
            return
        check_stored(job.anchor, names)
        anchor = checkpoint.load(job.anchor, networks=NETWORKS)
        pictures = replace(stage.pictures, background=job.background)
        encoder = Encoder(anchor, pictures)
        encodings = cache(encoder, dataset, job.encodings) if job.cached else None
        more = None if encodings is None else Cached(encodings)
        with make_batches(job, dataset, encoder, more) as batches:
            _train(stage, job, run, mesh, dataset, anchor, encoder, batches)
    finally:
        run.close()


def _train(
    stage: Stage,
    job: Job,
    run: Run,
    mesh: Mesh,
    dataset: Dataset,
    anchor: Anchor,
    encoder: Encoder,
    batches: Batches,
) -> None:
    model = make_model(stage, job, anchor)
    frames = validation_frames(job, dataset, encoder)
    recommended = new_settings(stage, job, dataset, anchor.settings)
    sampling = sampling_of(stage, recommended).updated(steps=job.validation_steps)

    def loss(params, key, batch):
        drawn = draw(model, key, batch, jnp.asarray(anchor.empty_text))
        each = losses(model, params, drawn)
        return each.mean(), {"losses": each, "timesteps": drawn.timesteps}

    def validate(params):
        generated = validation.generate(
            model, params, encoder.vae, frames, anchor.empty_text, sampling
        )
        found = validation.scores(frames, generated)
        return found, validation.grid(frames, generated), found["validation/psnr"]

    params = fit(
        stage.name,
        job,
        run,
        mesh,
        shapes={
            "unet": abstract_params(model.denoiser.unet),
            "control": abstract_params(model.denoiser.control),
        },
        initial=lambda: load_part(stage, job.anchor),
        optimizer=make_optimizer(job.optimizer, job.steps),
        loss=loss,
        batches=batches,
        inputs_of=lambda batch: step_inputs(encoder, batch),
        validate=validate,
        scalars_of=lambda step: by_quarter(
            model, np.asarray(step["losses"]), np.asarray(step["timesteps"])
        ),
    )
    save_anchor(stage, job, run, dataset, recommended, params)


def with_anchor_settings(stage: Stage, job: Job, anchor: Anchor) -> Job:
    """The job with the anchor's guidance, control scale and steps where it has none."""
    sampling = sampling_of(stage, anchor.settings)
    sampling = sampling.updated(guidance=job.guidance, control_scale=job.control_scale)
    steps = sampling.steps if job.validation_steps is None else job.validation_steps
    return replace(
        job,
        guidance=sampling.guidance,
        control_scale=sampling.control_scale,
        validation_steps=steps,
    )


def sampling_of(stage: Stage, recommended: Settings) -> Sampling:
    """The sampling of the stage's part."""
    return recommended.sampling if stage.part == "body" else face_sampling(recommended)


def new_settings(stage: Stage, job: Job, dataset: Dataset, before: Settings) -> Settings:
    """What the trained anchor recommends: the settings of the one before, with the scales of this
    run's grids and, for the face, crops of the data set's size that are not squashed."""
    scales = {"guidance": job.guidance, "control_scale": job.control_scale}
    if stage.part == "body":
        return replace(before, sampling=before.sampling.updated(**scales))
    size = dataset.pictures[stage.pictures.target][0]
    return replace(before, face=before.face.updated(**scales, size=size, fit="crop"))


def load_part(stage: Stage, path: Path) -> dict[str, Params]:
    """The parameters that are trained, from the ANCHOR at `path`."""
    anchor = checkpoint.load(path, networks=[f"{stage.part}/unet", f"{stage.part}/control"])
    part = anchor.part(stage.part)
    assert part is not None, "check_data has seen it"
    return {"unet": part.unet.params, "control": part.control.params}


def join_processes(coordinator: str | None) -> None:
    """Meet the other processes at HOST:PORT,COUNT,INDEX."""
    if coordinator is None:
        return
    try:
        address, count, index = coordinator.split(",")
        numbers = int(count), int(index)
    except ValueError:
        raise AnchorError(
            f"--coordinator {coordinator}: expected HOST:PORT,COUNT,INDEX, such as"
            " 10.0.0.1:9876,2,0"
        ) from None
    jax.distributed.initialize(address, *numbers)


def check_data(stage: Stage, path: Path, dataset: Dataset, anchor: Anchor) -> None:
    """Raise AnchorError unless the ANCHOR at `path` has the networks and the data set the pictures
    that the stage needs, in sizes that fit."""
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
        found = ", ".join(f"{name} {w}x{h}" for name, (w, h) in sizes.items())
        raise AnchorError(f"{dataset.path} has pictures of different sizes: {found}")
    check_factor(dataset, list(sizes), anchor.vae.config.factor)


def make_model(stage: Stage, job: Job, anchor: Anchor) -> Model:
    """The trained networks of the anchor and how they are computed."""
    part = anchor.part(stage.part)
    assert part is not None, "check_data has seen it"
    unet, control = part.unet.config, part.control.config
    return Model(
        Denoiser(unet, control, job.dtype, PER_FRAME, job.remat),
        anchor.schedule,
        anchor.vae.config.scaling_factor,
        drop_condition=job.drop_condition,
        min_snr=job.min_snr or None,
    )


def make_batches(job: Job, dataset: Dataset, encoder: Encoder, more: Cached | None) -> Batches:
    """This process's share of the batches, with what is cached where anything is."""
    pictures = encoder.pictures
    names = [pictures.pose, pictures.mask]
    if more is None:
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
        more=more,
    )


def step_inputs(encoder: Encoder, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch as the step takes it; what is not cached is encoded now."""
    pictures = encoder.pictures
    inputs: dict[str, Any] = dict(batch)
    inputs["pose"] = batch[pictures.pose]
    if "posterior" not in inputs:
        names = [name for name in batch if name not in {"index", "reference_index", "position"}]
        examples = [{name: batch[name][i] for name in names} for i in range(len(batch["index"]))]
        inputs |= encoder.encode(*validation.compose(encoder, examples))
    if pictures.mask is not None:
        inputs["mask"] = mask.to_latents(keep_mask(batch[pictures.mask]), encoder.vae.config.factor)
    return {name: np.asarray(inputs[name]) for name in STEP_INPUTS if name in inputs}


def validation_frames(job: Job, dataset: Dataset, encoder: Encoder) -> validation.GridFrames:
    """The frames that grids show, and of each one's clip the first as its reference."""
    numbers = validation_numbers(dataset, job.held_out, job.validation_frames)
    starts = np.asarray(dataset.starts)
    firsts = [int(starts[np.searchsorted(starts, number, "right") - 1]) for number in numbers]
    return validation.load_frames(Load(dataset), encoder, numbers, firsts, job.seed)


def save_anchor(
    stage: Stage,
    job: Job,
    run: Run,
    dataset: Dataset,
    recommended: Settings,
    trained: dict[str, Params],
) -> None:
    """Write RUN/anchor: the anchor that the run began with, with the trained networks."""
    if not run.is_main:
        return
    names = checkpoint.load(job.anchor, networks=()).networks()
    others = [name for name in names if not name.startswith(f"{stage.part}/")]
    anchor = checkpoint.load(job.anchor, networks=others, dtype=None)
    before = anchor.part(stage.part)
    assert before is not None, "check_data has seen it"
    part = Part(
        replace(before.unet, params=trained["unet"]),
        replace(before.control, params=trained["control"]),
    )
    made = replace(
        anchor,
        body=part if stage.part == "body" else anchor.body,
        face=part if stage.part == "face" else anchor.face,
        settings=recommended,
        provenance=history(anchor.provenance, stage.name, job, dataset),
    )
    checkpoint.save(run.folder / "anchor", made)
    print(f"{run.folder / 'anchor'}: complete; {run.folder / 'report.html'} shows the run")
