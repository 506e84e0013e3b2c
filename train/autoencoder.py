"""Train a KL autoencoder (https://arxiv.org/abs/1312.6114), and make a small anchor with it.

    python -m train.autoencoder --data seth --out runs/autoencoder

The anchor needs no Stable Diffusion weights and is small enough to train on a laptop. Its other
networks have random parameters, and its control branch does not change the UNet's output yet.
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
from anchor_jax.compiling import jit, matmul_precision
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import PICTURES, Dataset
from anchor_jax.data.loader import Batches, Load, clip_spans
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.models import VAEConfig, abstract_params, apply, init_params
from anchor_jax.progress import Progress, bars
from anchor_jax.shapes import Params
from anchor_jax.training.optimizer import make_optimizer
from anchor_jax.training.run import Run

from .configs import FREE, parse, settings, translate
from .frozen import StagePictures
from .inputs import check_factor, contents, history, validation_numbers
from .loop import Task, fit, is_complete, open_devices, save_anchor
from .program import Objective, start_compiling
from .small_anchor import PRESETS, AutoencoderJob, AutoencoderPlaces, make_anchor, make_configs

_HELP = """Train a small autoencoder, and make the anchor that the other stages start from.

    anchor-jax train autoencoder --data data/seth --out runs/autoencoder
    anchor-jax train finetune --preset small --anchor runs/autoencoder/anchor \\
        --data data/seth --out runs/seth

It is trained on the frames of the data set and, if there are mattes, also on frames with the
background removed, as in pretraining. With --anchor, the training of its autoencoder continues.

If the run is stopped, repeat the command to continue from the last checkpoint.
"""

_CUT = StagePictures(matte="matte")  # frames without background, as in pretraining
_STD_BATCHES = 64  # batches that the standard deviation of the latents is computed from


def main(args: Sequence[str] | None = None) -> None:
    """Train the autoencoder, starting or continuing a run, and make the anchor.

    Args:
        args: words of the command line; None takes those of the process.

    Raises:
        AnchorError: bad input; existing files are kept.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    words = sys.argv[1:] if args is None else args
    job = parse(AutoencoderJob, AutoencoderPlaces, PRESETS, "autoencoder", _HELP, words)
    mesh = open_devices(job)
    dataset = datasets.load(job.data)
    config = make_configs(job).vae
    pictures = [name for name in ("target", "face") if name in dataset.pictures]
    check_factor(dataset, pictures, config.factor)
    cut = job.cut if {"target", "matte"} <= set(dataset.pictures) else 0.0
    start = None if job.anchor is None else _load_start(job.anchor, config)
    run_settings = {"stage": "autoencoder", **settings(job), **contents(dataset, start, ["vae"])}
    with Run(job.out, run_settings, FREE, translate) as run:
        if is_complete(job.out):
            return
        inputs = [*pictures, "matte"] if cut else pictures
        sizes = {name: dataset.pictures[name] for name in inputs}
        started = start_compiling(
            Objective(
                {"vae": abstract_params(config)},
                make_optimizer(job.optimizer, job.steps),
                partial(loss, config, job.kl_weight, cut, pictures),
            ),
            job,
            mesh,
            {name: (_shape(name, size), jnp.uint8) for name, size in sizes.items()},
        )
        with (
            _make_batches(job, dataset, inputs) as batches,
            matmul_precision("float32", job.tf32),
        ):
            truth = _validation_frames(job, dataset, cut > 0)
            task = Task(
                "autoencoder",
                started,
                initial=partial(_initial_params, job, config),
                inputs_of=lambda batch: {n: batch[n] for n in (*inputs, "position")},
                validate=partial(validate, config, truth),
            )
            params = fit(task, job, run, mesh, batches)
            if run.is_main:
                std = _latent_std(config, params["vae"], batches, bars())
                before = {} if start is None else start.provenance
                provenance = history(before, "autoencoder", job, dataset)
                anchor = make_anchor(job, params["vae"], 1 / std, provenance, bars())
                save_anchor(run, anchor)
                print(f"{run.folder / 'anchor'}: complete; `anchor-jax train` takes it")


def _shape(name: str, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of a picture of this width and height; mattes have no axis of channels."""
    width, height = size
    return (height, width) if PICTURES[name] == 1 else (height, width, PICTURES[name])


def _load_start(path: Path, config: VAEConfig) -> Anchor:
    """Load the anchor whose autoencoder is trained further, without parameters.

    Raises:
        AnchorError: the autoencoder has another config.
    """
    anchor = checkpoint.load(path, networks=())
    vae = anchor.vae.config
    if replace(vae, scaling_factor=config.scaling_factor) != config:
        raise AnchorError(
            f"{path}: its autoencoder is {vae}, expected {config}; give --channels,"
            " --latent-channels, --layers and --groups as it was trained with"
        )
    return anchor


def _initial_params(job: AutoencoderJob, config: VAEConfig) -> dict[str, Params]:
    """Load the initial parameters from an anchor, or make random ones."""
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
    """Compute the loss: mean squared error of the reconstruction plus weighted KL divergence
    (https://arxiv.org/abs/1312.6114, equation 10), averaged over all pictures.

    Args:
        config: config of the autoencoder.
        kl_weight: weight of the divergence per pixel.
        cut: fraction of the targets whose background is removed.
        pictures: names of the pictures in the batch.
        params: {"vae": parameters}.
        key: PRNG key of the step.
        batch: pictures uint8 (b, h, w, 3), "matte" uint8 (b, h, w) and "position" int (b,).

    Returns:
        The mean, and {"losses": (b,)}.
    """
    if cut:
        cut_key = jax.random.fold_in(key, len(pictures))
        batch = batch | {"target": _remove_backgrounds(cut, cut_key, batch)}
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


def _remove_backgrounds(share: float, key: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
    """Return the targets, with a fraction of them on a black background."""
    uniform = jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position)))
    chosen = uniform(batch["position"]) < share
    alone = batch["target"] * (batch["matte"][..., None] / 255)
    return jnp.where(chosen[:, None, None, None], alone, batch["target"])


def validate(
    config: VAEConfig, truth: Mapping[str, np.ndarray], params: Params
) -> tuple[dict[str, float], np.ndarray, float]:
    """Measure how well frames are reconstructed.

    Args:
        config: config of the autoencoder.
        truth: for each kind of frames its suffix and the frames, uint8 (n, h, w, 3).
        params: {"vae": parameters}.

    Returns:
        Scalars for each kind, a picture of reconstructions beside the truth, and the score: mean
        PSNR.
    """
    scalars, columns = {}, []
    for kind, frames in truth.items():
        images = np.concatenate([reconstruct(config, params["vae"], x[None]) for x in frames])
        scalars[f"validation/psnr{kind}"] = float(psnr(images, frames).mean())
        scalars[f"validation/ssim{kind}"] = float(ssim(images, frames).mean())
        columns += [np.concatenate(images), np.concatenate(frames)]
    score = float(np.mean([scalars[f"validation/psnr{kind}"] for kind in truth]))
    return scalars, np.concatenate(columns, 1), score


def reconstruct(config: VAEConfig, params: Params, images: np.ndarray) -> np.ndarray:
    """Encode and decode images, uint8 (b, h, w, 3), with the mean of the posterior."""
    return (np.asarray(_reconstruct(config, params, images)) * 255).round().astype(np.uint8)


@partial(jit, static_argnums=0)
def _reconstruct(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    out = apply(config, params, images / 127.5 - 1)
    return jnp.clip(out / 2 + 0.5, 0, 1)


def _latent_std(config: VAEConfig, params: Params, batches: Batches, progress: Progress) -> float:
    """Compute the root mean square of the latents over some batches."""
    total = 0.0
    with progress("measuring latents", _STD_BATCHES, "batch") as advance:
        for _ in range(_STD_BATCHES):
            batch = next(batches)
            name = next(name for name in ("target", "face") if name in batch)
            total += float(_mean_square(config, params, batch[name]))
            advance(1)
    return (total / _STD_BATCHES) ** 0.5


@partial(jit, static_argnums=0)
def _mean_square(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    mean, log_variance = apply(config, params, images / 127.5 - 1, method="encode")
    return (mean**2 + jnp.exp(log_variance)).mean()


def _make_batches(job: AutoencoderJob, dataset: Dataset, pictures: Sequence[str]) -> Batches:
    """Open the batches of pictures."""
    return Batches(
        dataset,
        job.batch_size,
        seed=job.seed,
        workers=job.workers,
        spans=clip_spans(dataset, 0.0, 1 - job.held_out),
        pictures=pictures,
    )


def _validation_frames(job: AutoencoderJob, dataset: Dataset, cut: bool) -> dict[str, np.ndarray]:
    """Load the frames of the validation grids: whole, and with `cut` also without background."""
    numbers = validation_numbers(dataset, job.held_out, job.validation_frames)
    name = next(name for name in ("target", "face") if name in dataset.pictures)
    load = Load(dataset, [name, "matte"] if cut else [name])
    examples = [load((i, i, False)) for i in numbers]
    frames = {"": np.stack([example[name] for example in examples])}
    if cut:
        frames["_cut"] = np.stack([_CUT.composed(x["target"], x["matte"]) for x in examples])
    return frames


if __name__ == "__main__":
    main()
