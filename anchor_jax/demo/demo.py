"""Run the whole system on the shipped assets: generate a video, measure it, and write a report."""

import json
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from anchor_jax import checkpoint
from anchor_jax.assets import Assets
from anchor_jax.body import edit, formats
from anchor_jax.body.bodies import open_body
from anchor_jax.body.motion import LEGS, Motion
from anchor_jax.body.parallel import Body, draw_clip
from anchor_jax.body.view import View, make_view
from anchor_jax.data import video
from anchor_jax.data.preview import moments
from anchor_jax.data.request import Request
from anchor_jax.demo.report import CEILING_FRAMES, Shown, write_demo
from anchor_jax.errors import AnchorError, note
from anchor_jax.files import check_results, check_space
from anchor_jax.poses.pose_images import conditions_beside, write_pose_images
from anchor_jax.processes import num_cores
from anchor_jax.progress import Progress, bars
from anchor_jax.shapes import Size
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

_FILES = {"video.mp4", "sheet.png", "metrics.json", "report.html"}
_SPACE = 100 << 20  # bytes, more than the demo writes
_METRICS = "metrics.jsonl"  # of a training run, beside its grids
# PSNR (dB) of held-out frames by step, as measured for 1,200 steps on the shipped frames.
_EXPECTED = {200: 24.4, 400: 26.0, 600: 26.7, 800: 27.2, 1000: 27.4, 1200: 27.5}
_MOMENTS = 8  # frames whose faces determine the camera


def check_place(out: Path) -> None:
    """Check before the work that the demo's folder can be written.

    Raises:
        AnchorError: it cannot be written, it has other files, or the disk is full.
    """
    check_results(out, _FILES)
    check_space({out: _SPACE})


def read_inputs(
    assets: Assets, motion: Path | None, fast: bool, steps: int | None, seed: int | None
) -> tuple[StudyClip, Variant]:
    """Read the test clip, and choose how to generate it.

    Args:
        assets: the shipped assets.
        motion: a motion file, which is only checked here; or None.
        fast: take the shortcuts of `Sampling.fast`.
        steps: denoising steps; None takes the anchor's.
        seed: seed of the noise; None takes the anchor's.

    Raises:
        AnchorError: a file is not readable, or the settings do not fit the anchor.
    """
    if motion is not None:
        formats.read_motion(motion)
    header, clip = checkpoint.load(assets.anchor, networks=()), read_clip(assets.test)
    variant = Variant(header.settings).with_sampling(fast=fast, steps=steps, seed=seed)
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
        assets: the assets that the clip comes from.
        clip: the test clip.
        out: the folder; an older demo there is replaced.
        anchor: the ANCHOR to generate from.
        before: another ANCHOR to compare with, or None.
        motion: a motion file, which replaces the clip's poses; the clip then has no ground truth.
        count: number of frames; None takes as many as the clip has.
        variant: how to generate.
        grids: folder with validation grids of a training run, which the report shows; or None.

    Returns:
        The scores.

    Raises:
        AnchorError: bad input, or the folder cannot be written; then it does not appear.
    """
    if motion is not None:
        with tempfile.TemporaryDirectory() as folder:
            count = count or len(clip.poses)
            clip = _draw_motion(motion, assets, clip, count, Path(folder) / "poses")
    elif count is not None:
        clip = clip[:count]
    variant = variant.resolved()
    dtype = variant.settings.sampling.dtype
    scores: dict[str, dict[str, float]] = {}
    if before is not None:
        print("before: the pretrained anchor", flush=True)
        _, scores["before"] = generate_and_measure(
            checkpoint.load(before, kernels=dtype), clip, variant, bars()
        )
    loaded = checkpoint.load(anchor, kernels=dtype)
    frames, scores["generated"] = generate_and_measure(loaded, clip, variant, bars())
    scores["autoencoder"] = ceiling(loaded, clip[:CEILING_FRAMES], variant)
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
    if grids is not None:
        facts["PSNR of held-out frames by step"] = _validation_psnr(grids.with_name(_METRICS))
        facts["PSNR to expect by step"] = _EXPECTED
    write_demo(out, Shown(clip.poses, frames, clip.truth, clip.fps, scores, facts, grids))
    return scores["generated"]


def read_posed(
    path: Path, assets: Assets, like: StudyClip, count: int
) -> tuple[Motion, Body, View]:
    """Read a motion file for the shipped person.

    Args:
        path: the motion file. Its shape is left out, because the anchor knows that of one person,
            and so are its legs: training showed the person standing.
        assets: the shipped assets, whose anchor knows the person's shape.
        like: a clip that gives the person, the frame rate and the size. The camera is placed so
            that the face has the same size and position as there.
        count: number of frames at that rate, at most.

    Returns:
        The motion, the body of the person, and the camera.

    Raises:
        AnchorError: the file is not a motion.
    """
    motion = edit.resample(replace(formats.read_motion(path), camera=None), like.fps)
    motion = edit.crop(motion, 0.0, min(motion.seconds, count / float(like.fps)))
    poses = motion.poses.copy()
    poses[:, LEGS] = 0  # training showed the person standing, down to the hips
    motion = replace(motion, poses=poses, betas=np.zeros(1, np.float32))
    framing = checkpoint.load(assets.anchor, networks=()).framing
    body = open_body(shape=framing.shape if framing else None)
    height, width = like.poses.shape[1:3]
    if like.track is None:
        return motion, body, make_view(motion, body.joints(motion), (width, height))
    return motion, body, view_like(body, motion, (width, height), like.track.landmarks)


def _draw_motion(
    path: Path, assets: Assets, like: StudyClip, count: int, folder: Path
) -> StudyClip:
    """Draw a motion file as a clip without ground truth; arguments as `read_posed`.

    Args:
        folder: the new folder for the pose images.

    Raises:
        AnchorError: the file is not a motion, or it cannot be drawn.
    """
    motion, body, view = read_posed(path, assets, like, count)
    images = draw_clip(body, motion, view)
    write_pose_images(images, view, like.fps, folder, conditions_beside(folder))
    try:
        clip = read_poses(folder, like.appearance)
    except AnchorError as error:  # the face is turned away in most frames
        note(f"faces are not repainted: {error}")
        clip = StudyClip(video.read_frames(folder)[0], like.appearance, like.fps)
    return replace(clip, fps=like.fps)


def view_like(body: Body, motion: Motion, size: Size, landmarks: np.ndarray) -> View:
    """Choose a camera that shows the face as large as it was, and where it was.

    Args:
        body: what moves.
        motion: how it moves; a camera of its own is not used.
        size: width and height of the images, pixels.
        landmarks: (n, 5, 2), pixels, of faces in images of this size; NaN if unknown.
    """
    motion = replace(motion, camera=None)
    view = make_view(motion, body.joints(motion), size)
    return _frame_like(view, _project_landmarks(body, motion, view), landmarks)


def _project_landmarks(body: Body, motion: Motion, view: View) -> np.ndarray:
    """Project the face landmarks of some frames of a motion: (k, 5, 2), pixels."""
    chosen = motion[moments(len(motion.poses), _MOMENTS)]
    return view.project(view.place(body.landmarks(body.vertices(chosen))))[0]


def _frame_like(view: View, landmarks: np.ndarray, wanted: np.ndarray) -> View:
    """Move and zoom the camera so that the median face has the wanted size and position.

    Pixels p become s p + t, where s and t minimise the squared error of the median landmarks.

    Args:
        view: the camera.
        landmarks: (k, 5, 2), pixels, as the camera sees them.
        wanted: (n, 5, 2), pixels, as it should see them; NaN if unknown.
    """
    seen, target = np.median(landmarks, 0), np.nanmedian(wanted, 0)
    p, q = seen - seen.mean(0), target - target.mean(0)
    scale = float((p * q).sum() / (p * p).sum())
    if not 0 < scale < np.inf:  # the face is turned away: no scale fits
        return view
    return view.zoomed(scale, seen.mean(0), target.mean(0))


def prepare_training(assets: Assets, out: Path, progress: Progress) -> Path:
    """Prepare the shipped training frames as the data set `out`, unless it exists.

    Args:
        assets: the shipped assets.
        out: folder of the data set.
        progress: makes the progress bars.

    Returns:
        `out`.

    Raises:
        AnchorError: the assets have no training frames, or `out` cannot be written.
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


def _validation_psnr(metrics: Path) -> dict[int, float]:
    """Read the PSNR (dB) of a run's validation frames, by step."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    name = "validation/psnr"
    return {line["step"]: round(line[name], 1) for line in lines if name in line}


def prepare_start(assets: Assets, out: Path) -> Path:
    """Prepare the ANCHOR to finetune as `out`, unless it exists: the pretrained one with the face
    part of the finished one. Both have the same autoencoder and image encoder.

    Returns:
        `out`.

    Raises:
        AnchorError: `out` cannot be written.
    """
    if not out.exists():
        whole = checkpoint.load(assets.anchor, ("face/unet", "face/control"), dtype=None)
        others = [name for name in whole.networks() if not name.startswith("face/")]
        start = checkpoint.load(assets.pretrained, others, dtype=None)
        settings = replace(start.settings, face=whole.settings.face)
        checkpoint.save(out, replace(start, face=whole.face, settings=settings))
    return out


def finetune(
    start: Path, data: Path, run: Path, steps: int, train: Callable[[list[str]], None]
) -> Path:
    """Finetune an anchor, or continue a stopped run. What to expect is printed first.

    Args:
        start: the ANCHOR to start from.
        data: the data set.
        run: folder of the run.
        steps: optimizer steps.
        train: the program `train/finetune.py`, called with its command line.

    Returns:
        The folder of the finetuned ANCHOR.

    Raises:
        AnchorError: `steps` is below 1, or as the program.
    """
    if steps < 1:
        raise AnchorError(f"--finetune-steps {steps}: expected at least 1")
    expected = ", ".join(f"{psnr} dB at step {step}" for step, psnr in _EXPECTED.items())
    print(f"PSNR to expect of held-out frames, of 1200 steps: {expected}", flush=True)
    words = {
        "preset": "small",
        "anchor": start,
        "data": data,
        "out": run,
        "steps": steps,
        "validate-every": max(1, steps // 6),
        "save-every": max(1, steps // 6),
    }
    train([word for name, value in words.items() for word in (f"--{name}", str(value))])
    return run / "anchor"
