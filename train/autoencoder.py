"""A KL autoencoder in our VAE architecture, and around it a small anchor to train.

    python -m train.autoencoder --data seth --out runs/autoencoder

For those who have no Stable Diffusion, or want a model that a laptop can train. The other networks
of the anchor are fresh: drawn at random, the control branch adding nothing yet.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import jit
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches, Load, clip_spans
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.models import VAEConfig, abstract_params, apply, init_params
from anchor_jax.shapes import Params
from anchor_jax.training.optimizer import make_optimizer
from anchor_jax.training.run import Run

from .configs import FREE, note, parse, settings
from .frozen import StagePictures
from .inputs import check_factor, contents, history, validation_numbers
from .loop import fit, open_devices
from .small_anchor import PRESETS, AutoencoderJob, AutoencoderPlaces, make_anchor, make_configs

TEXT = """Train a small autoencoder, and make the anchor that the other stages start from.

    anchor-jax train autoencoder --data data/seth --out runs/autoencoder
    anchor-jax train finetune --preset small --anchor runs/autoencoder/anchor \\
        --data data/seth --out runs/seth

It learns the frames of the data set and, where there are mattes, also people whose background is
cut away, as pretraining sees them. With --anchor a trained autoencoder learns further.

Killed or interrupted, the same command goes on where the last checkpoint is.
"""

CUT = StagePictures(matte="matte")  # people as pretraining sees them
MEASURED = 64  # batches over which the latents' standard deviation is taken


def main(args: Sequence[str] | None = None) -> None:
    """Train, or go on with a run that is there.

    Raises:
        AnchorError: bad input, told in one line; nothing that was there is lost.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    words = sys.argv[1:] if args is None else args
    job = parse(AutoencoderJob, AutoencoderPlaces, PRESETS, "autoencoder", TEXT, words)
    mesh = open_devices(job)
    dataset = datasets.load(job.data)
    config = make_configs(job).vae
    pictures = [name for name in ("target", "face") if name in dataset.pictures]
    check_factor(dataset, pictures, config.factor)
    cut = job.cut if {"target", "matte"} <= set(dataset.pictures) else 0.0
    start = None if job.anchor is None else load_start(job.anchor, config)
    inputs_of_run = contents(dataset, start, ["vae"])
    run = Run(job.out, {"stage": "autoencoder", **settings(job), **inputs_of_run}, FREE)
    try:
        if (job.out / "anchor").exists():
            note(f"{job.out} is complete: its result is {job.out / 'anchor'}")
            return
        inputs = [*pictures, "matte"] if cut else pictures
        with make_batches(job, dataset, inputs) as batches:
            truth = validation_frames(job, dataset, cut > 0)
            params = fit(
                "autoencoder",
                job,
                run,
                mesh,
                shapes={"vae": abstract_params(config)},
                initial=partial(initial_params, job, config),
                optimizer=make_optimizer(job.optimizer, job.steps),
                loss=partial(loss, config, job.kl_weight, cut, pictures),
                batches=batches,
                inputs_of=lambda batch: {n: batch[n] for n in (*inputs, "position")},
                validate=partial(validate, config, truth),
            )
            if run.is_main:
                std = latent_std(config, params["vae"], dataset, batches)
                before = {} if start is None else start.provenance
                anchor = make_anchor(
                    job, params["vae"], 1 / std, history(before, "autoencoder", job, dataset)
                )
                checkpoint.save(run.folder / "anchor", anchor)
                print(f"{run.folder / 'anchor'}: complete; `anchor-jax train` takes it")
    finally:
        run.close()


def load_start(path: Path, config: VAEConfig) -> Anchor:
    """The header of the ANCHOR whose autoencoder learns further. Raises AnchorError for another
    architecture."""
    anchor = checkpoint.load(path, networks=())
    vae = anchor.vae.config
    if replace(vae, scaling_factor=config.scaling_factor) != config:
        raise AnchorError(
            f"{path}: its autoencoder is {vae}, expected {config}; give --channels,"
            " --latent-channels, --layers and --groups as it was trained with"
        )
    return anchor


def initial_params(job: AutoencoderJob, config: VAEConfig) -> dict[str, Params]:
    """Of the autoencoder: an anchor's, or random ones."""
    if job.anchor is None:
        return {"vae": init_params(config, jax.random.key(job.seed))}
    return {"vae": checkpoint.load(job.anchor, networks=["vae"]).vae.params}


def loss(
    config: VAEConfig,
    kl_weight: float,
    cut: float,
    pictures: Sequence[str],
    params: Params,
    key: jax.Array,
    batch: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean squared error of the reconstruction plus the weighted divergence, over all pictures; a
    share `cut` of the targets is without background."""
    if cut:
        batch = batch | {"target": cut_some(cut, jax.random.fold_in(key, len(pictures)), batch)}
    total = jnp.zeros(len(batch["position"]))
    for i, name in enumerate(pictures):
        images = batch[name] / 127.5 - 1
        call = partial(apply, config, params["vae"])
        mean, log_variance = call(images, method="encode")
        noise = jax.vmap(
            lambda position, mean, i=i: jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, i), position), mean.shape
            )
        )(batch["position"], mean)
        out = call(mean + jnp.exp(0.5 * log_variance) * noise, method="decode")
        divergence = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        pixels = images.shape[1] * images.shape[2]
        total += ((out - images) ** 2).mean((1, 2, 3))
        total += kl_weight * divergence.sum((1, 2, 3)) / pixels * config.factor**2
    return total.mean() / len(pictures), {"losses": total / len(pictures)}


def cut_some(share: float, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """The targets; a share of them people alone, on black."""
    draw = jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position)))
    chosen = draw(batch["position"]) < share
    alone = batch["target"] * (batch["matte"][..., None] / 255)
    return jnp.where(chosen[:, None, None, None], alone, batch["target"])


def validate(
    config: VAEConfig, truth: Mapping[str, np.ndarray], params: Params
) -> tuple[dict[str, float], np.ndarray, float]:
    """How well frames are reconstructed: scalars of each kind of frames, pairs of reconstruction
    and truth, and the score, PSNR over all of them."""
    found, columns = {}, []
    for kind, frames in truth.items():
        images = np.concatenate([reconstruct(config, params["vae"], x[None]) for x in frames])
        found[f"validation/psnr{kind}"] = float(psnr(images, frames).mean())
        found[f"validation/ssim{kind}"] = float(ssim(images, frames).mean())
        columns += [np.concatenate(images), np.concatenate(frames)]
    score = float(np.mean([found[f"validation/psnr{kind}"] for kind in truth]))
    return found, np.concatenate(columns, 1), score


def reconstruct(config: VAEConfig, params: Params, images: np.ndarray) -> np.ndarray:
    """Through the posterior's mean: uint8 to uint8 (b, h, w, 3)."""
    return (np.asarray(_reconstruct(config, params, images)) * 255).round().astype(np.uint8)


@partial(jit, static_argnums=0)
def _reconstruct(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    out = apply(config, params, images / 127.5 - 1)
    return jnp.clip(out / 2 + 0.5, 0, 1)


def latent_std(config: VAEConfig, params: Params, dataset: Dataset, batches: Batches) -> float:
    """Standard deviation of the latents about zero, over some batches."""
    total = 0.0
    for _ in range(MEASURED):
        batch = next(batches)
        name = next(name for name in ("target", "face") if name in batch)
        total += float(_mean_square(config, params, batch[name]))
    return (total / MEASURED) ** 0.5


@partial(jit, static_argnums=0)
def _mean_square(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    mean, log_variance = apply(config, params, images / 127.5 - 1, method="encode")
    return (mean**2 + jnp.exp(log_variance)).mean()


def make_batches(job: AutoencoderJob, dataset: Dataset, pictures: Sequence[str]) -> Batches:
    """Pictures alone."""
    return Batches(
        dataset,
        job.batch_size,
        seed=job.seed,
        workers=job.workers,
        spans=clip_spans(dataset, 0.0, 1 - job.held_out),
        pictures=pictures,
    )


def validation_frames(job: AutoencoderJob, dataset: Dataset, cut: bool) -> dict[str, np.ndarray]:
    """The frames that grids show: whole, and without background."""
    numbers = validation_numbers(dataset, job.held_out, job.validation_frames)
    name = next(name for name in ("target", "face") if name in dataset.pictures)
    load = Load(dataset, [name, "matte"] if cut else [name])
    examples = [load((i, i, False)) for i in numbers]
    frames = {"": np.stack([example[name] for example in examples])}
    if cut:
        frames["_cut"] = np.stack([CUT.composed(x["target"], x["matte"]) for x in examples])
    return frames


if __name__ == "__main__":
    main()
