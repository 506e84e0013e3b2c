"""Generate the frames of a video one after the other, in a fixed amount of memory.

Two stages, each an iterator over the result of the one before:

    pose images -> `BodyStage`: denoise and decode -> `FaceStage`: repaint faces -> frames

Between two batches of frames, everything that a stage has in work is in its state. So the states of
both stages are enough to go on from there in another process.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.compiling import explained_memory, matmul_precision
from anchor_jax.diffusion import Sampling
from anchor_jax.diffusion.rings import Block, State
from anchor_jax.diffusion.sample import Sampler
from anchor_jax.diffusion.windows import num_windows
from anchor_jax.generation.autoencoder import Decoder, Decoding
from anchor_jax.generation.face import Face, FaceStage
from anchor_jax.generation.networks import (
    body_denoiser,
    denoiser_params,
    embed_once,
    encode_appearance,
)
from anchor_jax.progress import Advance, no_advance
from anchor_jax.shapes import Array, Images

# A pose image (h, w, 3), and the transform (2, 3) to a crop of its face: NaN if the face is not
# usable, None if no face is repainted.
Pose = tuple[Images, np.ndarray | None]


class Frames:
    """Iterates over the frames of a video as they are finished: batches, uint8 (k, h, w, 3).

    Pose images are read as they are needed. Neither memory nor the time for a frame depends on the
    length of the video.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images and the places of their faces, in order.
        picture: a picture of the person, uint8 (h', w', 3).
        settings: settings of the body and of the face, resolved.
        noise: initial latents, float32, (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        face: where the face regions are and how the face looks, or None; `face.track` is not used.
        num_frames: length of the video, if it is known. Short videos then need less memory.
        on_windows: called when windows are complete, with their number since the last call.
        between: called after groups of windows of the body; it may call `state`.
        state: of earlier frames of the same arguments, which these continue. `poses` then are those
            from `num_read(state)` on.

    Raises:
        AnchorError: while iterating: sampling gave values that are not finite, or the device has
            too little memory.
    """

    def __init__(
        self,
        anchor: Anchor,
        poses: Iterator[Pose],
        picture: Images,
        settings: Settings,
        noise: np.ndarray,
        *,
        face: Face | None = None,
        num_frames: int | None = None,
        on_windows: Advance = no_advance,
        between: Callable[[], object] = lambda: None,
        state: State | None = None,
    ):
        state = state or {}
        self._sampling = settings.sampling

        def between_groups() -> None:
            if self._face is None or self._face.settled:
                between()

        self._face: FaceStage | None = None
        with self._set_up():
            if face is not None and anchor.face is not None:
                shown = picture if face.appearance is None else face.appearance
                given = anchor, anchor.face, shown, face.masks, settings, on_windows
                self._face = FaceStage(*given, state.get("face"))
            self._body = BodyStage(
                anchor,
                self._expected(poses),
                picture,
                settings.sampling,
                noise,
                num_frames=num_frames,
                on_windows=on_windows,
                between=between_groups,
                state=state.get("body"),
            )
        batches = iter(self._body)
        self._batches = batches if self._face is None else self._face.repaint(batches)

    def __iter__(self) -> Iterator[Images]:
        """Yield the batches; the precision is set only while these are computed."""
        while True:
            with self._set_up():
                frames = next(self._batches, None)
            if frames is None:
                return
            yield frames

    def state(self) -> State:
        """Return what new frames need to go on from here, after a batch or in `between`."""
        state = {"body": self._body.state()}
        return state if self._face is None else state | {"face": self._face.state()}

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        sampling = self._sampling
        with explained_memory("generate"), matmul_precision(sampling.dtype, sampling.tf32):
            yield

    def _expected(self, poses: Iterator[Pose]) -> Iterator[Images]:
        """Yield the pose images, and tell the face stage about them, a block at a time."""
        while block := list(islice(poses, self._sampling.stride)):
            images, transforms = zip(*block, strict=True)
            if self._face is not None:
                self._face.expect(np.stack(images), np.stack(transforms))
            yield from images


class BodyStage:
    """Iterates over the frames before their faces are repainted: batches, uint8 (k, h, w, 3).
    Arguments as for `Frames`."""

    def __init__(
        self,
        anchor: Anchor,
        poses: Iterator[Images],
        picture: Images,
        sampling: Sampling,
        noise: np.ndarray,
        *,
        num_frames: int | None = None,
        on_windows: Advance = no_advance,
        between: Callable[[], object] = lambda: None,
        state: State | None = None,
    ):
        state = state or {}
        self._between = between
        tokens = encode_appearance(anchor.image_encoder, picture)
        params = denoiser_params(anchor.body, tokens, anchor.empty_text, sampling)
        denoise = body_denoiser(anchor.body, sampling.dtype)
        embed = embed_once(denoise, params, sampling)

        def blocks() -> Iterator[Block]:
            number = num_read({"body": state})
            while block := list(islice(poses, sampling.stride)):
                images = np.stack(block)
                shape = len(images), *noise.shape[-3:]
                whole = noise.ndim > 3
                noises = noise[number : number + len(images)] if whole else noise
                number += len(images)
                condition = embed({"poses": images})
                yield {"noise": np.broadcast_to(noises, shape), "condition": condition}

        windows = None if num_frames is None else num_windows(num_frames, sampling.stride)
        self._sampler = Sampler(
            denoise,
            params,
            blocks(),
            anchor.schedule,
            sampling,
            num_windows=windows,
            on_windows=on_windows,
            state=state.get("sampler"),
        )
        self._decoder = Decoder(anchor.vae, sampling.dtype, devices=sampling.devices)
        left = state.get("latents")  # too few for a batch
        self._latents = [] if left is None else [jnp.asarray(left)]
        frames = state.get("frames")
        self._decoding = deque([] if frames is None else [Decoding(frames, len(frames))])

    def state(self) -> State:
        """Return what a new stage needs to go on from here, after a batch."""
        state: State = {"sampler": self._sampler.state()}
        if self._latents:
            state["latents"] = np.concatenate([np.asarray(x) for x in self._latents])
        if self._decoding:
            state["frames"] = np.concatenate([x.wait() for x in self._decoding])
        return state

    def __iter__(self) -> Iterator[Images]:
        """Denoise and decode. The device decodes a group's frames while the next group waits."""
        for blocks in self._sampler:
            before = len(self._decoding)
            self._decode(blocks)
            self._between()
            for _ in range(before):
                yield self._decoding.popleft().wait()
        self._decode([], last=True)
        while self._decoding:
            yield self._decoding.popleft().wait()

    def _decode(self, blocks: list[Array], last: bool = False) -> None:
        """Start to decode the latents of blocks, in whole batches except for the last."""
        parts = [*self._latents, *blocks]
        if not parts:
            return
        latents = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
        rest = 0 if last else len(latents) % self._decoder.batch
        whole = len(latents) - rest
        self._latents = [latents[whole:]] if whole < len(latents) else []
        self._decoding.extend(self._decoder.start(latents[:whole]))


def num_read(state: State) -> int:
    """Return the number of pose images that were read, of the state of `Frames`."""
    sampler = state["body"].get("sampler")
    return 0 if sampler is None else int(sampler["source"]["counts"][1])
