"""A test clip with its truth, generated from an anchor and measured."""

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
from anchor_jax.evaluation.regions import moving_below
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.face import align, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.generation.face import Face, through_autoencoder
from anchor_jax.generation.pipeline import generate_video
from anchor_jax.generation.settings import check_inputs
from anchor_jax.poses.face_inputs import read_face
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.shapes import Images

FPS = Fraction(30)  # of folders of frames


@dataclass(frozen=True)
class StudyClip:
    """What a video is generated from, and what it should look like.

    Attributes:
        poses: uint8 (n, h, w, 3).
        appearance: uint8 (h', w', 3).
        fps: frames per second.
        truth: uint8 (n, h, w, 3), or None where nobody knows.
        track: where the face is, or None.
        masks: bool (n, h, w), the face's region, or None.
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
        """Some of its frames."""
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
        settings: of sampling and of the face stage.
        faces: repaint the faces, where anchor and clip have them.
        fresh_noise: begin each frame with noise of its own; else one noise frame serves all.
    """

    settings: Settings
    faces: bool = True
    fresh_noise: bool = False

    def with_sampling(self, **changes: Any) -> "Variant":
        """The variant with other settings of sampling; None leaves one as it is."""
        sampling = self.settings.sampling.updated(**changes)
        return replace(self, settings=replace(self.settings, sampling=sampling))


def read_clip(folder: Path, count: int | None = None) -> StudyClip:
    """The first `count` frames of a test clip, such as `python -m benchmarks.synthetic` writes:
    `poses/` and `truth/`, or `.mp4` of these names, `poses-conditions/` and `appearance.png`.

    Raises:
        AnchorError: not there, not readable, or parts that do not belong together.
    """
    poses_path = _folder_or_video(folder, "poses")
    clip = read_poses(poses_path, video.read_image(folder / "appearance.png"))
    truth, _ = video.read_frames(_folder_or_video(folder, "truth"))
    if truth.shape != clip.poses.shape:
        raise AnchorError(
            f"{folder}: the truth is {_show(truth)}, but the pose images are {_show(clip.poses)}"
        )
    clip = replace(clip, truth=truth)
    return clip[:count]


def read_poses(path: Path, appearance: Images) -> StudyClip:
    """A clip of pose images without truth, with the faces that are known beside them."""
    poses, fps = video.read_frames(path)
    clip = StudyClip(poses, appearance, fps or FPS)
    if not (conditions_beside(path) / TABLE).is_file():
        return clip
    track, masks = read_face(path, poses)
    return replace(clip, track=track, masks=masks)


def face_of(anchor: Anchor, clip: StudyClip, variant: Variant) -> Face | None:
    """Where the faces are, if the clip tells, the anchor can repaint them and the variant wants
    it."""
    if not variant.faces or clip.track is None or anchor.trained_face is None:
        return None
    return Face(clip.track, clip.masks)


def check_clip(anchor: Anchor, clip: StudyClip, variant: Variant) -> tuple[int, ...]:
    """Raise AnchorError for what cannot work; else the latents' shape (n, h, w, c). Cheap."""
    face = face_of(anchor, clip, variant)
    return check_inputs(anchor, clip.poses.shape, variant.settings, face)


def generate_clip(
    anchor: Anchor, clip: StudyClip, variant: Variant, progress: bool = False
) -> Images:
    """Generate a clip, uint8 (n, h, w, 3)."""
    noise, settings = None, variant.settings
    if variant.fresh_noise:
        shape = check_clip(anchor, clip, variant)
        noise = np.asarray(jax.random.normal(jax.random.key(settings.sampling.seed), shape))
    face = face_of(anchor, clip, variant)
    return generate_video(anchor, clip.poses, clip.appearance, settings, face, noise, progress)


def generate_and_measure(
    anchor: Anchor, clip: StudyClip, variant: Variant, progress: bool = False
) -> tuple[Images, dict[str, float]]:
    """Generate a clip; its frames, and `measure` of them with "seconds", compiling included."""
    start = time.perf_counter()
    frames = generate_clip(anchor, clip, variant, progress)
    seconds = time.perf_counter() - start
    return frames, measure(frames, clip) | {"seconds": seconds}


def measure(frames: Images, clip: StudyClip) -> dict[str, float]:
    """How close frames are to the truth, means over the clip: PSNR (dB), SSIM and L1 (grey levels)
    of the body (the whole frame), the face and the hands (what moves below the head), flicker and
    temporal error (grey levels). NaN where there is no such region; nothing without truth."""
    truth = clip.truth
    if truth is None:
        return {}
    face = face_region(clip)
    rows = np.flatnonzero(face.any((0, 2)))
    chin = int(rows[-1]) + 1 if len(rows) else 0
    regions = {"body": None, "face": face, "hands": moving_below(truth, chin)}
    scores = {
        f"{name}/{metric.__name__}": _mean(metric(frames, truth, region))
        for name, region in regions.items()
        for metric in (psnr, ssim, l1)
    }
    for metric in (flicker, temporal_error):
        scores[metric.__name__] = _mean(metric(frames, truth))
    return scores


def face_region(clip: StudyClip) -> np.ndarray:
    """The face in every frame, bool (n, h, w): as it was rendered or, where nobody knows that, an
    oval around the landmarks."""
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


def ceiling(anchor: Anchor, clip: StudyClip, variant: Variant) -> dict[str, float]:
    """What the autoencoder alone makes of the truth, faces at the size of the face stage: no model
    that decodes with it comes much closer. Nothing without truth."""
    if clip.truth is None:
        return {}
    face = face_of(anchor, clip, variant)
    return measure(through_autoencoder(anchor, clip.truth, face, variant.settings), clip)


def _folder_or_video(folder: Path, name: str) -> Path:
    path = folder / f"{name}.mp4"
    return path if path.is_file() else folder / name


def _mean(values: np.ndarray) -> float:
    """Over the frames that have the region."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _show(images: Images) -> str:
    n, height, width, _ = images.shape
    return f"{n} frames of {width}x{height}"
