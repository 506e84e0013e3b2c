"""Hold generated videos of any method against true videos, in a fixed amount of memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.errors import AnchorError, require
from anchor_jax.evaluation import flow, i3d, identity, inception, people
from anchor_jax.evaluation.fvd import Clips
from anchor_jax.evaluation.lpips import load_lpips
from anchor_jax.evaluation.perceptual import SMALLEST
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.evaluation.stlpips import load_stlpips
from anchor_jax.evaluation.weights import Unavailable, check_folder
from anchor_jax.generation.networks import encode_pictures
from anchor_jax.generation.unfinished import Unfinished
from anchor_jax.progress import Progress, silent
from anchor_jax.shapes import show_size
from anchor_jax.studies.comparing import Run
from anchor_jax.studies.evaluation import Evaluation, fvd_interval, interval
from anchor_jax.studies.exact import Exact
from anchor_jax.studies.keypoint_files import Landmarks, read_keypoints
from anchor_jax.studies.measures import (
    OF_CHANGES,
    OF_FRAMES,
    FeatureSets,
    Flow,
    Measure,
    Pixels,
    VideoDistance,
)
from anchor_jax.studies.people import OF_PEOPLE, People
from anchor_jax.studies.video_pairs import VideoPair, read_pair, stamp

_OF_CLIP = "clip_frechet", "clip_kernel"
_OF_INCEPTION = "fid", "kid"
METRICS = (
    *(*OF_FRAMES, "lpips", "stlpips", *OF_CHANGES, "flow_error", *OF_PEOPLE),
    *(*_OF_INCEPTION, *_OF_CLIP, "fvd"),
)
CLIP = 300  # frames; the paper evaluates clips of 300 (section 4.2)

_BATCH = 16  # pictures in one call of a network


def evaluate(
    generated: Sequence[str | Path],
    truth: Sequence[str | Path],
    metrics: Sequence[str] | None = None,
    *,
    poses: Sequence[str | Path] | None = None,
    generated_landmarks: Sequence[str | Path] | None = None,
    truth_landmarks: Sequence[str | Path] | None = None,
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
        metrics: of `METRICS`; None: all whose weights are there; `Evaluation.notes` has the others.
        poses: as many pose images of `anchor-jax render`, their conditions folders, or files of
            face landmarks: where the landmarks should be, in place of those of the truth.
        generated_landmarks: as many folders of OpenPose's JSON files or files of COCO-WholeBody, in
            place of those that MediaPipe's models find in the generated frames.
        truth_landmarks: the same for the true frames.
        anchor: with its image encoder loaded, for "clip_frechet" and "clip_kernel": distances
            between the sets of class tokens of all frames. They are no FID or KID, whose features
            are Inception's, and differ from anchor to anchor.
        clips: how FVD cuts clips; None: 16 frames, one after the other.
        clip: frames of a clip of the table.
        resized: whether generated frames of another size are resized to the truth's (Lanczos).
        weights: folder of the weight files; None: `metrics` in the user's cache folder.
        progress: makes the progress bar.

    Returns:
        The scores.

    Raises:
        AnchorError: videos that do not fit together or cannot be read, an unknown metric, or the
            weights of a metric in `metrics` are missing.
    """
    comparison = Comparison(
        generated,
        truth,
        metrics,
        poses=poses,
        landmarks=(generated_landmarks, truth_landmarks),
        anchor=anchor,
        clips=clips,
        clip=clip,
        resized=resized,
        weights=weights,
    )
    return comparison.run(progress)


class Comparison:
    """Videos that are to be compared, checked, with the metrics' weights loaded.

    Args:
        required: whether a metric of `metrics` whose weights are missing is an error; else it is
            left out. The other arguments, and the errors, are those of `evaluate`.

    Attributes:
        facts: what the scores depend on, JSON values.
        notes: which metrics are left out, and why.
        stamps: size and time of each input, by which a change is noticed.
    """

    def __init__(
        self,
        generated: Sequence[str | Path],
        truth: Sequence[str | Path],
        metrics: Sequence[str] | None = None,
        *,
        required: bool = True,
        poses: Sequence[str | Path] | None = None,
        landmarks: tuple[Sequence[str | Path] | None, Sequence[str | Path] | None] = (None, None),
        anchor: Anchor | None = None,
        clips: Clips | None = None,
        clip: int = CLIP,
        resized: bool = False,
        weights: str | Path | None = None,
    ):
        if isinstance(generated, str | Path) or isinstance(truth, str | Path):
            raise AnchorError("expected lists of videos, also where there is one")
        unknown = sorted(set(metrics or ()) - set(METRICS))
        named = {
            "true videos": truth,
            "pose images": poses,
            "landmarks of generated videos": landmarks[0],
            "landmarks of true videos": landmarks[1],
        }
        require(
            (metrics is None or metrics, "no metrics: name one, or leave them out to have all"),
            (not unknown, f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}"),
            (
                anchor is not None or not set(_OF_CLIP) & set(metrics or ()),
                f"{' and '.join(_OF_CLIP)} need an anchor, whose image encoder they use",
            ),
            (clip >= 1, f"clip is {clip}: expected at least 1"),
            (generated, "no videos to evaluate"),
            *(
                (
                    paths is None or len(paths) == len(generated),
                    f"{len(generated)} generated videos, but {len(paths or ())} {what}: expected as"
                    " many",
                )
                for what, paths in named.items()
            ),
        )
        both = zip(generated, truth, strict=True)
        self._pairs = [read_pair(Path(a), Path(b), resized) for a, b in both]
        self._asked = METRICS if metrics is None else metrics
        self._required, self._clip = required and metrics is not None, clip
        self._anchor = anchor
        self._clips = Clips() if clips is None else clips
        self._weights = None if weights is None else Path(weights)
        if self._weights is not None:
            check_folder(self._weights)
        self._given = self._read_landmarks(landmarks)
        self._exact = self._read_exact(poses)
        self.notes: list[str] = []
        if (landmarks[0] is None) != (landmarks[1] is None) and poses is None:
            self.notes.append(
                "landmarks are given for one side and found by MediaPipe's models for the other:"
                " their definitions differ, and so do the distances"
            )
        self.facts: dict[str, Any] = {
            "videos": [pair.facts() for pair in self._pairs],
            "clip": clip,
            "landmarks": [None if x is None else [str(path) for path in x] for x in landmarks],
            "poses": None if poses is None else [str(path) for path in poses],
            "weights": {},
        }
        inputs = [*generated, *truth, *(poses or ()), *(landmarks[0] or ()), *(landmarks[1] or ())]
        self.stamps = {str(path): stamp(Path(path)) for path in inputs}
        self._measures = self._make_measures()
        self.facts["metrics"] = [name for names, _ in self._measures for name in names]

    def run(self, progress: Progress = silent, unfinished: Unfinished | None = None) -> Evaluation:
        """Compare the videos, once.

        Args:
            progress: makes the progress bar.
            unfinished: where the state is kept from which a later call goes on.

        Returns:
            The scores.

        Raises:
            AnchorError: a frame cannot be read.
        """
        run = Run(self._pairs, [measure for _, measure in self._measures])
        total = sum(pair.count for pair in self._pairs)
        if unfinished is not None and unfinished.state is not None:
            run.restore(unfinished.state)
        with progress("comparing", total - run.done, "frame") as advance:
            for block in run.blocks():
                advance(len(block.images))
                if unfinished is not None:
                    unfinished.save(run.state, run.done)
        return self._result(run)

    def _result(self, run: Run) -> Evaluation:
        """Compute the scores of all videos."""
        of_sets = {k: x for _, measure in self._measures for k, x in measure.scores().items()}
        asked = {name for names, _ in self._measures for name in names}
        names = [name for name in METRICS if name in asked and name not in of_sets]
        none = np.zeros(0)  # of a video that is too short
        values = [{name: x.get(name, none) for name in names} for x in run.values if names]
        scores = {name: known_mean(np.concatenate([x[name] for x in values])) for name in names}
        facts, floors, notes = dict(self.facts), {}, list(self.notes)
        for _, measure in self._measures:
            floors |= measure.floors()
            facts |= measure.facts()
            notes += measure.notes()
        scores |= of_sets
        scores = {name: scores[name] for name in METRICS if name in scores}
        worst = sorted(run.worst, key=lambda frame: -frame.error)
        notes += [self._nothing_found(name, facts) for name, x in scores.items() if np.isnan(x)]
        if np.isinf(scores.get("psnr", 0.0)):
            equal = sum(int(np.isinf(x["psnr"]).sum()) for x in values)
            notes.append(f"psnr is infinite, because {equal} frames are equal to their truth")
        result = Evaluation(values, self._clip, scores, {}, floors, worst, facts, notes)
        result.intervals.update({name: interval(result.pieces(name)) for name in names})
        for _, measure in self._measures:
            if isinstance(measure, VideoDistance):
                result.intervals["fvd"] = fvd_interval(*measure.features())
        return result

    def _nothing_found(self, name: str, facts: Mapping[str, Any]) -> str:
        """Say why a metric has no score."""
        if name not in OF_PEOPLE:
            return f"{name} has no score: it has a value for no frame, or needs more frames"
        if name == "jitter":
            return "jitter has no score: no landmark is seen in both videos for three frames"
        part = "face" if name == "identity" else name.removeprefix("lmd_")
        sides = {side: f"{100 * x[part]:.0f} %" for side, x in facts["found"].items()}
        if name != "identity" and any(x is not None for x in self._exact):
            return f"{name} has no score: {part} found in {sides['generated']} of generated frames"
        return (
            f"{name} has no score: {part} found in {sides['generated']} of generated and"
            f" {sides['truth']} of true frames, never in both"
        )

    def _make_measures(self) -> list[tuple[list[str], Measure]]:
        """Make the measures of the metrics that were asked for, or of all whose weights are there.

        Raises:
            AnchorError: the weights of a metric that was asked for are missing.
        """
        makers: list[tuple[Sequence[str], Callable[[list[str]], Measure]]] = [
            ((*OF_FRAMES, *OF_CHANGES), self._pixels),
            (("lpips",), partial(self._perceptual, load_lpips)),
            (("stlpips",), partial(self._perceptual, load_stlpips)),
            (("flow_error",), self._flow),
            (OF_PEOPLE, self._people),
            (_OF_INCEPTION, self._inception),
            (_OF_CLIP, self._clip_tokens),
            (("fvd",), self._fvd),
        ]
        made = []
        for group, make in makers:
            if group == _OF_CLIP and self._anchor is None:
                continue
            names = [name for name in group if name in self._asked]
            if not names:
                continue
            try:
                made.append((names, make(names)))
            except Unavailable as error:
                if self._required:
                    raise
                self.notes.append(f"left out: {', '.join(names)}: {error}")
        return made

    def _pixels(self, names: list[str]) -> Measure:
        chosen = lambda table: {name: x for name, x in table.items() if name in names}
        return Pixels(chosen(OF_FRAMES), chosen(OF_CHANGES))

    def _perceptual(self, load: Callable[..., Any], names: list[str]) -> Measure:
        self._check_sides(SMALLEST, "perceptual distances need")
        metric, digests = load(self._weights)
        self.facts["weights"] |= digests
        (name,) = names
        return Pixels({name: metric}, {})

    def _flow(self, names: list[str]) -> Measure:
        self._check_sides(flow.SMALLEST, "optical flow needs")
        return Flow()

    def _check_sides(self, least: int, what: str) -> None:
        for pair in self._pairs:
            if min(pair.size) < least:
                raise Unavailable(
                    f"{pair.truth} is {show_size(pair.size)}: {what} sides of at least {least}"
                    " pixels"
                )

    def _people(self, names: list[str]) -> Measure:
        finders = descriptor = None
        if "identity" in names:
            try:
                finders, digests = people.load_finders(self._weights)
                descriptor, more = identity.load_descriptor(self._weights)
                self.facts["weights"] |= digests | more
            except Unavailable as error:
                if self._required:
                    raise
                self.notes.append(f"left out: identity: {error}")
                names.remove("identity")
        if finders is None and any(None in sides for sides in self._given):
            finders, digests = people.load_finders(self._weights)
            self.facts["weights"] |= digests
        num_frames = sum(pair.count for pair in self._pairs)
        return People(names, finders, descriptor, self._given, self._exact, num_frames)

    def _inception(self, names: list[str]) -> Measure:
        self._check_frames(names)
        variables, digest = inception.load_inception(self._weights)
        self.facts["weights"] |= {inception.FILE.name: digest}
        encode = partial(inception.inception_features, variables)
        return FeatureSets(_chosen(_OF_INCEPTION, names), encode, inception.NUM_FEATURES)

    def _clip_tokens(self, names: list[str]) -> Measure:
        assert self._anchor is not None
        self._check_frames(names)
        encoder = self._anchor.image_encoder
        encode = lambda images: encode_pictures(encoder, images, _BATCH)[:, 0]
        return FeatureSets(_chosen(_OF_CLIP, names), encode, encoder.config.width)

    def _check_frames(self, names: list[str]) -> None:
        if sum(pair.count for pair in self._pairs) < 2:
            raise Unavailable(f"{' and '.join(names)} need at least two frames")

    def _fvd(self, names: list[str]) -> Measure:
        _check_clips(self._pairs, self._clips)
        variables, digest = i3d.load_i3d(self._weights)
        self.facts["weights"] |= {i3d.FILE.name: digest}
        self.facts["fvd"] = asdict(self._clips)
        return VideoDistance(variables, self._clips)

    def _read_landmarks(
        self, sides: tuple[Sequence[str | Path] | None, Sequence[str | Path] | None]
    ) -> list[tuple[Landmarks | None, Landmarks | None]]:
        """Read the landmarks that are given, of each pair: generated and true."""
        found = []
        for number, pair in enumerate(self._pairs):
            rows = []
            for paths, size in zip(sides, (pair.own_size, pair.size), strict=True):
                if paths is None:
                    rows.append(None)
                    continue
                scale = np.array(pair.size) / size
                read = read_keypoints(Path(paths[number]), pair.count)
                rows.append(partial(_scaled, read, scale))
            found.append((rows[0], rows[1]))
        return found

    def _read_exact(self, poses: Sequence[str | Path] | None) -> list[Exact | None]:
        """Read where landmarks should be, of each pair."""
        if poses is None:
            return [None] * len(self._pairs)
        return [Exact.read(Path(x), pair) for x, pair in zip(poses, self._pairs, strict=True)]


def _chosen(both: tuple[str, str], names: Sequence[str]) -> tuple[str | None, str | None]:
    first, second = (name if name in names else None for name in both)
    return first, second


def _scaled(read: Landmarks, scale: np.ndarray, number: int) -> people.Person:
    """Read landmarks of a frame that is resized."""
    person = read(number)
    return people.Person(*(x * scale for x in asdict(person).values()))


def _check_clips(pairs: Sequence[VideoPair], clips: Clips) -> None:
    """Check that every video has a clip of FVD, and all together have two."""
    advice = "leave fvd out of the metrics"
    for pair in pairs:
        if not clips.number(pair.count):
            raise Unavailable(
                f"{pair.truth}: {pair.count} frames, but FVD needs clips of {clips.length};"
                f" {advice}"
            )
    if sum(clips.number(pair.count) for pair in pairs) < 2:
        raise Unavailable(f"FVD needs at least two clips of {clips.length} frames; {advice}")
