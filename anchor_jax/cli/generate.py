"""Implement `anchor-jax generate`."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from anchor_jax.cli.options import (
    AnchorFolder,
    AnchorsInt,
    FaceOptions,
    SamplingOptions,
    parse_fps,
    parse_size,
    use_compile_cache,
)
from anchor_jax.errors import AnchorError, note

if TYPE_CHECKING:
    import numpy as np

    from anchor_jax.checkpoint import Anchor, Settings
    from anchor_jax.generation.face import Face
    from anchor_jax.poses.face_inputs import FaceFiles
    from anchor_jax.poses.framing import Framing
    from anchor_jax.poses.source import PoseSource

_COMPARED = 50  # pose images that are compared with training's


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Generate a video of the anchor's person, who moves as the pose images show.

        anchor-jax generate anchors/seth --poses poses/ --appearance seth.png \\
            --out seth.mp4

    The person that comes with anchor-jax, following a motion file:

        anchor-jax render talk.npy --framing shipped --out poses.mp4
        anchor-jax generate shipped --poses poses.mp4 --out talk.mp4

    A video of any length takes the same memory. If it is stopped, the same command goes on.

    A quick preview, small and in few steps:

        anchor-jax generate anchors/seth --poses poses.mp4 --appearance seth.png \\
            --out quick.mp4 --size 256 --steps 5

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
        poses: folder of pose images (.png, .jpg), in the order of their numbers, a video, or - for
            a video from standard input.
        appearance: a picture of the person.
        out: the video, an .mp4 (H.264).
        frames_dir: folder for the frames as PNG files: 000001.png, ...
        window: frames that are denoised together; more need more memory.
        overlap: frames that neighbouring windows share.
        size: resize the poses to a square or to WxH; rounded down to multiples of 8.
        noise: initial latents, float32, (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        seed: seed of the noise; the same seed gives the same video on the same machine.
        coordinator: to share the work with other processes: address of the first one, which
            writes the video, number of processes, and index of this one.
        fps: frames per second, such as 30, 29.97 or 30000/1001.
        face: repaint faces, if the anchor has a trained face part.
        face_landmarks: face landmarks: .npz, .json, or the folder that `render` wrote.
        face_masks: folder with the face region of each frame: white, or class numbers of a parser.
        face_detector: folder with the models that find landmarks, see docs/face.md.
        face_appearance: a picture of the face, upright and cropped.
        face_smoothing: smooth the landmarks over this many frames.
        follow: the folder of pose images is still being filled: wait up to this many seconds for
            each next one. A file named END in it says that it is complete.
        restart: begin anew where the same command would go on with an unfinished video.
    """

    anchor: Positional[AnchorFolder]
    poses: Annotated[Path, arg(metavar="DIR|VIDEO|-")]
    appearance: Annotated[
        Path | None,
        arg(metavar="IMAGE", help_behavior_hint="(default: the anchor's, if it has one)"),
    ] = None
    out: Annotated[Path, arg(metavar="VIDEO")]
    frames_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = (
        None
    )
    sampling: OmitArgPrefixes[SamplingOptions] = field(default_factory=SamplingOptions)
    window: AnchorsInt = None
    overlap: AnchorsInt = None
    size: Annotated[
        str | None, arg(metavar="PX|WxH", help_behavior_hint="(default: the size of the poses)")
    ] = None
    noise: Annotated[
        Path | None, arg(metavar="NPY", help_behavior_hint="(default: from the seed)")
    ] = None
    seed: AnchorsInt = None
    coordinator: Annotated[
        str | None,
        arg(metavar="HOST:PORT,COUNT,INDEX", help_behavior_hint="(default: one process)"),
    ] = None
    fps: Annotated[
        str | None,
        arg(metavar="FPS", help_behavior_hint="(default: that of the pose video, or 30)"),
    ] = None
    face: bool = True
    face_landmarks: Annotated[
        Path | None, arg(metavar="FILE|DIR", help_behavior_hint="(default: beside the poses)")
    ] = None
    face_masks: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the landmarks)")
    ] = None
    face_detector: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: the cache folder)")
    ] = None
    face_appearance: Annotated[
        Path | None, arg(metavar="IMAGE", help_behavior_hint="(default: the appearance)")
    ] = None
    face_smoothing: float = 0.0
    faces: OmitArgPrefixes[FaceOptions] = field(default_factory=FaceOptions)
    follow: Annotated[
        float | None, arg(metavar="SECONDS", help_behavior_hint="(default: the folder is complete)")
    ] = None
    restart: bool = False

    def run(self) -> None:
        """Check everything, load the anchor, generate, and write the video as it is made."""
        from anchor_jax.data import video
        from anchor_jax.devices import is_first_process, join_processes
        from anchor_jax.poses.source import open_source

        join_processes(self.coordinator)
        video.check_output(self.out, self.frames_dir)
        given_rate = None if self.fps is None else parse_fps(self.fps)
        size = None if self.size is None else parse_size(self.size)
        source = open_source(self.poses, size, self.follow)
        if source.count is not None:
            shape = source.count, *source.size[::-1]
            video.check_room(shape, self.out, self.frames_dir)
        picture = None if self.appearance is None else video.read_image(self.appearance)
        noise = None if self.noise is None else _read_noise(self.noise)

        use_compile_cache()
        from anchor_jax import checkpoint
        from anchor_jax.cli.writing import Job
        from anchor_jax.generation.networks import initial_latents
        from anchor_jax.generation.pipeline import networks_needed
        from anchor_jax.generation.settings import check_inputs

        header = checkpoint.load(self.anchor, networks=())
        picture = header.appearance if picture is None else picture
        if picture is None:
            raise AnchorError(
                f"{self.anchor} has no picture of its person: give one with --appearance IMAGE"
            )
        settings = self._settings(header)
        if header.framing is not None and source.count is not None:
            _compare(source, source.count, header.framing)
        files = self._face_files(header, source)
        face = None if files is None else self._read_face(source, files)
        shape = source.count or 1, *source.size[::-1], 3
        latent_shape = check_inputs(header, shape, settings, face)  # before the long loading
        settings = settings.resolved()
        networks = networks_needed(files is not None)
        loaded = checkpoint.load(self.anchor, networks, kernels=settings.sampling.dtype)
        job = Job(
            anchor=loaded,
            folder=self.anchor,
            source=source,
            picture=picture,
            settings=settings,
            noise=initial_latents(latent_shape, noise, settings.sampling.seed),
            files=files,
            face=face,
            smoothing=self.face_smoothing,
        )
        rate = given_rate or source.rate or Fraction(30)
        count = job.write(self.out, self.frames_dir, rate, self.restart)
        if not is_first_process():
            return
        width, height = source.size
        print(f"{self.out}: {count} frames, {width}x{height}, {float(rate):g} fps")
        print(settings.describe(files is not None))

    def _settings(self, anchor: "Anchor") -> "Settings":
        """Return the anchor's settings, changed by the options."""
        from anchor_jax.checkpoint import Settings

        recommended = anchor.settings
        sampling = self.sampling.over(
            recommended.sampling,
            window=self.window,
            overlap=self.overlap,
            seed=self.seed,
        )
        return Settings(sampling, self.faces.over(recommended.face))

    def _face_files(self, anchor: "Anchor", source: "PoseSource") -> "FaceFiles | None":
        """Choose where the faces come from, or return None if no face is repainted."""
        from anchor_jax.poses.face_inputs import FaceFiles

        if not self.face or anchor.trained_face is None:
            self._refuse_face_files(anchor)
            return None
        if source.count is None:
            for name in ("landmarks", "masks"):
                if (path := getattr(self, f"face_{name}")) is not None:
                    raise AnchorError(
                        f"--face-{name} {path}: expected pose images that are all there; faces in"
                        f" {self.poses} are detected as they come"
                    )
            return FaceFiles.of_growing(self.poses, self.face_detector)
        files = self.face_landmarks, self.face_masks, self.face_detector
        return FaceFiles.find(self.poses, *files)

    def _read_face(self, source: "PoseSource", files: "FaceFiles") -> "Face":
        """Read or detect where the faces are. If pose images are still being written, the faces
        are detected as they come."""
        import numpy as np

        from anchor_jax.data import video
        from anchor_jax.face.landmarks import Track
        from anchor_jax.generation.face import Face
        from anchor_jax.poses.face_inputs import read_track

        picture = self.face_appearance
        picture = None if picture is None else video.read_image(picture)
        if source.count is None:
            unknown = Track(np.full((1, 5, 2), np.nan), np.zeros(1, bool), {}, {})
            return Face(unknown, None, picture)
        width, height = source.size
        shape = source.count, height, width
        smoothing = self.face_smoothing
        track, masks = read_track(files, source.read(), shape, smoothing, progress=True)
        for line in track.notes():
            note(line)
        return Face(track, masks, picture)

    def _refuse_face_files(self, anchor: "Anchor") -> None:
        """Raise AnchorError for face files if faces are not repainted; print a note if the face
        part is untrained."""
        if not self.face:
            reason = "--no-face repaints no face"
        elif anchor.face is None:
            reason = "the anchor has no face part"
        else:
            reason = "the anchor's face part was never trained (anchor-jax train face)"
        for name in ("landmarks", "masks", "detector", "appearance"):
            path = getattr(self, f"face_{name}")
            if path is not None:
                raise AnchorError(f"--face-{name} {path}: {reason}")
        if self.face and anchor.face is not None:
            note(f"faces are not repainted: {reason}")


def _compare(source: "PoseSource", count: int, trained: "Framing") -> None:
    """Print a note if the pose images have the person elsewhere than the training had."""
    from anchor_jax.poses.framing import compare, spread, summarise

    images = source.pick(spread(count, _COMPARED))
    if phrases := compare(summarise(images), trained):
        note(
            f"these poses are unlike training's: {', '.join(phrases)}; anchor-jax render MOTION"
            " --framing ANCHOR draws a motion as training had it"
        )


def _read_noise(path: Path) -> "np.ndarray":
    """Read an .npy file of float values as float32."""
    import numpy as np

    try:
        noise = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AnchorError(f"cannot read --noise {path} as an .npy file: {error}") from error
    if not isinstance(noise, np.ndarray) or not np.issubdtype(noise.dtype, np.floating):
        raise AnchorError(f"--noise {path}: expected one array of float32")
    if not np.isfinite(noise).all():
        raise AnchorError(f"--noise {path} holds values that are not finite")
    return noise.astype(np.float32)
