"""Generate a video of any length frame by frame, in a fixed amount of memory."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.compiling import explained_memory, matmul_precision
from anchor_jax.diffusion import Sampling
from anchor_jax.diffusion.rings import Block
from anchor_jax.diffusion.sample import Sampler
from anchor_jax.errors import AnchorError
from anchor_jax.generation.networks import (
    body_denoiser,
    check_finite,
    decode_batches,
    denoiser_params,
    embed_once,
    encode_appearance,
    initial_latents,
    made_ahead,
)
from anchor_jax.generation.pipeline import check_loaded, picture_of
from anchor_jax.generation.settings import check_inputs
from anchor_jax.shapes import Images


def stream(
    anchor: Anchor,
    poses: Iterable[Images],
    appearance: Images | None = None,
    *,
    noise: np.ndarray | None = None,
    **settings: Any,
) -> Iterator[Images]:
    """Generate a video frame by frame, while its pose images arrive. Faces are not repainted.

    The frames equal those of `generate`. Pose images are read as they are needed; some are read
    before the first frame comes out: with S steps, windows of w frames and an overlap o of at most
    half of that, about S (w - o) frames. Neither memory nor the time for a frame depends on the
    length.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images one by one, uint8 (h, w, 3) RGB; h and w are multiples of the
            autoencoder's factor (8). An iterator may wait for the next one.
        appearance: as for `generate`.
        noise: initial latents of every frame, float32 (h/8, w/8, 4).
        settings: fields of `diffusion.Sampling`, such as `steps=10`; those that are left out, or
            None, come from `anchor.settings`.

    Returns:
        An iterator of frames, uint8 (h, w, 3) RGB.

    Raises:
        AnchorError: as `generate`; while frames are taken also if a pose image has another shape or
            type than the first.
    """
    sampling = anchor.settings.sampling.updated(**settings)
    picture = picture_of(anchor, appearance)
    images = iter(poses)
    first = next(images, None)
    if first is None:
        raise AnchorError("there are no pose images: expected at least one frame")
    _check(first, first, 1)
    checked = Settings(sampling, anchor.settings.face)
    latent = check_inputs(anchor, (1, *first.shape), checked)[1:]
    check_loaded(anchor, face=False)
    one = np.asarray(initial_latents((1, *latent), noise, sampling.seed))[0]
    sampling = sampling.resolved()
    batches = _batches(anchor, chain([first], images), picture, sampling, one)
    return _frames(batches, sampling)


def _frames(batches: Iterator[Images], sampling: Sampling) -> Iterator[Images]:
    """Yield the frames of batches; the precision is set only while these are computed."""
    while True:
        with explained_memory("generate"), matmul_precision(sampling.dtype, sampling.tf32):
            frames = next(batches, None)
        if frames is None:
            return
        yield from frames


def _batches(
    anchor: Anchor,
    poses: Iterator[Images],
    appearance: Images,
    sampling: Sampling,
    noise: np.ndarray,
) -> Iterator[Images]:
    """Yield the frames in batches, uint8 (k, h, w, 3)."""
    tokens = encode_appearance(anchor.image_encoder, appearance)
    params = denoiser_params(anchor.body, tokens, anchor.empty_text, sampling)
    denoise = body_denoiser(anchor.body, sampling.dtype)
    embed = embed_once(denoise, params, sampling)

    def blocks() -> Iterator[Block]:
        first: Images | None = None
        count = 0
        while block := list(islice(poses, sampling.stride)):
            first = block[0] if first is None else first
            for number, image in enumerate(block, count + 1):
                _check(image, first, number)
            count += len(block)
            images = np.stack(block)
            noises = np.broadcast_to(noise, (len(images), *noise.shape))
            yield {"noise": noises, "condition": embed({"poses": images})}

    sampler = Sampler(denoise, params, blocks(), anchor.schedule, sampling)
    for latents in made_ahead(block for finished in sampler for block in finished):
        check_finite(latents)
        yield from decode_batches(anchor.vae, latents, sampling.dtype)


def _check(image: object, first: Images, number: int) -> None:
    """Raise AnchorError if pose image `number` is no picture, or unlike the first."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise AnchorError(f"pose image {number}: expected an array uint8 (h, w, 3)")
    if image.shape != first.shape:
        raise AnchorError(
            f"pose image {number} has shape {image.shape}: expected {first.shape}, as the first one"
        )
