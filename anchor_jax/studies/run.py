"""Run a study: generate a clip in several ways, each from several seeds in its own process."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anchor_jax import checkpoint
from anchor_jax.data.dataset import encode
from anchor_jax.data.preview import moments
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.fvd import Clips, clip_features, fvd
from anchor_jax.evaluation.i3d import load_i3d
from anchor_jax.evaluation.network_scores import NetworkScores
from anchor_jax.files import check_parent, placed
from anchor_jax.memory import peak_memory_mb
from anchor_jax.planning.generation import share_computed_again, step_flops
from anchor_jax.processes import run_alone
from anchor_jax.progress import bars
from anchor_jax.shapes import Images
from anchor_jax.studies.clip import (
    StudyClip,
    Variant,
    check_clip,
    generate_and_measure,
    generate_clip,
    measure,
    read_clip,
    through,
)
from anchor_jax.studies.results import Result, json_safe, markdown, plot
from anchor_jax.studies.sheet import sheet
from anchor_jax.versions import versions

FVD_STRIDE = 8  # frames between the clips of FVD


@dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
        anchor: the ANCHOR that generates the clip.
        variant: how to generate.
    """

    anchor: Path
    variant: Variant


@dataclass(frozen=True)
class Study:
    """The settings that all rows of a study share.

    Attributes:
        clip: folder of the test clip, see `clip.read_clip`.
        frames: number of frames from the start of the clip; None: all.
        seeds: seeds of the noise.
    """

    clip: Path
    frames: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)


def run_study(name: str, rows: Mapping[str, Row], study: Study, out: Path) -> dict[str, Result]:
    """Measure all rows, one after the other. The files are written again after each row.

    Args:
        name: file name without suffix.
        rows: the rows by their titles.
        study: settings of all rows.
        out: the folder for `NAME.json`, `NAME.md` (a table), `NAME.svg` (a plot) and `NAME.png`
            (frames of all rows).

    Returns:
        The results by the titles of the rows.

    Raises:
        AnchorError: bad input, reported before the first row; a process that ended too early.
    """
    clip = _check_study(rows, study, out)
    assert clip.truth is not None
    chosen = moments(len(clip.poses))
    references = [("pose", clip.poses[chosen]), ("truth", clip.truth[chosen])]
    described = {title: _describe(row) for title, row in rows.items()}
    results: dict[str, Result] = {}
    for number, (title, row) in enumerate(rows.items(), 1):
        print(f"{name} {number}/{len(rows)}: {title}", flush=True)
        results[title] = _measure_alone(row, study)
        record = {
            "clip": relative(study.clip),
            "frames": study.frames,
            "seeds": study.seeds,
            "versions": versions(),
            "rows": {
                title: described[title] | _numbers(result) for title, result in results.items()
            },
        }
        texts = {
            "json": json.dumps(record, indent=1),
            "md": markdown(results),
            "svg": plot(results),
        }
        files = {suffix: f"{text}\n".encode() for suffix, text in texts.items()}
        pictures = [(title, result.frames) for title, result in results.items()]
        files["png"] = encode(sheet(references + pictures), 9)
        for suffix, content in files.items():
            with placed(out / f"{name}.{suffix}") as path:
                path.write_bytes(content)
    print(markdown(results))
    return results


def _check_study(rows: Mapping[str, Row], study: Study, out: Path) -> StudyClip:
    """Check that all rows can be generated and that files in `out` can be written.

    Returns:
        The test clip.

    Raises:
        AnchorError: seeds, frames, a row or `out` cannot work.
    """
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise AnchorError(f"seeds are {list(study.seeds)}: expected at least one, each once")
    if study.frames is not None and study.frames < 1:
        raise AnchorError(f"frames is {study.frames}: expected at least 1")
    clip = read_clip(study.clip, study.frames)
    for row in rows.values():
        header = checkpoint.load(row.anchor, networks=())
        for seed in study.seeds:
            check_clip(header, clip, row.variant.with_sampling(seed=seed))
    check_parent(out / "results")
    return clip


def _measure_alone(row: Row, study: Study) -> Result:
    """Call `_measure_row` in a new process, so that the peak memory is that of this row."""
    return run_alone(_measure_row, row, study, advice="take fewer frames or a smaller window")


def _measure_row(row: Row, study: Study) -> Result:
    """Generate the clip from every seed and measure it, after a first step that compiles."""
    clip = read_clip(study.clip, study.frames)
    row = replace(row, variant=row.variant.resolved())
    dtype = row.variant.settings.sampling.dtype
    anchor = checkpoint.load(row.anchor, kernels=dtype)
    generate_clip(anchor, clip, row.variant.with_sampling(steps=1, seed=study.seeds[0]))
    assert clip.truth is not None
    networks, distance = NetworkScores(), _VideoDistance(clip.truth)
    scores, sampled_frames = [], []
    for seed in study.seeds:
        variant = row.variant.with_sampling(seed=seed)
        frames, score = generate_and_measure(anchor, clip, variant, bars())
        sampled_frames.append(frames[moments(len(frames))])
        score |= networks.measure(frames, clip.truth) | distance.to(frames)
        scores.append(score | {"seconds_per_frame": score.pop("seconds") / len(clip.poses)})
    sampling = row.variant.settings.sampling
    once = {
        "memory_mb": peak_memory_mb(),
        "gflops_per_frame": step_flops(anchor, clip.poses.shape, sampling) / 1e9,
        "computed_again": share_computed_again(len(clip.poses), sampling),
    }
    limit = through(anchor, clip, row.variant)
    limits = measure(limit, clip) | networks.measure(limit, clip.truth) | distance.to(limit)
    return Result(scores, once, limits, sampled_frames[0], dtype)


class _VideoDistance:
    """FVD from the truth, if there are clips enough and I3D's weights are there. Clips overlap,
    since a test clip is short."""

    def __init__(self, truth: Images):
        self._clips, self._variables = Clips(stride=FVD_STRIDE), None
        with suppress(AnchorError):
            if self._clips.number(len(truth)) > 1:
                self._variables, _ = load_i3d()
                self._truth = clip_features(self._variables, truth, self._clips)

    def to(self, frames: Images) -> dict[str, float]:
        if self._variables is None:
            return {}
        return {"fvd": fvd(clip_features(self._variables, frames, self._clips), self._truth)}


def _describe(row: Row) -> dict[str, Any]:
    """Describe a row for JSON: its anchor, the training runs of that anchor, and its settings."""
    trainings = checkpoint.load(row.anchor, networks=()).provenance.get("training", [])
    runs = [f"{run['stage']} on {run['data']}, {run['steps']} steps" for run in trainings]
    variant = row.variant
    return {
        "anchor": relative(row.anchor),
        "training": runs,
        **asdict(variant.settings),
        "faces": variant.faces,
        "fresh_noise": variant.fresh_noise,
    }


def _numbers(result: Result) -> dict[str, Any]:
    """Return the measurements for JSON, and the type that was computed in, without the pictures."""
    measured = {"scores": result.scores, "once": result.once, "autoencoder": result.autoencoder}
    return {"dtype": result.dtype, **json_safe(measured)}


def relative(path: Path) -> str:
    """Format a path, relative to the current folder if it is inside."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
