"""Generate a video of any length frame by frame, in a fixed amount of memory."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.errors import AnchorError
from anchor_jax.generation.frames import Frames, Pose
from anchor_jax.generation.networks import initial_latents
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
        settings: `fast`, and fields of `diffusion.Sampling` such as `steps=10`; those left out, or
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
    one = initial_latents((1, *latent), noise, sampling.seed)[0]

    def checked_poses() -> Iterator[Pose]:
        for number, image in enumerate(chain([first], images), 1):
            _check(image, first, number)
            yield image, None

    frames = Frames(anchor, checked_poses(), picture, checked.resolved(), one)
    return (frame for batch in frames for frame in batch)


def _check(image: object, first: Images, number: int) -> None:
    """Raise AnchorError if pose image `number` is no picture, or unlike the first."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise AnchorError(f"pose image {number}: expected an array uint8 (h, w, 3)")
    if image.shape != first.shape:
        raise AnchorError(
            f"pose image {number} has shape {image.shape}: expected {first.shape}, as the first one"
        )
