"""The program that the three stages are: settings, devices, data, state, steps, anchor."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches, Load, check_spans, clip_spans
from anchor_jax.errors import AnchorError
from anchor_jax.face import mask
from anchor_jax.models import ControlConfig, UNetConfig, VAEConfig
from anchor_jax.training.loss import Model, by_quarter, draw, losses
from anchor_jax.training.optimizer import make_optimizer
from anchor_jax.training.run import Run

from . import validation
from .configs import FREE, Job, note, settings
from .frozen import NETWORKS, Cached, Encoder, Pictures, cache, keep_mask
from .inputs import check_factor, contents, history, validation_numbers
from .loop import fit, open_devices

STEP_INPUTS = ("posterior", "tokens", "pose", "position", "mask", "masked_posterior")


@dataclass(frozen=True)
class Stage:
    """What is particular to a stage: the anchor's part that it trains and the pictures it sees."""

    name: str
    part: str  # "body" or "face"
    pictures: Pictures


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
    names = [f"{stage.part}/unet", f"{stage.part}/control", *NETWORKS]
    told = {"stage": stage.name, **settings(job), **contents(dataset, header, names)}
    run = Run(job.out, told, FREE)
    try:
        if (job.out / "anchor").exists():
            note(f"{job.out} is complete: its result is {job.out / 'anchor'}")
            return
        anchor = checkpoint.load(job.anchor, networks=names)
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

    def loss(params, key, batch):
        drawn = draw(model, key, batch, jnp.asarray(anchor.empty_text))
        each = losses(model, params, drawn)
        return each.mean(), {"losses": each, "timesteps": drawn.timesteps}

    def validate(params):
        generated = validation.generate(
            model,
            params,
            (encoder.vae, encoder.params["vae"]),
            frames,
            anchor.empty_text,
            num_steps=job.validation_steps,
            guidance=job.guidance,
            control_scale=job.control_scale,
        )
        found = validation.scores(frames, generated)
        return found, validation.grid(frames, generated), found["validation/psnr"]

    params = fit(
        stage.name,
        job,
        run,
        mesh,
        params={name: anchor.params.pop(f"{stage.part}/{name}") for name in ("unet", "control")},
        optimizer=make_optimizer(job.optimizer, job.steps),
        loss=loss,
        batches=batches,
        inputs_of=lambda batch: step_inputs(encoder, batch),
        validate=validate,
        tell=lambda told: by_quarter(
            model, np.asarray(told["losses"]), np.asarray(told["timesteps"])
        ),
    )
    save_anchor(stage, job, run, dataset, params)


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
    if f"{stage.part}/unet" not in anchor.networks:
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
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    sizes = {name: dataset.pictures[name] for name in wanted if name}
    first = sizes[pictures.target]
    told = ", ".join(f"{name} {w}x{h}" for name, (w, h) in sizes.items())
    if any(size != first for size in sizes.values()):
        raise AnchorError(f"{dataset.path} has pictures of different sizes: {told}")
    check_factor(dataset, list(sizes), vae.factor)


def make_model(stage: Stage, job: Job, anchor: Anchor) -> Model:
    """The trained networks of the anchor and how they are computed."""
    unet, control = (anchor.networks[f"{stage.part}/{name}"] for name in ("unet", "control"))
    vae = anchor.networks["vae"]
    assert isinstance(unet, UNetConfig) and isinstance(control, ControlConfig)
    assert isinstance(vae, VAEConfig)
    return Model(
        unet,
        control,
        anchor.schedule,
        vae.scaling_factor,
        dtype=job.dtype,
        remat=job.remat,
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
        inputs["mask"] = mask.to_latents(keep_mask(batch[pictures.mask]), encoder.vae.factor)
    return {name: np.asarray(inputs[name]) for name in STEP_INPUTS if name in inputs}


def validation_frames(job: Job, dataset: Dataset, encoder: Encoder) -> validation.Frames:
    """The frames that grids show, and of each one's clip the first as its reference."""
    numbers = validation_numbers(dataset, job.held_out, job.validation_frames)
    starts = np.asarray(dataset.starts)
    firsts = [int(starts[np.searchsorted(starts, number, "right") - 1]) for number in numbers]
    return validation.load_frames(Load(dataset), encoder, numbers, firsts, job.seed)


def save_anchor(
    stage: Stage, job: Job, run: Run, dataset: Dataset, trained: dict[str, Any]
) -> None:
    """Write RUN/anchor: the anchor it began with, with the trained networks."""
    if not run.is_main:
        return
    others = checkpoint.load(job.anchor, networks=(), dtype=None)
    names = [name for name in others.networks if not name.startswith(f"{stage.part}/")]
    anchor = checkpoint.load(job.anchor, networks=names, dtype=None)
    for name in ("unet", "control"):
        anchor.params[f"{stage.part}/{name}"] = trained[name]
    provenance = history(anchor.provenance, stage.name, job, dataset)
    checkpoint.save(run.folder / "anchor", replace(anchor, provenance=provenance))
    print(f"{run.folder / 'anchor'}: complete; {run.folder / 'report.html'} shows the run")
