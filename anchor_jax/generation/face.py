"""Repaint faces: crop them from the generated frames, inpaint them conditioned on the
pose image (paper, section 3.3 and equation 9), and paste them back."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from anchor_jax.checkpoint import Anchor, Network, Part, Settings
from anchor_jax.compiling import matmul_precision
from anchor_jax.diffusion import Sampling
from anchor_jax.diffusion.rings import Block, State
from anchor_jax.diffusion.sample import Sampler
from anchor_jax.face import align, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.autoencoder import (
    Decoder,
    Decoding,
    decode,
    decode_batches,
    encode_batches,
)
from anchor_jax.generation.crops import (
    Masks,
    face_regions,
    paste_faces,
    resize_squares,
    shrink,
    squash,
)
from anchor_jax.generation.networks import (
    WindowDenoiser,
    cast_kernels,
    denoiser_params,
    embed_once,
    encode_appearance,
    initial_latents,
)
from anchor_jax.models import PER_FRAME, Denoiser, Inflation, VAEConfig
from anchor_jax.progress import Advance, no_advance
from anchor_jax.shapes import Array, Images
from anchor_jax.threads import map_rows

# See `Inflation` in models/frames.py. Only joint attention is on: the weights were trained without
# the other two.
ALL_FRAMES = Inflation(joint_attention=True, pooled_norm=False, aliased_residual=False)

_LONGEST_GAP = 16  # frames without a usable face inside a run of windows


@dataclass(frozen=True)
class Face:
    """The inputs of the face stage: where the face is in each frame, and how it looks.

    Attributes:
        track: the positions of the face, from `face.landmarks.follow`.
        masks: bool (n, h, w), True on the face; None takes an oval in each crop.
        appearance: a picture of the face, uint8 (h', w', 3), upright and cropped as in training;
            None takes the picture of the body.
    """

    track: Track
    masks: Masks | None = None
    appearance: Images | None = None


def face_denoiser(part: Part, face: FaceSampling, dtype: str) -> WindowDenoiser:
    """Make the denoiser of the face, for single frames or with attention over a window."""
    inflation = ALL_FRAMES if face.windows else PER_FRAME
    return WindowDenoiser(Denoiser(part.unet.config, part.control.config, dtype, inflation))


class FaceStage:
    """Repaints the face in every usable frame, as frames come, in a fixed amount of memory.

    All frames start from the same noise, and all posteriors are sampled with the same other noise.
    A gap of more than `_LONGEST_GAP` frames without a usable face ends the run of windows: it
    leaves nothing waiting, and the next face starts a new run.

    Args:
        anchor: the anchor, loaded.
        part: its face part.
        picture: a picture of the face, uint8 (h', w', 3).
        masks: face regions of frames, see `Face`, or None.
        settings: settings of the body, whose steps, window, seed and type apply here too, and of
            the face.
        on_windows: called when windows are complete, with their number since the last call.
        state: of an earlier stage of the same arguments, which this one continues.

    Attributes:
        settled: whether `state` may be called while the stage waits for frames.
    """

    def __init__(
        self,
        anchor: Anchor,
        part: Part,
        picture: Images,
        masks: Masks | None,
        settings: Settings,
        on_windows: Advance = no_advance,
        state: State | None = None,
    ):
        self._vae, self._schedule, self._masks = anchor.vae, anchor.schedule, masks
        self._settings, self._on_windows = settings, on_windows
        self._sampling = sampling = face_sampling(settings)
        if settings.face.fit == "squash":
            picture = squash(picture, settings.face.size)
        tokens = encode_appearance(anchor.image_encoder, picture)
        self._params = denoiser_params(part, tokens, anchor.empty_text, sampling)
        self._denoise = face_denoiser(part, settings.face, sampling.dtype)
        self._vae_params = cast_kernels(anchor.vae.params, sampling.dtype)
        config = anchor.vae.config
        side, channels = settings.face.size // config.factor, config.latent_channels
        self._decoder = Decoder(anchor.vae, sampling.dtype, rounded=True, devices=sampling.devices)
        self._noise = np.asarray(initial_latents((1, side, side, channels), seed=sampling.seed))[0]
        key = jax.random.fold_in(jax.random.key(sampling.seed), 1)
        self._posterior_noise = jax.random.normal(key, (side, side, channels))
        # Whether `state` has everything: a sampler that is being made has blocks already.
        self.settled = True
        self._restore(state or {})

    def _restore(self, state: State) -> None:
        listed = lambda name: deque(state.get(name, ()))
        self._expected = listed("expected")  # transforms of frames that have not come yet
        self._crops = listed("crops")  # crops of their pose images
        self._frames, self._transforms = listed("frames"), listed("transforms")  # that wait
        # The run of each usable frame that is in no block yet.
        self._runs = deque(map(int, state.get("runs", ())))
        self._inpainting, self._poses = listed("inpainting"), listed("poses")  # its conditions
        crops = state.get("decoded")  # that are not pasted yet
        self._decoded = [] if crops is None else [Decoding(crops, len(crops))]
        counts = map(int, state.get("counts", [0, 0, 0, 0]))
        # Frames that came, the run of the last usable one, frames since, run that is sampled.
        self._came, self._run, self._gap, self._sampled = counts
        self._saved = state.get("sampler")
        self._sampler: Sampler | None = None

    def state(self) -> State:
        """Return what a new stage needs to go on from here, after a batch of `repaint`, or while it
        waits for frames and is `settled`."""
        lists = {
            "expected": self._expected,
            "crops": self._crops,
            "frames": self._frames,
            "transforms": self._transforms,
            "runs": self._runs,
            "inpainting": self._inpainting,
            "poses": self._poses,
            "decoded": [crop for images in self._decoded for crop in images.wait()],
        }
        state: State = {name: np.stack(list(x)) for name, x in lists.items() if len(x)}
        state["counts"] = np.array([self._came, self._run, self._gap, self._sampled], np.int64)
        if self._sampler is not None:
            state["sampler"] = self._sampler.state()
        return state

    def expect(self, poses: Images, transforms: Float[np.ndarray, "k 2 3"]) -> None:
        """Take the pose images of the next frames, which come later, and where their faces are:
        transforms to crops, NaN if a face is not usable."""
        usable = np.isfinite(transforms[:, 0, 0])
        self._expected.extend(transforms)
        cut = lambda one: resize_squares(align.crop(*one), self._settings.face.size)[0]
        rows = zip(poses[usable, None], transforms[usable, None], strict=True)
        self._crops.extend(map_rows(cut, rows))

    def repaint(self, frames: Iterator[Images]) -> Iterator[Images]:
        """Yield the frames with their faces repainted, in order, in batches of any length.

        Args:
            frames: batches of generated frames, uint8 (k, h, w, 3).

        Raises:
            AnchorError: sampling gave values that are not finite.
        """
        self._source = frames
        while self._saved is not None or self._runs or self._read():
            if self._saved is None and not self._runs:
                yield from self._leave()
                continue
            if self._saved is None:
                self._sampled = self._runs[0]
            self.settled = False
            sampler = Sampler(
                self._denoise,
                self._params,
                self._blocks(),
                self._schedule,
                self._sampling,
                on_windows=self._on_windows,
                state=self._saved,
            )
            self._sampler, self._saved, self.settled = sampler, None, True
            for blocks in sampler:
                ready = self._decoded
                self._decoded = [x for block in blocks for x in self._decoder.start(block)]
                self._paste(ready)
                yield from self._leave()
            self._sampler = None
            ready, self._decoded = self._decoded, []
            self._paste(ready)
            yield from self._leave()

    def _read(self) -> bool:
        """Take the next batch of frames and make the conditions of its faces; False at the end."""
        images = next(self._source, None)
        if images is None:
            return False
        transforms = np.stack([self._expected.popleft() for _ in images])
        usable = np.flatnonzero(np.isfinite(transforms[:, 0, 0]))
        for index in range(len(images)):
            if index not in usable:
                self._gap += 1
                continue
            self._run += self._gap > _LONGEST_GAP
            self._gap = 0
            self._runs.append(self._run)
        if len(usable):
            self._poses.extend(self._crops.popleft() for _ in usable)
            regions = face_regions(self._masks, self._came + usable, transforms[usable])
            self._inpainting.extend(self._condition(images[usable], transforms[usable], regions))
        self._frames.extend(images)
        self._transforms.extend(transforms)
        self._came += len(images)
        return True

    def _condition(self, images: Images, transforms: np.ndarray, regions: np.ndarray) -> np.ndarray:
        """Make the masks and the latents of the masked crops of frames (k, h, w, 3): float32 (k,
        size/8, size/8, 5)."""
        size = self._settings.face.size

        def cut(one: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
            image, transform, region = one
            crops = resize_squares(align.crop(image, transform), size)
            keep = shrink(mask.repaint_mask(region), size)
            return keep[0], mask.masked_images(crops, keep)[0]

        rows = zip(images[:, None], transforms[:, None], regions[:, None], strict=True)
        keep, masked = map(np.stack, zip(*map_rows(cut, rows), strict=True))
        config, dtype = self._vae.config, self._sampling.dtype
        noise = self._posterior_noise
        latents = encode_batches(config, self._vae_params, masked, noise, dtype)
        return np.concatenate([mask.to_latents(keep, config.factor), latents], -1)

    def _blocks(self) -> Iterator[Block]:
        """Yield the blocks of the run that is sampled."""
        stride = self._sampling.stride
        embed = embed_once(self._denoise, self._params, self._sampling)

        def count() -> int:
            return sum(run == self._sampled for run in islice(self._runs, stride))

        while True:
            while count() == len(self._runs) < stride and self._gap <= _LONGEST_GAP:
                if not self._read():
                    break
            size = count()
            if not size:
                return
            rows = self._runs, self._poses, self._inpainting
            _, poses, inpainting = (np.stack([x.popleft() for _ in range(size)]) for x in rows)
            noise = np.broadcast_to(self._noise, (size, *self._noise.shape))
            condition = embed({"poses": poses, "inpainting": inpainting})
            yield {"noise": noise, "condition": condition}

    def _paste(self, decoded: list[Decoding]) -> None:
        """Paste decoded crops into the first usable frames that wait, and let these pass."""
        if not decoded:
            return
        crops = np.concatenate([x.wait() for x in decoded])
        places = [i for i, x in enumerate(self._transforms) if np.isfinite(x[0, 0])][: len(crops)]
        transforms = np.stack([self._transforms[i] for i in places])
        frames = np.stack([self._frames[i] for i in places])
        numbers = self._came - len(self._frames) + np.array(places)
        inside = _pasted_regions(self._settings, self._masks, numbers, transforms)
        pasted = paste_faces(frames, crops, transforms, inside)
        for place, frame in zip(places, pasted, strict=True):
            self._frames[place] = frame
            self._transforms[place] = np.full((2, 3), np.nan)

    def _leave(self) -> Iterator[Images]:
        """Yield the frames before the first whose face is not repainted yet."""
        leaving = []
        while self._frames and not np.isfinite(self._transforms[0][0, 0]):
            self._transforms.popleft()
            leaving.append(self._frames.popleft())
        if leaving:
            yield np.stack(leaving)


def face_sampling(settings: Settings) -> Sampling:
    """Make the sampling settings of the face: the body's settings with the two scales of the face.

    The overlap is 0 unless the face attends over the frames of a window.
    """
    body, face = settings.sampling, settings.face
    return replace(
        body,
        guidance=face.guidance,
        control_scale=face.control_scale,
        overlap=body.overlap if face.windows else 0,
    )


def through_autoencoder(
    anchor: Anchor, frames: Images, face: Face | None, settings: Settings
) -> Images:
    """Encode and decode frames with the autoencoder.

    Args:
        anchor: the anchor, loaded.
        frames: uint8 (n, h, w, 3).
        face: where the faces are, which then also pass the autoencoder at the size of repainting
            and are pasted; or None.
        settings: the type of the computation, the size of the face and how it is pasted.

    Returns:
        uint8 (n, h, w, 3).
    """
    settings = settings.resolved()
    with matmul_precision(settings.sampling.dtype, settings.sampling.tf32):
        return _through_autoencoder(anchor.vae, frames, face, settings)


def _through_autoencoder(
    vae: Network[VAEConfig], frames: Images, face: Face | None, settings: Settings
) -> Images:
    mean = jnp.zeros(())  # zero noise gives the posterior's mean
    dtype = settings.sampling.dtype
    params = cast_kernels(vae.params, dtype)

    def encode(images: Images) -> Array:
        return jnp.asarray(encode_batches(vae.config, params, images, mean, dtype))

    out = decode(vae, encode(frames), dtype)
    if face is not None and face.track.usable.any():
        usable = face.track.usable
        transforms = face.track.transforms()[usable]
        crops = align.crop(frames[usable], transforms)
        latents = encode(resize_squares(crops, settings.face.size))
        decoded = np.concatenate(list(decode_batches(vae, latents, dtype, rounded=True)))
        inside = _pasted_regions(settings, face.masks, np.flatnonzero(usable), transforms)
        out[usable] = paste_faces(out[usable], decoded, transforms, inside)
    return out


def _pasted_regions(
    settings: Settings, masks: Masks | None, numbers: np.ndarray, transforms: np.ndarray
) -> np.ndarray | None:
    """Return the regions of crops that are pasted; None: whole crops."""
    if settings.face.blend == "square":
        return None
    return face_regions(masks, numbers, transforms)
