"""A clip as the files that `anchor-jax generate` reads."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from anchor_jax.body.parallel import PoseImage
from anchor_jax.body.view import View
from anchor_jax.data.dataset import Dataset, write_metadata
from anchor_jax.data.video import write_frames
from anchor_jax.files import placed
from anchor_jax.poses.pose_images import write_pose_images
from anchor_jax.progress import Advance, Progress
from benchmarks.synthetic.motion import FPS
from benchmarks.synthetic.source import Frame, Studio, Talking

APPEARANCE = 0  # number of the training clip from which the appearance image is taken


def write_test_clip(source: Talking, folder: Path, progress: Progress) -> None:
    """Write the first clip of `source` into `folder`.

    Writes `poses/` and `poses-conditions/` like `anchor-jax render`, `truth/` and `mattes/`, all as
    PNG, and `appearance.png`, a training frame that shows the person from the front. An existing
    folder stays unchanged.
    """
    if folder.exists():
        return
    with (
        placed(folder) as partial,
        Studio(source.person, source.size, source.seed) as studio,
        progress("test clip", source.frames, "frame") as advance,
    ):
        partial.mkdir()
        training = list(studio.shoot(APPEARANCE, source.frames))
        best = min(training, key=_turned)
        Image.fromarray(best.target).save(partial / "appearance.png")
        clip = studio.shoot(source.clips[0], source.frames)
        frames = write_clip(clip, studio.view, Fraction(FPS), partial, advance)
        mattes = (np.repeat(frame.matte[..., None], 3, 2) for frame in frames)
        write_frames(partial / "mattes", mattes)


def write_clip(
    clip: Iterable[Frame], view: View, fps: Fraction, folder: Path, advance: Advance
) -> list[Frame]:
    """Write poses/, poses-conditions/ and truth/ of a clip into `folder`; return its frames."""
    frames: list[Frame] = []

    def poses() -> Iterator[PoseImage]:
        for frame in clip:
            frames.append(frame)
            advance(1)
            yield frame.pose

    write_pose_images(poses(), view, fps, folder / "poses", folder / "poses-conditions")
    write_frames(folder / "truth", (frame.target for frame in frames))
    return frames


def join(datasets: Sequence[Dataset], folder: Path) -> None:
    """Write the data set of all clips of `datasets`, which must hold the same kinds of images.

    Shards are hard links where the file system allows it. An existing folder stays unchanged.
    """
    if folder.exists():
        return
    first = datasets[0]
    with placed(folder) as partial:
        partial.mkdir()
        clips = tuple(clip for dataset in datasets for clip in dataset.clips)
        inputs = " ".join(dataset.inputs for dataset in datasets)
        joined = Dataset(partial, first.pictures, first.fps, clips, inputs)
        shards = (data.shard(index) for data in datasets for index in range(len(data.clips)))
        for number, shard in enumerate(shards):
            _link(shard, joined.shard(number))
        write_metadata(joined)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # no hard links on this file system
        shutil.copyfile(source, target)


def _turned(frame: Frame) -> float:
    """How far the face is from looking straight into the camera, measured from the landmarks."""
    left, right, nose, left_mouth, right_mouth = frame.pose.landmarks
    across = right - left
    width = np.hypot(*across)
    skew = abs(nose[0] - (left[0] + right[0]) / 2) / width
    tilt = abs(across[1]) / width
    lift = abs((nose[1] - (left[1] + right[1]) / 2) / width - 0.62)
    return float(skew + tilt + lift)
