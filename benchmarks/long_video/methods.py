"""Generate a long video: with overlapping windows, or as a chain of clips."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.compiling import matmul_precision
from anchor_jax.diffusion import Sampling, ddim_step, guide, sampling_steps
from anchor_jax.diffusion.ddim import add_noise
from anchor_jax.diffusion.rings import State
from anchor_jax.diffusion.sample import predict_windows
from anchor_jax.generation.autoencoder import Decoder, encode_images
from anchor_jax.generation.frames import Frames, num_read
from anchor_jax.generation.networks import (
    body_denoiser,
    denoiser_params,
    encode_appearance,
    initial_latents,
)
from anchor_jax.generation.settings import check_inputs
from anchor_jax.shapes import Array, Images
from anchor_jax.studies.clip import StudyClip

Poses = Callable[[int], Iterator[Images]]  # the pose images from a frame on


class Windows:
    """Iterates over the frames of overlapping windows: batches, uint8 (k, h, w, 3).

    Args:
        anchor: the anchor, loaded.
        clip: has the picture of the person.
        poses: gives the pose images from a frame on.
        sampling: settings, resolved.
        state: of an earlier object of the same arguments, which this one continues.
    """

    def __init__(
        self,
        anchor: Anchor,
        clip: StudyClip,
        poses: Poses,
        sampling: Sampling,
        state: State | None = None,
    ):
        start = 0 if state is None else num_read(state)
        settings = Settings(sampling, anchor.settings.face)
        noise = _initial_latents(anchor, clip, 1, sampling)[0]
        both = ((pose, None) for pose in poses(start))
        self._frames = Frames(anchor, both, clip.appearance, settings, noise, state=state)

    def __iter__(self) -> Iterator[Images]:
        return iter(self._frames)

    def state(self) -> State:
        """Return what a new object needs to go on from here, after a batch."""
        return self._frames.state()


class Chain:
    """Iterates over the frames of chained clips: batches, uint8 (k, h, w, 3). Arguments as for
    `Windows`.

    Clips are one window each, and the last frame of a clip is the first of the next one. That is
    generated so: the frame is encoded (mean of the posterior); at every step, the first latent of
    the window is that latent, noised to the step's level with the initial noise; and the frame is
    the picture of the person, too. The first clip starts from the clip's picture alone.
    """

    def __init__(
        self,
        anchor: Anchor,
        clip: StudyClip,
        poses: Poses,
        sampling: Sampling,
        state: State | None = None,
    ):
        self._anchor, self._sampling = anchor, sampling
        self._noise = jnp.asarray(_initial_latents(anchor, clip, sampling.window, sampling))
        self._picture, self._before, self._count = clip.appearance, None, 0
        if state is not None:
            self._picture, self._before = state["picture"], state["before"]
            self._count = int(state["count"])
        self._poses = poses(self._count)

    def state(self) -> State:
        """Return what a new object needs to go on from here, after a batch."""
        assert self._before is not None
        return {
            "picture": self._picture,
            "before": self._before,
            "count": np.array(self._count, np.int64),
        }

    def __iter__(self) -> Iterator[Images]:
        anchor, sampling, vae = self._anchor, self._sampling, self._anchor.vae
        decoder, zero = Decoder(vae, sampling.dtype), jnp.zeros(())  # noise of the posterior
        while True:
            first = [] if self._before is None else [self._before]
            window = first + list(islice(self._poses, sampling.window - len(first)))
            if len(window) == len(first):
                return
            held = None
            if first:
                pixels = jnp.asarray(self._picture[None] / np.float32(127.5) - 1)
                held = encode_images(vae.config, vae.params, pixels, zero, sampling.dtype)[0]
            tokens = encode_appearance(anchor.image_encoder, self._picture)
            params = denoiser_params(anchor.body, tokens, anchor.empty_text, sampling)
            shown = np.stack(window + window[-1:] * (sampling.window - len(window)))
            latents = _denoise_clip(anchor, params, self._noise, shown, len(window), held, sampling)
            decoded = np.concatenate([x.wait() for x in decoder.start(latents)])[: len(window)]
            self._picture, self._before = decoded[-1], window[-1]
            self._count += len(window) - len(first)
            yield decoded[len(first) :]


def _initial_latents(anchor: Anchor, clip: StudyClip, count: int, sampling: Sampling) -> np.ndarray:
    """Make the initial latents of so many frames, which are the same for all."""
    settings = Settings(sampling, anchor.settings.face)
    shape = check_inputs(anchor, (count, *clip.poses.shape[1:]), settings)
    return initial_latents(shape, seed=sampling.seed)


def _denoise_clip(
    anchor: Anchor,
    params: Any,
    noise: Array,
    poses: Images,
    num_real: int,
    held: Array | None,
    sampling: Sampling,
) -> Array:
    """Denoise one window; `held` is the clean latent of its first frame, or None."""
    denoise, config = body_denoiser(anchor.body, sampling.dtype), anchor.schedule
    latents, condition = noise, {"poses": jnp.asarray(poses)[None]}
    for step in sampling_steps(config, sampling.steps):
        if held is not None:
            noisy = add_noise(held[None], noise[:1], jnp.asarray([step.alpha], jnp.float32))
            latents = latents.at[:1].set(noisy)
        numbers = np.array([[step.timestep], [num_real]], np.int32)
        with matmul_precision(sampling.dtype, sampling.tf32):
            predicted = predict_windows(denoise, params, latents[None], condition, *numbers)[0]
        alphas = np.float32(step.alpha), np.float32(step.alpha_prev)
        latents = _step(
            latents, predicted, sampling.guidance, *alphas, prediction_type=config.prediction_type
        )
    return latents if held is None else latents.at[0].set(held)


@partial(jax.jit, static_argnames="prediction_type")
def _step(latents, predicted, guidance, alpha, alpha_prev, prediction_type):
    return ddim_step(latents, guide(predicted, guidance), alpha, alpha_prev, prediction_type)


METHODS = {"overlapping windows": Windows, "chained clips": Chain}
