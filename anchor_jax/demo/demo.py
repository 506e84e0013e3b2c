"""The whole system on the embedded default: a video, what it is worth, and a page that shows it."""

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from anchor_jax import checkpoint
from anchor_jax.assets import Assets
from anchor_jax.body import edit, formats
from anchor_jax.body.mannequin import Mannequin
from anchor_jax.body.motion import Motion
from anchor_jax.body.parallel import Body, draw_clip
from anchor_jax.body.view import View, make_view
from anchor_jax.data import video
from anchor_jax.data.preview import moments
from anchor_jax.data.request import Request
from anchor_jax.demo.report import Shown, write_demo
from anchor_jax.errors import AnchorError
from anchor_jax.files import check_parent, check_space
from anchor_jax.poses.pose_images import conditions_beside, write_pose_images
from anchor_jax.processes import num_cores
from anchor_jax.progress import Progress
from anchor_jax.studies.clip import (
    FPS,
    StudyClip,
    Variant,
    ceiling,
    check_clip,
    generate_and_measure,
    read_clip,
    read_poses,
)
from anchor_jax.versions import versions

FILES = {"video.mp4", "sheet.png", "metrics.json", "report.html"}
SPACE = 100 << 20  # bytes, more than it writes
MOMENTS = 8  # frames that place a motion in the picture


def check_place(out: Path) -> None:
    """Find out before the work whether the demo's folder will have a place.

    Raises:
        AnchorError: it cannot be written, or something else is there; or no space is left.
    """
    check_parent(out)
    if out.exists():
        if not out.is_dir():
            raise AnchorError(f"cannot write {out}: it is not a folder")
        if others := sorted(set(os.listdir(out)) - FILES):
            raise AnchorError(
                f"cannot write {out}: it holds other files, such as {others[0]}; choose another"
                " --out"
            )
    check_space(out, SPACE)


def read_inputs(
    assets: Assets, motion: Path | None, steps: int | None, seed: int | None
) -> tuple[StudyClip, Variant]:
    """The test clip, and how it is generated: as the shipped anchor recommends but for what is
    given. Raises AnchorError for what cannot work."""
    if motion is not None:
        formats.read_motion(motion)
    header, clip = checkpoint.load(assets.anchor, networks=()), read_clip(assets.test)
    variant = Variant(header.settings).with_sampling(steps=steps, seed=seed)
    check_clip(header, clip, variant)
    return clip, variant


def show(
    assets: Assets,
    clip: StudyClip,
    out: Path,
    *,
    anchor: Path,
    before: Path | None = None,
    motion: Path | None = None,
    count: int | None = None,
    variant: Variant,
    grids: Path | None = None,
) -> dict[str, float]:
    """Generate the test clip, or a motion, and write the demo's folder.

    Args:
        assets: where the clip comes from.
        clip: the test clip.
        out: the folder; an older demo there is replaced.
        anchor: the ANCHOR to generate from.
        before: another one to compare it with.
        motion: a motion file to follow instead of the clip's poses; then there is no truth.
        count: how many frames; default: as many as the clip has.
        variant: how to generate.
        grids: folder of a training's pictures, to be shown.

    Returns:
        the scores.

    Raises:
        AnchorError: bad input, or a place that cannot be written; then nothing is there.
    """
    if motion is not None:
        with tempfile.TemporaryDirectory() as folder:
            clip = draw_motion(motion, clip, count or len(clip.poses), Path(folder) / "poses")
    elif count is not None:
        clip = clip[:count]
    scores: dict[str, dict[str, float]] = {}
    if before is not None:
        print("before: the pretrained anchor", flush=True)
        _, scores["before"] = generate_and_measure(
            checkpoint.load(before), clip, variant, progress=True
        )
    loaded = checkpoint.load(anchor)
    frames, scores["generated"] = generate_and_measure(loaded, clip, variant, progress=True)
    scores["autoencoder"] = ceiling(loaded, clip, variant)
    seconds = scores["generated"].pop("seconds")
    scores.get("before", {}).pop("seconds", None)
    facts = {
        "frames": len(frames),
        "size": list(frames.shape[2:0:-1]),
        "seconds": round(seconds, 2),
        "seconds per frame": round(seconds / len(frames), 3),
        "settings": asdict(variant.settings),
        "versions": versions(),
        "machine": f"{platform.machine()}, {num_cores()} cores",
        "assets": assets.provenance,
    }
    if motion is not None:
        facts["motion"] = motion.name
    write_demo(out, Shown(clip.poses, frames, clip.truth, clip.fps, scores, facts, grids))
    return scores["generated"]


def draw_motion(path: Path, like: StudyClip, count: int, folder: Path) -> StudyClip:
    """The first `count` frames of a motion file as a clip of `like`'s person, rate and size. The
    camera stands where the face is as large, and in the same place, as it is in `like`.

    Raises:
        AnchorError: not a motion, or it cannot be drawn.
    """
    motion = edit.resample(replace(formats.read_motion(path), camera=None), like.fps)
    motion = edit.crop(motion, 0.0, min(motion.seconds, count / float(like.fps)))
    body = Mannequin()
    height, width = like.poses.shape[1:3]
    view = make_view(motion, body.joints(motion), (width, height))
    if like.track is not None:
        view = framed_as(view, face_marks(body, motion, view), like.track.landmarks)
    images = draw_clip(body, motion, view)
    write_pose_images(images, view, like.fps, folder, conditions_beside(folder))
    try:
        clip = read_poses(folder, like.appearance)
    except AnchorError as error:  # turned away most of the time
        print(f"anchor-jax: note: faces are not repainted: {error}", file=sys.stderr)
        clip = StudyClip(video.read_frames(folder)[0], like.appearance, like.fps)
    return replace(clip, fps=like.fps)


def face_marks(body: Body, motion: Motion, view: View) -> np.ndarray:
    """Face landmarks (k, 5, 2) of some moments of a motion, pixels."""
    chosen = motion[moments(len(motion.poses), MOMENTS)]
    return view.project(view.place(body.landmarks(body.vertices(chosen))))[0]


def framed_as(view: View, landmarks: np.ndarray, wanted: np.ndarray) -> View:
    """The view moved and zoomed so that the face, in the median of its frames, is as large and as
    high as it is wanted: pixels p become s p + t with the least squared error of s and t.

    Args:
        view: the camera.
        landmarks: (k, 5, 2), what it sees.
        wanted: (n, 5, 2), what it should see; NaN where not known.
    """
    seen, there = np.median(landmarks, 0), np.nanmedian(wanted, 0)
    p, q = seen - seen.mean(0), there - there.mean(0)
    scale = float((p * q).sum() / (p * p).sum())
    if not 0 < scale < np.inf:  # turned away: it cannot be laid over
        return view
    x, y = there.mean(0) - scale * (seen.mean(0) - np.array(view.center))
    return replace(view, focal_length=scale * view.focal_length, center=(float(x), float(y)))


def prepare_training(assets: Assets, out: Path, progress: Progress) -> Path:
    """The target's frames of training as the data set `out`; one that is there is left as it is.

    Raises:
        AnchorError: none are shipped, or it cannot be written.
    """
    if assets.train is None:
        raise AnchorError(
            f"{assets.folder} holds no frames to finetune on: name a data set with --data; python"
            " -m benchmarks.synthetic --out DIR draws one, DIR/target"
        )
    target = assets.train / "target.mp4"
    side = next(video.iter_sizes(target))[1][0]
    request = Request(
        videos=(target,),
        poses=(assets.train / "poses.mp4",),
        identity="target",
        audio=False,
        crop=(0, 0, side),
        size=(side, side),
        fps=video.read_rate(target) or FPS,
    )
    request.make(out, 1, progress)
    return out


def finetune(
    assets: Assets, data: Path, run: Path, steps: int, train: Callable[[list[str]], None]
) -> Path:
    """Finetune the pretrained anchor with the project's own program, or go on with it.

    Args:
        assets: with the pretrained anchor.
        data: the data set.
        run: the run's folder.
        steps: optimizer steps.
        train: the program, which takes its command line.

    Returns:
        the finished ANCHOR.
    """
    if steps < 1:
        raise AnchorError(f"--finetune-steps {steps}: expected at least 1")
    words = {
        "preset": "small",
        "anchor": assets.pretrained,
        "data": data,
        "out": run,
        "steps": steps,
        "warmup": min(100, steps // 10),
        "validate-every": max(1, steps // 6),
        "save-every": max(1, steps // 6),
    }
    train([word for name, value in words.items() for word in (f"--{name}", str(value))])
    return run / "anchor"
