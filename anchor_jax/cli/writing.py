"""Generate a video into a file: read poses as they are needed, write frames as they are finished,
and go on where an earlier run was stopped."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.assets import find_anchor
from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.data.video_parts import VideoParts
from anchor_jax.devices import is_first_process
from anchor_jax.diffusion.rings import State
from anchor_jax.errors import note
from anchor_jax.face.landmarks import reach
from anchor_jax.generation.face import Face
from anchor_jax.generation.frames import Frames, Pose, num_read
from anchor_jax.generation.pipeline import count_tasks
from anchor_jax.generation.unfinished import Unfinished, open_unfinished
from anchor_jax.poses.face_inputs import FaceFiles, detect_as_read
from anchor_jax.poses.source import PoseSource
from anchor_jax.progress import Advance, no_advance, open_bar
from anchor_jax.shapes import Images
from anchor_jax.versions import versions


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a video is generated from.

    Attributes:
        anchor: the anchor, loaded.
        folder: its folder.
        source: the pose images.
        picture: a picture of the person, uint8 (h', w', 3).
        settings: settings of the body and of the face, resolved.
        noise: initial latents, float32 (n, h/8, w/8, 4), or of one frame for all.
        files: where the faces come from, or None.
        face: where the faces are and how they look, or None; faces that are detected as pose images
            come are not in it.
        smoothing: of the landmarks of these, in frames.
    """

    anchor: Anchor
    folder: Path
    source: PoseSource
    picture: Images
    settings: Settings
    noise: np.ndarray
    files: FaceFiles | None
    face: Face | None
    smoothing: float

    def write(self, out: Path, frames_dir: Path | None, fps: Fraction, restart: bool) -> int:
        """Generate the video, or the rest of it. Where several processes share the work, the first
        one writes, and a stopped run begins anew.

        Args:
            out: the video, an .mp4.
            frames_dir: folder for the frames as PNG files, or None.
            fps: frames per second.
            restart: begin anew.

        Returns:
            The number of frames.

        Raises:
            AnchorError: as `Frames`, `open_unfinished` and `VideoParts`.
        """
        if not is_first_process():
            return sum(map(len, self._frames()))
        facts = self._facts(fps) | {"frames_dir": frames_dir is not None}
        with open_unfinished(out, facts, restart) as unfinished:
            if unfinished.count:
                note(f"goes on after the {unfinished.count} frames of an earlier run")
            try:
                with VideoParts(
                    unfinished.folder,
                    self.source.size,
                    fps,
                    unfinished.count,
                    out,
                    frames_dir is not None,
                ) as parts:
                    self._generate(unfinished, parts)
                    parts.finish(out, frames_dir)
            except BaseException as error:
                if unfinished.kept:
                    words = f"the same command goes on after {unfinished.count} frames"
                    if isinstance(error, KeyboardInterrupt):
                        raise KeyboardInterrupt(words) from None
                    note(words)
                raise
            return parts.count

    def _generate(self, unfinished: Unfinished, parts: VideoParts) -> None:
        """Generate the frames that are missing."""
        total = None
        if self.source.count is not None:
            total = count_tasks(self.settings, self.source.count, self.face)
        state = unfinished.state
        done = 0 if state is None else int(state["windows"])

        def advance(windows: int) -> None:
            nonlocal done
            done += windows
            bar(windows)

        def save() -> None:
            whole = lambda: frames.state() | {"windows": np.array(done)}
            if jax.process_count() == 1 and unfinished.save(whole, parts.count):
                parts.forget(parts.count)

        with open_bar("generating", total, "window", done=done) as bar:
            frames = self._frames(on_windows=advance, between=save, state=state)
            unfinished.state = None  # the stages have it now
            for batch in frames:
                parts.add(batch)
                save()

    def _frames(
        self,
        on_windows: Advance = no_advance,
        between: Callable[[], object] = lambda: None,
        state: State | None = None,
    ) -> Frames:
        return Frames(
            self.anchor,
            self._poses(0 if state is None else num_read(state)),
            self.picture,
            self.settings,
            self.noise if self.source.count is not None else self.noise[0],
            face=self.face,
            num_frames=self.source.count,
            on_windows=on_windows,
            between=between,
            state=state,
        )

    def _poses(self, start: int) -> Iterator[Pose]:
        """Read the pose images from a number (from 0) on, and find their faces."""
        if self.face is None or self.files is None:
            yield from ((image, None) for image in self.source.read(start))
        elif self.source.count is None:
            first = max(0, start - reach(self.smoothing))
            yield from detect_as_read(self.files, self.source.read(first), start, self.smoothing)
        else:
            transforms = self.face.track.transforms()[start:]
            yield from zip(self.source.read(start), transforms, strict=True)

    def _facts(self, fps: Fraction) -> dict[str, Any]:
        """Describe what the frames depend on."""
        folder, source = find_anchor(self.folder), self.source
        stats = [(path.name, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        face = None
        if self.face is not None and self.files is not None:
            landmarks = None if source.count is None else self.face.track.landmarks
            face = {
                "landmarks": _digest(landmarks),
                "picture": _digest(self.face.appearance),
                "masks": str(self.files.masks),
                "smoothing": self.smoothing,
            }
        # Noise that all frames share is a view of one.
        noise = self.noise[:1] if self.noise.strides[0] == 0 else self.noise
        stated = source.path.stat() if source.path.is_file() else None
        return {
            "anchor": [str(folder.resolve()), hashlib.sha256(repr(files).encode()).hexdigest()],
            "poses": [
                str(source.path.resolve()),
                source.count,
                None if stated is None else [stated.st_size, stated.st_mtime_ns],
            ],
            "size": source.size,
            "appearance": _digest(self.picture),
            "noise": _digest(noise),
            "settings": asdict(self.settings),
            "face": face,
            "fps": str(fps),
            "versions": versions(),
            "device": jax.local_devices()[0].device_kind,
        }


def _digest(array: np.ndarray | None) -> str | None:
    """Return the SHA-256 of an array, row by row."""
    if array is None:
        return None
    found = hashlib.sha256(f"{array.shape}{array.dtype}".encode())
    for row in array:
        found.update(np.ascontiguousarray(row).tobytes())
    return found.hexdigest()
