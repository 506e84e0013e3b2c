"""Run the autoencoder for generation: pictures to latents and back, some at a time."""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from anchor_jax.checkpoint import Network
from anchor_jax.compiling import jit
from anchor_jax.devices import own_copy, own_rows, put_batch, put_copies, shared_mesh, split_rows
from anchor_jax.errors import AnchorError
from anchor_jax.generation.networks import cast_kernels, fill
from anchor_jax.models import VAEConfig, apply
from anchor_jax.shapes import Array, Images, Params

Item = TypeVar("Item")

PICTURE_BATCH = 4  # pictures in one call of the autoencoder


@partial(jit, static_argnames=("config", "dtype"))
def encode_images(
    config: VAEConfig, params: Params, images: Array, noise: Array, dtype: str
) -> Array:
    """Sample the autoencoder's posterior of images.

    Args:
        config: config of the autoencoder.
        params: its parameters.
        images: (b, h, w, 3), -1 to 1.
        noise: standard normal, (h/8, w/8, 4) for all images or (b, h/8, w/8, 4).
        dtype: type of the computation.

    Returns:
        Scaled latents (b, h/8, w/8, 4).
    """
    mean, log_variance = apply(config, params, images.astype(dtype), dtype=dtype, method="encode")
    return config.scaling_factor * (mean + jnp.exp(0.5 * log_variance) * noise)


def encode_batches(
    config: VAEConfig, params: Params, images: np.ndarray, noise: Array, dtype: str
) -> np.ndarray:
    """Sample the posterior of any number of images, uint8 or -1 to 1, a batch at a time; other
    arguments and result as for `encode_images`. The device encodes all of them before the first
    latents are fetched."""
    latents = []
    for start in range(0, len(images), PICTURE_BATCH):
        chunk = images[start : start + PICTURE_BATCH]
        pixels = chunk / np.float32(127.5) - 1 if chunk.dtype == np.uint8 else chunk
        latents.append(encode_images(config, params, fill(pixels, PICTURE_BATCH), noise, dtype))
    return np.concatenate([np.asarray(x) for x in latents])[: len(images)]


def decode(vae: Network[VAEConfig], latents: Array, dtype: str = "float32") -> Images:
    """Decode scaled latents, a few frames at a time.

    Args:
        vae: the autoencoder, loaded.
        latents: (n, h/8, w/8, 4).
        dtype: type of the computation.

    Returns:
        uint8 (n, h, w, 3). As published, values are truncated, not rounded.
    """
    batch = min(PICTURE_BATCH, len(latents))
    return np.concatenate(list(decode_batches(vae, latents, dtype, batch=batch)))


class Decoding(NamedTuple):
    """Pictures that the device may still be decoding.

    Attributes:
        pixels: uint8 (b, h, w, 3).
        count: number of leading pictures that are used.
        finite: whether their latents have only finite values.
    """

    pixels: Array | np.ndarray
    count: int
    finite: Array | bool = True

    def wait(self) -> Images:
        """Return the pictures (count, h, w, 3).

        Raises:
            AnchorError: sampling gave values that are not finite.
        """
        if not self.finite:
            raise AnchorError(
                "sampling gave values that are not finite: the weights do not fit together, or"
                " guidance or control_scale is far out of range"
            )
        return np.asarray(self.pixels)[: self.count]


class Decoder:
    """Decodes scaled latents with the autoencoder, some at a time.

    Args:
        vae: the autoencoder, loaded.
        dtype: type of the computation.
        rounded: round values; as published, values of frames are truncated.
        batch: pictures in one call of the compiled program, or one more for some devices if it is
            not a multiple of their number.
        devices: number of devices that share the pictures, as in `Sampling`.
    """

    def __init__(
        self,
        vae: Network[VAEConfig],
        dtype: str,
        *,
        rounded: bool = False,
        batch: int = PICTURE_BATCH,
        devices: int | None = 1,
    ):
        self._config, self._params = vae.config, cast_kernels(vae.params, dtype)
        self._dtype, self._rounded, self.batch = dtype, rounded, batch
        self._mesh = shared_mesh(devices)
        if self._mesh is not None:
            self._params = put_copies(self._mesh, self._params)
            self.batch = -(-batch // self._mesh.size) * self._mesh.size

    def start(self, latents: Array) -> Iterator[Decoding]:
        """Let the device decode latents (n, h/8, w/8, 4), a batch for each item."""
        for start in range(0, len(latents), self.batch):
            chunk = latents[start : start + self.batch]
            filled = fill(chunk, self.batch)
            pixels = self._decode(filled)
            pixels.copy_to_host_async()
            yield Decoding(pixels, len(chunk), _all_finite(filled))

    def _decode(self, latents: Array) -> Array:
        """Decode a batch. The result is on the first device of each process."""
        settings = self._dtype, self._rounded
        if self._mesh is None:
            return decode_pixels(self._config, self._params, latents, *settings)
        rows = put_batch(self._mesh, latents[own_rows(self._mesh, len(latents))])
        return own_copy(decode_pixels(self._config, self._params, rows, *settings, self._mesh))


@jax.jit
def _all_finite(latents: Array) -> Array:
    return jnp.isfinite(latents).all()


def decode_batches(
    vae: Network[VAEConfig],
    latents: Array,
    dtype: str,
    *,
    rounded: bool = False,
    batch: int = PICTURE_BATCH,
) -> Iterator[Images]:
    """Decode scaled latents (n, h/8, w/8, 4) batch by batch to uint8 (k, h, w, 3), k <= `batch`.
    The device decodes the next batch while the caller uses one."""
    decoder = Decoder(vae, dtype, rounded=rounded, batch=batch)
    for decoding in made_ahead(decoder.start(latents)):
        yield decoding.wait()


@partial(jit, static_argnames=("config", "dtype", "rounded", "mesh"))
def decode_pixels(
    config: VAEConfig,
    params: Params,
    latents: Array,
    dtype: str,
    rounded: bool,
    mesh: Mesh | None = None,
) -> Array:
    """Decode scaled latents (b, h/8, w/8, 4) to uint8 (b, h, w, 3), a quarter of the bytes of
    `decode_images`. Values are rounded or, as published for frames, truncated. The devices of
    `mesh` share the rows."""

    def pixels(params: Params, latents: Array) -> Array:
        levels = _decode(config, params, latents, dtype) * 255
        return (jnp.round(levels) if rounded else levels).astype(jnp.uint8)

    return split_rows(pixels, mesh)(params, latents)


@partial(jit, static_argnames=("config", "dtype"))
def decode_images(config: VAEConfig, params: Params, latents: Array, dtype: str) -> Array:
    """Decode scaled latents (b, h/8, w/8, 4) to float32 (b, h, w, 3), clipped to 0 to 1."""
    return _decode(config, params, latents, dtype)


def _decode(config: VAEConfig, params: Params, latents: Array, dtype: str) -> Array:
    latents = (latents / config.scaling_factor).astype(dtype)
    images = apply(config, params, latents, dtype=dtype, method="decode")
    return jnp.clip(images / 2 + 0.5, 0, 1)


def made_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield each item after the next one was made. If making an item starts work in the background,
    that of the next one runs while the caller uses an item.

    >>> list(made_ahead(range(3)))
    [0, 1, 2]
    """
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
