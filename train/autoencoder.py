"""A KL autoencoder in our VAE architecture, and around it a small anchor to train.

    python -m train.autoencoder --data seth --out runs/autoencoder

For those who have no Stable Diffusion, or want a model that a laptop can train. The other networks
of the anchor are fresh: drawn at random, the control branch adding nothing yet.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, arg

from anchor_jax import checkpoint
from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import jit
from anchor_jax.data import dataset as datasets
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.loader import Batches, Load, clip_spans
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.fresh import fresh_control, fresh_control_config
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    apply,
    init_params,
)
from anchor_jax.shapes import Params
from anchor_jax.training.optimizer import OptimizerConfig, make_optimizer
from anchor_jax.training.run import Run

from .configs import FREE, LoopConfig, note, preset_of, settings
from .loop import fit, open_devices
from .validation import choose, held_out_spans

TEXT = """Train a small autoencoder, and make the anchor that the other stages start from.

    anchor-jax train autoencoder --data data/seth --out runs/autoencoder
    anchor-jax train finetune --preset small --anchor runs/autoencoder/anchor \\
        --data data/seth --out runs/seth

Killed or interrupted, the same command goes on where the last checkpoint is.
"""

MEASURED = 64  # batches over which the latents' standard deviation is taken


@dataclass(frozen=True)
class AutoencoderConfig(LoopConfig):
    """Settings of the autoencoder and sizes of all networks of the anchor.

    Attributes:
        kl_weight: of the posterior's divergence from a standard normal distribution, per pixel
            of the image, beside the mean absolute error.
        channels: of the autoencoder's levels, finest first; its factor is 2^(levels - 1).
        latent_channels: of the latents.
        layers: residual blocks a level.
        unet_channels: of the UNet's levels, finest first.
        unet_attention: for each of those, whether it has transformers.
        unet_layers: residual blocks a level.
        heads: attention heads.
        groups: of every group normalisation.
        image_size: pixels of the appearance picture that the image encoder sees.
        patch_size: pixels a token.
        image_width: width of the tokens.
        image_layers: layers of the image encoder.
        prediction_type: what the UNet predicts; small models learn v sooner.
    """

    kl_weight: float = 1e-6
    channels: tuple[int, ...] = (32, 64, 96)
    latent_channels: int = 4
    layers: int = 1
    unet_channels: tuple[int, ...] = (64, 96, 128)
    unet_attention: tuple[bool, ...] = (False, True, True)
    unet_layers: int = 1
    heads: int = 4
    groups: int = 8
    image_size: int = 128
    patch_size: int = 16
    image_width: int = 64
    image_layers: int = 2
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"

    def _checks(self) -> dict[str, bool]:
        widths = (*self.channels, *self.unet_channels)
        return super()._checks() | {
            f"unet_attention has {len(self.unet_attention)} entries: expected one for each of the"
            f" {len(self.unet_channels)} unet_channels": (
                len(self.unet_attention) == len(self.unet_channels)
            ),
            f"groups is {self.groups}: expected a divisor of all channels": (
                self.groups >= 1 and not any(width % self.groups for width in widths)
            ),
            f"heads is {self.heads}: expected a divisor of unet_channels and image_width": (
                self.heads >= 1
                and not any(w % self.heads for w in (*self.unet_channels, self.image_width))
            ),
            f"patch_size is {self.patch_size}: expected a divisor of image_size": (
                self.patch_size >= 1 and self.image_size % self.patch_size == 0
            ),
        }


@dataclass(frozen=True)
class Job(AutoencoderConfig):
    """A run: its settings, the data set, and the run's folder."""

    data: Path = Path()
    out: Path = Path()


_RATES = OptimizerConfig(
    learning_rate=1e-3, schedule="cosine", warmup=50, clip="global", weight_decay=1e-4
)
_SMALL = AutoencoderConfig(
    steps=4000,
    batch_size=8,
    optimizer=_RATES,
    log_every=20,
    save_every=500,
    validate_every=500,
)
PRESETS: dict[str, AutoencoderConfig] = {
    "small": _SMALL,
    "debug": replace(
        _SMALL,
        steps=4,
        batch_size=2,
        optimizer=replace(_RATES, warmup=0),
        log_every=1,
        save_every=2,
        validate_every=2,
        validation_frames=2,
        channels=(8, 16),
        unet_channels=(8, 16),
        unet_attention=(False, True),
        heads=2,
        image_size=32,
        image_width=16,
        image_layers=1,
    ),
}


def parse(args: Sequence[str]) -> Job:
    """The job that a command line describes; `--help` and mistakes end the program."""

    chosen = preset_of(args, PRESETS)

    def job(
        *,
        data: Annotated[Path, arg(metavar="DATASET")],
        out: Annotated[Path, arg(metavar="RUN")],
        preset: Literal["small", "debug"] = "small",
        config: OmitArgPrefixes[AutoencoderConfig] = chosen,
    ) -> Job:
        """Args:
        data: the data set, from `anchor-jax prepare`.
        out: the run's folder; a run that is there goes on.
        preset: the settings that the others change.
        """
        names = AutoencoderConfig.__dataclass_fields__
        return Job(**{name: getattr(config, name) for name in names}, data=data, out=out)

    return tyro.cli(job, prog="anchor-jax train autoencoder", description=TEXT, args=list(args))


def main(args: Sequence[str] | None = None) -> None:
    """Train, or go on with a run that is there.

    Raises:
        AnchorError: bad input, told in one line; nothing that was there is lost.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving.
    """
    job = parse(sys.argv[1:] if args is None else args)
    mesh = open_devices(job)
    dataset = datasets.load(job.data)
    config = make_configs(job)["vae"]
    assert isinstance(config, VAEConfig)
    pictures = [name for name in ("target", "face") if name in dataset.pictures]
    check_sizes(dataset, pictures, config)
    run = Run(job.out, {"stage": "autoencoder", **settings(job)}, FREE)
    try:
        if (job.out / "anchor").exists():
            note(f"{job.out} is complete: its result is {job.out / 'anchor'}")
            return
        with make_batches(job, dataset, pictures) as batches:
            truth = validation_frames(job, dataset)
            params = fit(
                "autoencoder",
                job,
                run,
                mesh,
                params={"vae": init_params(config, jax.random.key(job.seed))},
                optimizer=make_optimizer(job.optimizer, job.steps),
                loss=partial(loss, config, job.kl_weight, pictures),
                batches=batches,
                inputs_of=lambda batch: {n: batch[n] for n in (*pictures, "position")},
                validate=partial(validate, config, truth),
            )
            if run.is_main:
                std = latent_std(config, params["vae"], dataset, batches)
                anchor = make_anchor(job, params["vae"], 1 / std, dataset)
                checkpoint.save(run.folder / "anchor", anchor)
                print(f"{run.folder / 'anchor'}: complete; `anchor-jax train` takes it")
    finally:
        run.close()


def loss(
    config: VAEConfig,
    kl_weight: float,
    pictures: Sequence[str],
    params: Params,
    key: jax.Array,
    batch: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean absolute error of the reconstruction plus the weighted divergence, over all pictures."""
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
        total += jnp.abs(out - images).mean((1, 2, 3))
        total += kl_weight * divergence.sum((1, 2, 3)) / pixels * config.factor**2
    return total.mean() / len(pictures), {"losses": total / len(pictures)}


def validate(
    config: VAEConfig, truth: np.ndarray, params: Params
) -> tuple[dict[str, float], np.ndarray, float]:
    """How well frames are reconstructed: scalars, pairs of both, and the score."""
    images = np.concatenate([reconstruct(config, params["vae"], x[None]) for x in truth])
    score = float(psnr(images, truth).mean())
    found = {"validation/psnr": score, "validation/ssim": float(ssim(images, truth).mean())}
    rows = [np.concatenate(pair, 1) for pair in zip(images, truth, strict=True)]
    return found, np.concatenate(rows), score


def reconstruct(config: VAEConfig, params: Params, images: np.ndarray) -> np.ndarray:
    """Through the posterior's mean: uint8 to uint8 (b, h, w, 3)."""
    return (np.asarray(_reconstruct(config, params, images)) * 255).round().astype(np.uint8)


@partial(jit, static_argnums=0)
def _reconstruct(config: VAEConfig, params: Params, images: jax.Array) -> jax.Array:
    out = apply(config, params, images / 127.5 - 1)
    return jnp.clip(out / 2 + 0.5, 0, 1)


def make_configs(job: AutoencoderConfig) -> dict[str, NetworkConfig]:
    """Of every network of the anchor."""
    vae = VAEConfig(
        channels=job.channels,
        latent_channels=job.latent_channels,
        layers_per_block=job.layers,
        norm_groups=job.groups,
        scaling_factor=1.0,
    )
    unet = UNetConfig(
        in_channels=job.latent_channels,
        out_channels=job.latent_channels,
        channels=job.unet_channels,
        layers_per_block=job.unet_layers,
        cross_attention=job.unet_attention,
        num_heads=job.heads,
        context_dim=job.image_width,
        norm_groups=job.groups,
    )
    embedding = (16, 32, 64, 96)[: len(job.channels)]
    control = replace(fresh_control_config(unet), pose_embedding_channels=embedding)
    image_encoder = CLIPVisionConfig(
        image_size=job.image_size,
        patch_size=job.patch_size,
        width=job.image_width,
        mlp_width=4 * job.image_width,
        num_layers=job.image_layers,
        num_heads=job.heads,
    )
    text_encoder = CLIPTextConfig(
        vocab_size=2,
        max_length=image_encoder.num_tokens,
        width=job.image_width,
        mlp_width=4 * job.image_width,
        num_layers=1,
        num_heads=job.heads,
    )
    return {
        "body/unet": unet,
        "body/control": control,
        "face/unet": replace(unet, in_channels=2 * job.latent_channels + 1),
        "face/control": control,
        "vae": vae,
        "image_encoder": image_encoder,
        "text_encoder": text_encoder,
    }


def make_anchor(job: Job, vae: Params, scaling_factor: float, dataset: Dataset) -> Anchor:
    """The trained autoencoder, and fresh networks around it."""
    configs = make_configs(job)
    config = configs["vae"]
    assert isinstance(config, VAEConfig)
    configs["vae"] = replace(config, scaling_factor=scaling_factor)
    params: dict[str, Params] = {"vae": vae}
    for i, name in enumerate(("body/unet", "face/unet", "image_encoder", "text_encoder")):
        params[name] = init_params(configs[name], jax.random.key(job.seed + i + 1))
    for part in ("body", "face"):
        control, unet = configs[f"{part}/control"], dict(params[f"{part}/unet"])
        if part == "face":  # the control branch reads the latents alone
            kernel = unet["conv_in"]["kernel"][:, :, : job.latent_channels]
            unet["conv_in"] = {**unet["conv_in"], "kernel": kernel}
        params[f"{part}/control"] = fresh_control(control, unet, job.seed, zero_embedding=False)
    text = configs["text_encoder"]
    assert isinstance(text, CLIPTextConfig)
    tokens = jnp.ones((1, text.max_length), jnp.int32).at[0, 0].set(0)  # begin, end, end, ...
    empty_text = np.asarray(apply(text, params["text_encoder"], tokens)[0], np.float32)
    trained = {"steps": job.steps, "data": job.data.name, **asdict(job.optimizer)}
    schedule = ScheduleConfig(prediction_type=job.prediction_type)
    return Anchor(configs, schedule, empty_text, params, {"autoencoder": trained})


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


def check_sizes(dataset: Dataset, pictures: Sequence[str], config: VAEConfig) -> None:
    """Raise AnchorError for pictures whose sides the autoencoder's factor does not divide."""
    bad = [
        f"{name} is {w}x{h}"
        for name in pictures
        for w, h in [dataset.pictures[name]]
        if w % config.factor or h % config.factor
    ]
    if bad:
        raise AnchorError(
            f"{dataset.path}: {shorten(bad)}: expected multiples of {config.factor}; prepare it"
            " with another --size, or take fewer --channels"
        )


def make_batches(job: Job, dataset: Dataset, pictures: Sequence[str]) -> Batches:
    """Pictures alone."""
    return Batches(
        dataset,
        job.batch_size,
        seed=job.seed,
        workers=job.workers,
        spans=clip_spans(dataset, 0.0, 1 - job.held_out),
        pictures=pictures,
    )


def validation_frames(job: Job, dataset: Dataset) -> np.ndarray:
    """Held-out frames, or frames that are trained on where none are held out."""
    spans = held_out_spans(dataset, job.held_out)
    name = next(name for name in ("target", "face") if name in dataset.pictures)
    load = Load(dataset, [name])
    return np.stack([load((i, i, False))[name] for i in choose(spans, job.validation_frames)])


if __name__ == "__main__":
    main()
