"""Measures by the minute how a long video drifts, and how one of chained clips does.

    python -m benchmarks.long_video --out docs/benchmarks

The motion is the test clip's there and back again, so the truth of every frame is known and every
pose returns in each cycle: a network that does not drift makes the same frame of it each time.

Two methods generate it with the same networks, settings, noise and solver (DDIM). Faces are not
repainted.

"overlapping windows": `anchor_jax.stream`.

"chained clips": clips of one window each, as image-to-video models continue a video. The last frame
of a clip, uint8, is the first of the next one, which is generated so: the frame is encoded again
(mean of the posterior); at every step, the first latent of the window is that latent, noised to the
step's level with the initial noise; and the frame is also the picture of the person. The first
clip has no such frame and starts from the clip's picture.

Writes `long_video.json`, `.md` (a table), `.svg` (a plot) and for each method `long_video-*.png`
(the same pose at each minute), again after each cycle of the motion. Each method has a process of
its own. What grows with the length are the scores of frames alone.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import anchor_jax
from anchor_jax import checkpoint
from anchor_jax.assets import SHIPPED_NAME, open_assets
from anchor_jax.checkpoint import Anchor
from anchor_jax.compiling import matmul_precision
from anchor_jax.data.dataset import encode
from anchor_jax.diffusion import Sampling, ddim_step, guide, sampling_steps
from anchor_jax.diffusion.ddim import add_noise
from anchor_jax.diffusion.sample import predict_windows
from anchor_jax.errors import AnchorError, require
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.files import placed
from anchor_jax.generation.networks import (
    Decoder,
    body_denoiser,
    clip_pixels,
    denoiser_params,
    encode_appearance,
    encode_images,
    encode_pixels,
    initial_latents,
)
from anchor_jax.memory import peak_memory_mb
from anchor_jax.processes import run_alone
from anchor_jax.progress import open_bar
from anchor_jax.shapes import Array, Images
from anchor_jax.studies.clip import StudyClip, face_region, read_clip
from anchor_jax.studies.results import json_safe
from anchor_jax.studies.sheet import sheet
from anchor_jax.versions import versions

_NAME = "long_video"
_MEASURED = 12  # frames that are measured together
_BESIDE = 1.6  # side of the head's square, in heights of the face region
_BODY = 6 / 128  # of the height: hair and clothes reach so far over the body of the pose image

# Scores by the keys of the JSON file: their heading and number of decimals.
_SCORES = {
    "psnr": ("PSNR", 2),
    "background_psnr": ("background PSNR", 2),
    "identity": ("cosine of CLIP image-encoder tokens, head", 4),
    "sharpness": ("sharpness / truth", 3),
    "colour": ("colour: mean - truth", 2),
    "spread": ("colour: spread - truth", 2),
}


@dataclass(frozen=True)
class Job:
    """What all methods share.

    Attributes:
        anchor: the ANCHOR.
        clip: folder of the test clip, see `studies.clip.read_clip`.
        frames: number of frames to generate, by method.
        out: folder for the results.
        minute: frames of a minute.
        steps: denoising steps; None: the anchor's.
    """

    anchor: Path
    clip: Path
    frames: dict[str, int]
    out: Path
    minute: int = 1800
    steps: int | None = None


class PingPong:
    """The frames of a clip there and back again without end; the two turning points come once."""

    def __init__(self, length: int):
        self._length, self.period = length, max(2 * length - 2, 1)

    def index(self, number: int) -> int:
        """Return the clip's frame that frame `number` of the video shows.

        >>> [PingPong(3).index(number) for number in range(6)]
        [0, 1, 2, 1, 0, 1]
        """
        place = number % self.period
        return min(place, self.period - place) if self._length > 1 else 0


class Meter:
    """Compares frames with the truth.

    Args:
        anchor: the anchor, whose image encoder is used.
        clip: the clip with its truth.
    """

    def __init__(self, anchor: Anchor, clip: StudyClip):
        assert clip.truth is not None
        self._encoder, self._truth = anchor.image_encoder, clip.truth
        self._boxes = [_head_box(region) for region in face_region(clip)]
        reach = max(round(_BODY * clip.poses.shape[1]), 1)
        body = clip.poses.any(-1)
        self._background = ndimage.binary_dilation(body, np.ones((1, 3, 3)), reach) == 0
        every = np.arange(len(clip))
        self._own = self._describe(clip.truth, every)

    def _describe(self, frames: Images, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what does not need the truth: tokens of the head (k, s, c), sharpness (k,), and
        mean and spread of the channels (k, 3)."""
        heads = [frame[self._boxes[i]] for frame, i in zip(frames, indices, strict=True)]
        size = self._encoder.config.image_size
        tokens = []
        for start in range(0, len(heads), _MEASURED):
            pixels = [clip_pixels(head, size) for head in heads[start : start + _MEASURED]]
            batch = np.concatenate(pixels + pixels[:1] * (_MEASURED - len(pixels)))
            with matmul_precision("float32"):
                encoded = encode_pixels(self._encoder.config, self._encoder.params, batch)
            tokens.append(np.asarray(encoded)[: len(pixels)])
        grey = frames.mean(-1)
        return {
            "tokens": np.concatenate(tokens),
            "sharpness": np.array([ndimage.laplace(image).var() for image in grey]),
            "colour": frames.mean((1, 2)),
            "spread": frames.std((1, 2)),
        }

    def measure(self, frames: Images, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Measure frames (k, h, w, 3) of the clip's poses `indices`.

        Returns:
            For each of `_SCORES` an array (k,), or (k, 3) for the channels.
        """
        truth, background = self._truth[indices], self._background[indices]
        ours = self._describe(frames, indices)
        theirs = {name: values[indices] for name, values in self._own.items()}
        lengths = [np.linalg.norm(x["tokens"], axis=-1) for x in (ours, theirs)]
        products = (ours["tokens"] * theirs["tokens"]).sum(-1)
        return {
            "psnr": psnr(frames, truth),
            "background_psnr": psnr(frames, truth, background),
            "identity": (products / (lengths[0] * lengths[1])).mean(-1),
            "sharpness": ours["sharpness"] / theirs["sharpness"],
            "colour": ours["colour"] - theirs["colour"],
            "spread": ours["spread"] - theirs["spread"],
        }


def _head_box(region: np.ndarray) -> tuple[slice, slice]:
    """Return the square around a face region, bool (h, w), which the head fills; or all of it."""
    if not region.any():
        return np.s_[:, :]
    (top, bottom), (left, right) = (
        np.flatnonzero(region.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0)
    )
    half = max(bottom - top, right - left) * _BESIDE / 2
    spans = (
        slice(max(round((low + high) / 2 - half), 0), round((low + high) / 2 + half))
        for low, high in ((top, bottom), (left, right))
    )
    return tuple(spans)  # pyright: ignore[reportReturnType]


def generate_windows(
    anchor: Anchor, clip: StudyClip, poses: Iterator[Images], sampling: Sampling
) -> Iterator[Images]:
    """Yield the frames of overlapping windows, uint8 (h, w, 3)."""
    yield from anchor_jax.stream(anchor, poses, clip.appearance, **asdict(sampling))


def generate_chain(
    anchor: Anchor, clip: StudyClip, poses: Iterator[Images], sampling: Sampling
) -> Iterator[Images]:
    """Yield the frames of chained clips, uint8 (h, w, 3), see the module."""
    size = sampling.window
    height, width, _ = clip.poses.shape[1:]
    vae = anchor.vae
    factor = vae.config.factor
    shape = size, height // factor, width // factor, vae.config.latent_channels
    noise = jnp.asarray(initial_latents(shape, seed=sampling.seed))
    decoder = Decoder(vae, sampling.dtype)
    picture, held, before = clip.appearance, None, []
    while window := before + list(islice(poses, size - len(before))):
        if len(window) == len(before):
            return
        tokens = encode_appearance(anchor.image_encoder, picture)
        params = denoiser_params(anchor.body, tokens, anchor.empty_text, sampling)
        shown = np.stack(window + window[-1:] * (size - len(window)))
        latents = _denoise_clip(anchor, params, noise, shown, len(window), held, sampling)
        decoded = np.concatenate([x.wait() for x in decoder.start(latents)])[: len(window)]
        yield from decoded[len(before) :]
        picture, before = decoded[-1], window[-1:]
        pixels = jnp.asarray(picture[None] / np.float32(127.5) - 1)
        held = encode_images(vae.config, vae.params, pixels, jnp.zeros(()), sampling.dtype)[0]


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


METHODS: dict[str, Callable[..., Iterator[Images]]] = {
    "overlapping windows": generate_windows,
    "chained clips": generate_chain,
}


def measure_method(name: str, job: Job) -> None:
    """Generate and measure with one method, and write the results after each cycle."""
    clip = read_clip(job.clip)
    loaded = checkpoint.load(job.anchor)
    changes = {"steps": job.steps, "solver": "ddim", "spacing": "leading", "devices": 1}
    sampling = loaded.settings.sampling.updated(**changes).resolved()
    meter, order = Meter(loaded, clip), PingPong(len(clip))
    count = job.frames[name]
    poses = (clip.poses[order.index(number)] for number in range(count))
    frames = METHODS[name](loaded, clip, poses, sampling)
    scores: list[dict[str, np.ndarray]] = []
    memory, shown, done = [], [], 0
    with open_bar(name, count, "frame") as bar:
        while batch := list(islice(frames, _MEASURED)):
            numbers = range(done, done + len(batch))
            indices = np.array([order.index(number) for number in numbers])
            scores.append(meter.measure(np.stack(batch), indices))
            shown += [x for n, x in zip(numbers, batch, strict=True) if _is_shown(n, order, job)]
            before, done = done, done + len(batch)
            bar(len(batch))
            if done // job.minute > before // job.minute:
                memory.append(round(peak_memory_mb()))
            if done // order.period > before // order.period or done == count:
                result = _summarise(scores, order.period, job.minute)
                result |= {"frames": done, "peak_memory_mb_by_minute": memory}
                _write(name, result, job, asdict(sampling))
                assert clip.truth is not None
                rows = ("truth", np.repeat(clip.truth[:1], len(shown), 0)), (name, np.stack(shown))
                _place(job.out / f"{_NAME}-{name.split()[0]}.png", encode(sheet([*rows]), 9))


def _is_shown(number: int, order: PingPong, job: Job) -> bool:
    """Return whether a frame is the first of the clip, and the first such of a minute."""
    cycle, place = divmod(number, order.period)
    return not place and (not cycle or number // job.minute > (number - order.period) // job.minute)


def _summarise(
    scores: list[dict[str, np.ndarray]], period: int, minute: int
) -> dict[str, list[dict[str, Any]]]:
    """Average the scores of frames over each minute and over each cycle."""
    joined = {name: np.concatenate([each[name] for each in scores]) for name in _SCORES}

    def means(length: int) -> list[dict[str, Any]]:
        starts = range(0, len(joined["psnr"]), length)
        return [
            {name: np.round(x[i : i + length].mean(0), 4).tolist() for name, x in joined.items()}
            for i in starts
        ]

    return {"minutes": means(minute), "cycles": means(period)}


def _write(name: str, result: dict[str, Any], job: Job, settings: dict[str, Any]) -> None:
    """Write the files with this method's results so far, beside those of the others."""
    path = job.out / f"{_NAME}.json"
    head = {"anchor": str(job.anchor), "minute": job.minute, "settings": settings}
    methods: dict[str, Any] = {}
    if path.is_file():
        record = json.loads(path.read_text("utf-8"))
        if all(record.get(key) == value for key, value in head.items()):
            methods = record["methods"]
    methods[name] = result
    methods = {each: methods[each] for each in METHODS if each in methods}
    record = json_safe(head | {"versions": versions(), "methods": methods})
    _place(path, f"{json.dumps(record, indent=1)}\n".encode())
    _place(path.with_suffix(".md"), f"{table(methods)}\n".encode())
    _place(path.with_suffix(".svg"), _plot(methods, job.minute).encode())


def _place(path: Path, content: bytes) -> None:
    with placed(path) as new:
        new.write_bytes(content)


def table(methods: dict[str, Any]) -> str:
    """Format the means of the first cycle and of each minute as a Markdown table. Colours are those
    of red, green and blue."""
    lines = [["", "", *(heading for heading, _ in _SCORES.values())]]
    lines.append(["---"] * len(lines[0]))
    for name, result in methods.items():
        minutes = [(f"minute {i}", row) for i, row in enumerate(result["minutes"], 1)]
        for title, row in [("first cycle", result["cycles"][0]), *minutes]:
            cells = [
                " / ".join(f"{x:.{decimals}f}" for x in np.atleast_1d(row[key]))
                for key, (_, decimals) in _SCORES.items()
            ]
            lines.append([name, title, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plot(methods: dict[str, Any], minute: int) -> str:
    """Plot the means of whole cycles as SVG text, with a panel for each score."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    for number, (key, (heading, _)) in enumerate(_SCORES.items(), 1):
        axes = figure.add_subplot(2, 3, number)
        for colour, (name, result) in enumerate(methods.items()):
            cycles = result["cycles"]
            places = (np.arange(len(cycles)) + 0.5) * (result["frames"] / minute / len(cycles))
            values = np.array([row[key] for row in cycles]).reshape(len(cycles), -1)
            for line, style in zip(values.T, ("-", "--", ":"), strict=False):
                axes.plot(places, line, style, color=f"C{colour}", label=name)
                name = None  # one entry of the key for all channels
        axes.set_title(heading, fontsize=9)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel("minutes; means of cycles; colours: red -, green --, blue :", fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--anchor", type=Path, default=Path(SHIPPED_NAME), help="the ANCHOR (shipped)"
    )
    parser.add_argument("--clip", type=Path, help="folder of the test clip (the shipped one)")
    parser.add_argument("--frames", type=int, default=9000, help="frames to generate (9000)")
    parser.add_argument("--chained-frames", type=int, help="of chained clips (as many)")
    parser.add_argument("--minute", type=int, default=1800, help="frames of a minute (1800)")
    parser.add_argument("--steps", type=int, help="denoising steps (the anchor's)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], help="which to measure (both)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args(words)
    counts = dict(zip(METHODS, (args.frames, args.chained_frames or args.frames), strict=True))
    try:
        require(
            (min(counts.values()) >= 1, "frames: expected at least 1"),
            (args.minute >= 1, f"minute is {args.minute}: expected at least 1 frame"),
        )
        clip = args.clip or open_assets().test
        job = Job(args.anchor, clip, counts, args.out, args.minute, args.steps)
        for name in args.methods:
            run_alone(measure_method, name, job, advice="take fewer frames")
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((args.out / f"{_NAME}.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
