"""A test clip with its truth, generated from an anchor and measured."""

import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.data import video
from anchor_jax.errors import AnchorError
from anchor_jax.evaluation.l1 import l1
from anchor_jax.evaluation.psnr import psnr
from anchor_jax.evaluation.regions import moving_below
from anchor_jax.evaluation.ssim import ssim
from anchor_jax.evaluation.temporal import flicker, temporal_error
from anchor_jax.face import align, mask
from anchor_jax.face.landmarks import Track
from anchor_jax.generation import pipeline
from anchor_jax.generation.face import Face, through_autoencoder
from anchor_jax.poses.face_inputs import read_face
from anchor_jax.poses.pose_images import TABLE, conditions_beside
from anchor_jax.shapes import Images

FPS = Fraction(30)  # of folders of frames


@dataclass(frozen=True)
class Clip:
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

    def first(self, count: int) -> "Clip":
        """Its first frames."""
        track = self.track
        if track is not None:
            track = Track(track.landmarks[:count], track.usable[:count], {}, {})
        cut = lambda images: None if images is None else images[:count]
        return replace(
            self,
            poses=self.poses[:count],
            truth=cut(self.truth),
            track=track,
            masks=cut(self.masks),
        )


@dataclass(frozen=True)
class Setting:
    """How a clip is generated. The scales are what small models were trained for.

    Attributes:
        window: frames that are denoised together; with 1 each frame is sampled for itself.
        overlap: frames that neighbouring windows share.
        crossfade: let each window pass gradually into the next.
        fresh_noise: begin each frame with noise of its own; else one noise frame serves all.
        face: repaint the faces, where anchor and clip have them.
        steps: denoising steps.
        guidance: of the appearance picture.
        control_scale: of the poses.
        face_guidance: the same for the face.
        face_control_scale: the same for the face.
        face_size: side of the repainted crop, pixels.
    """

    window: int = 16
    overlap: int = 4
    crossfade: bool = False
    fresh_noise: bool = False
    face: bool = True
    steps: int = 20
    guidance: float = 1.0
    control_scale: float = 1.0
    face_guidance: float = 1.0
    face_control_scale: float = 1.0
    face_size: int = 64


def read_clip(folder: Path, count: int | None = None) -> Clip:
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
    return clip if count is None else clip.first(count)


def read_poses(path: Path, appearance: Images) -> Clip:
    """A clip of pose images without truth, with the faces that are known beside them."""
    poses, fps = video.read_frames(path)
    clip = Clip(poses, appearance, fps or FPS)
    if not (conditions_beside(path) / TABLE).is_file():
        return clip
    track, masks = read_face(path, poses)
    return replace(clip, track=track, masks=masks)


def arguments(anchor: Anchor, clip: Clip, setting: Setting, seed: int) -> dict[str, Any]:
    """What `pipeline.generate` and `pipeline.check_arguments` take for a setting."""
    names = "steps", "guidance", "control_scale", "window", "overlap"
    face = face_of(anchor, clip, setting)
    chosen = {name: getattr(setting, name) for name in names}
    return chosen | {"seed": seed, "dtype": "float32", "face": face}


def face_of(anchor: Anchor, clip: Clip, setting: Setting) -> Face | None:
    """The face stage's inputs, where there are any and the setting wants it."""
    if not setting.face or clip.track is None or "face/unet" not in anchor.networks:
        return None
    return Face(
        clip.track,
        clip.masks,
        guidance=setting.face_guidance,
        control_scale=setting.face_control_scale,
        size=setting.face_size,
    )


def check_clip(anchor: Anchor, clip: Clip, setting: Setting, seed: int) -> tuple[int, ...]:
    """Raise AnchorError for what cannot work; else the latents' shape (n, h, w, c). Cheap."""
    chosen = arguments(anchor, clip, setting, seed)
    return pipeline.check_arguments(anchor, clip.poses.shape, **chosen)


def generate_clip(
    anchor: Anchor, clip: Clip, setting: Setting, seed: int, progress: bool = False
) -> Images:
    """Generate a clip, uint8 (n, h, w, 3)."""
    noise = None
    if setting.fresh_noise:
        shape = check_clip(anchor, clip, setting, seed)
        noise = np.asarray(jax.random.normal(jax.random.key(seed), shape))
    chosen = arguments(anchor, clip, setting, seed)
    return pipeline.generate(
        anchor,
        clip.poses,
        clip.appearance,
        crossfade=setting.crossfade,
        noise=noise,
        progress=progress,
        **chosen,
    )


def generate_and_measure(
    anchor: Anchor, clip: Clip, setting: Setting, seed: int, progress: bool = False
) -> tuple[Images, dict[str, float]]:
    """Generate a clip; its frames, and `measure` of them with "seconds", compiling included."""
    start = time.perf_counter()
    frames = generate_clip(anchor, clip, setting, seed, progress)
    seconds = time.perf_counter() - start
    return frames, measure(frames, clip) | {"seconds": seconds}


def measure(frames: Images, clip: Clip) -> dict[str, float]:
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


def face_region(clip: Clip) -> np.ndarray:
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


def ceiling(anchor: Anchor, clip: Clip, setting: Setting) -> dict[str, float]:
    """What the autoencoder alone makes of the truth, faces at the size of the face stage: no model
    that decodes with it comes much closer. Nothing without truth."""
    if clip.truth is None:
        return {}
    return measure(through_autoencoder(anchor, clip.truth, face_of(anchor, clip, setting)), clip)


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
