"""Read a test clip, generate it from an anchor, and compare it with the ground truth."""

import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.data import video
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.regions import known_mean, moving_below
from anchor_jax.evaluation.ssim import ssim_in_region, ssim_map
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.face import align, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.generation.face import Face, through_autoencoder
from anchor_jax.generation.pipeline import generate_video
from anchor_jax.generation.settings import check_inputs
from anchor_jax.poses.face_inputs import read_face
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.progress import Progress, silent
from anchor_jax.shapes import Images, Size

FPS = Fraction(30)  # frame rate of a folder of frames, which stores none


@dataclass(frozen=True)
class StudyClip:
    """The inputs of a video, and its ground truth.

    Attributes:
        poses: pose images, uint8 (n, h, w, 3).
        appearance: a picture of the person, uint8 (h', w', 3).
        fps: frames per second.
        truth: ground truth, uint8 (n, h, w, 3), or None.
        track: positions of the face, or None.
        masks: face region, bool (n, h, w), or None.
    """

    poses: Images
    appearance: Images
    fps: Fraction
    truth: Images | None = None
    track: Track | None = None
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, part: slice) -> "StudyClip":
        """Return a clip with a part of the frames."""
        track = self.track
        if track is not None:
            track = Track(track.landmarks[part], track.usable[part], {}, {})
        cut = lambda images: None if images is None else images[part]
        return replace(
            self,
            poses=self.poses[part],
            truth=cut(self.truth),
            track=track,
            masks=cut(self.masks),
        )


@dataclass(frozen=True)
class Variant:
    """One way to generate a clip.

    Attributes:
        settings: settings of the body and of the face.
        faces: repaint the faces, if the anchor has a trained face part and the clip has faces.
        fresh_noise: start each frame from different noise; else all start from the same noise.
    """

    settings: Settings
    faces: bool = True
    fresh_noise: bool = False

    def with_sampling(self, **changes: Any) -> "Variant":
        """Return a copy with other sampling settings; None keeps the present value."""
        sampling = self.settings.sampling.updated(**changes)
        return replace(self, settings=replace(self.settings, sampling=sampling))

    def resolved(self) -> "Variant":
        """Return a copy with the type that this machine computes in, in place of "auto"."""
        return replace(self, settings=self.settings.resolved())


def read_clip(
    folder: Path, count: int | None = None, need_truth: bool = True, size: Size | None = None
) -> StudyClip:
    """Read a test clip, for example one that `python -m benchmarks.synthetic` wrote.

    Args:
        folder: holds `poses/` and `truth/`, or `poses.mp4` and `truth.mp4`; `appearance.png`; and
            for faces `poses-conditions/`.
        count: number of frames from the start; None reads all.
        need_truth: False lets a folder have no truth.
        size: width and height to resize pose images and truth to; None: their own.

    Raises:
        AnchorError: a part is missing or not readable, or the parts have different sizes.
    """
    poses_path = folder_or_video(folder, "poses")
    clip = read_poses(poses_path, video.read_image(folder / "appearance.png"), size)
    truth_path = folder_or_video(folder, "truth")
    if not need_truth and not truth_path.exists():
        return clip[:count]
    truth, _ = video.read_frames(truth_path, size)
    if truth.shape != clip.poses.shape:
        raise AnchorError(
            f"{folder}: truth has {_size(truth)}, but the pose images have {_size(clip.poses)}"
        )
    clip = replace(clip, truth=truth)
    return clip[:count]


def read_poses(path: Path, appearance: Images, size: Size | None = None) -> StudyClip:
    """Read pose images as a clip without ground truth.

    Args:
        path: folder or video of pose images. The faces are read if `render` wrote them beside it.
        appearance: a picture of the person, uint8 (h', w', 3).
        size: width and height to resize the pose images to; None: their own.

    Raises:
        AnchorError: a file is not readable, or the faces do not fit the pose images.
    """
    poses, fps = video.read_frames(path, size)
    clip = StudyClip(poses, appearance, fps or FPS)
    if not (conditions_beside(path) / TABLE).is_file():
        return clip
    track, masks = read_face(path, poses)
    return replace(clip, track=track, masks=masks)


def face_of(anchor: Anchor, clip: StudyClip, variant: Variant) -> Face | None:
    """Return where to repaint faces, or None if clip, anchor or variant do not allow it."""
    if not variant.faces or clip.track is None or anchor.trained_face is None:
        return None
    return Face(clip.track, clip.masks)


def check_clip(anchor: Anchor, clip: StudyClip, variant: Variant) -> tuple[int, ...]:
    """Check that a clip can be generated, without loading parameters.

    Returns:
        The shape of the latents, (n, h, w, c).

    Raises:
        AnchorError: as `check_inputs`.
    """
    face = face_of(anchor, clip, variant)
    return check_inputs(anchor, clip.poses.shape, variant.settings, face)


def generate_clip(
    anchor: Anchor, clip: StudyClip, variant: Variant, progress: Progress = silent
) -> Images:
    """Generate a clip.

    Args:
        anchor: the anchor, loaded.
        clip: the inputs.
        variant: how to generate.
        progress: shows how many windows are done.

    Returns:
        uint8 (n, h, w, 3).

    Raises:
        AnchorError: as `generate_video`.
    """
    noise, settings = None, variant.settings
    if variant.fresh_noise:
        shape = check_clip(anchor, clip, variant)
        noise = np.asarray(jax.random.normal(jax.random.key(settings.sampling.seed), shape))
    face = face_of(anchor, clip, variant)
    return generate_video(anchor, clip.poses, clip.appearance, settings, face, noise, progress)


def generate_and_measure(
    anchor: Anchor, clip: StudyClip, variant: Variant, progress: Progress = silent
) -> tuple[Images, dict[str, float]]:
    """Generate a clip as `generate_clip` does, and measure it.

    Returns:
        The frames, and the scores of `measure` with "seconds", which include compiling.
    """
    start = time.perf_counter()
    frames = generate_clip(anchor, clip, variant, progress)
    seconds = time.perf_counter() - start
    return frames, measure(frames, clip) | {"seconds": seconds}


def measure(frames: Images, clip: StudyClip) -> dict[str, float]:
    """Compare frames with the ground truth.

    Args:
        frames: uint8 (n, h, w, 3).
        clip: the clip with its ground truth.

    Returns:
        Means over the clip. "REGION/METRIC" for the regions "body" (the whole frame), "face" and
        "hands" (what moves below the head) and the metrics "psnr" (dB), "ssim" and "l1" (grey
        levels); "flicker" and "temporal_error" (grey levels) of the whole frame and, with "face/",
        of the face. NaN if there is no such region, and an empty dict without ground truth.
    """
    truth = clip.truth
    if truth is None:
        return {}
    face = face_region(clip)
    rows = np.flatnonzero(face.any((0, 2)))
    chin = int(rows[-1]) + 1 if len(rows) else 0
    regions = {"body": None, "face": face, "hands": moving_below(truth, chin)}
    scores = {
        f"{name}/{metric.__name__}": known_mean(metric(frames, truth, region))
        for name, region in regions.items()
        for metric in (psnr, l1)
    }
    similarity = ssim_map(frames, truth)  # the same for all regions
    for name, region in regions.items():
        scores[f"{name}/ssim"] = known_mean(ssim_in_region(similarity, region))
    for metric in (flicker, temporal_error):
        scores[metric.__name__] = known_mean(metric(frames, truth))
        scores[f"face/{metric.__name__}"] = known_mean(metric(frames, truth, face))
    return scores


def face_region(clip: StudyClip) -> np.ndarray:
    """Return the face region, bool (n, h, w): the rendered masks, or ovals around the landmarks."""
    shape = clip.poses.shape[:3]
    if clip.masks is not None:
        return clip.masks
    region = np.zeros(shape, bool)
    if clip.track is not None:
        usable = clip.track.usable
        back = align.invert(clip.track.transforms()[usable])
        ovals = np.broadcast_to(mask.oval(), (len(back), align.SIZE, align.SIZE))
        region[usable] = align.warp(ovals.astype(np.float32), back, (shape[2], shape[1])) > 0.5
    return region


def through(anchor: Anchor, clip: StudyClip, variant: Variant) -> Images:
    """Encode and decode the ground truth by the autoencoder alone, faces at the size of repainting.

    Args:
        anchor: the anchor, loaded.
        clip: the clip with its ground truth.
        variant: size of the face, and whether faces are repainted.

    Returns:
        uint8 (n, h, w, 3).
    """
    assert clip.truth is not None
    face = face_of(anchor, clip, variant)
    return through_autoencoder(anchor, clip.truth, face, variant.settings)


def ceiling(anchor: Anchor, clip: StudyClip, variant: Variant) -> dict[str, float]:
    """Measure the result of `through`. A model that decodes with this autoencoder hardly reaches
    better scores.

    Returns:
        The scores of `measure`, or an empty dict without ground truth.
    """
    return {} if clip.truth is None else measure(through(anchor, clip, variant), clip)


def folder_or_video(folder: Path, name: str) -> Path:
    """Return the video `NAME.mp4` if it exists, else the folder `NAME`."""
    path = folder / f"{name}.mp4"
    return path if path.is_file() else folder / name


def _size(images: Images) -> str:
    """Format number and size of frames (n, h, w, 3)."""
    n, height, width, _ = images.shape
    return f"{n} frames of {width}x{height}"
