"""Implement `anchor-jax prepare`."""

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from anchor_jax.cli.options import OneEachCore, check_count, need_extra, parse_fps, parse_size
from anchor_jax.errors import AnchorError, note

if TYPE_CHECKING:
    from anchor_jax.data.dataset import Dataset
    from anchor_jax.data.request import Request


@tyro.conf.configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Make a data set for training from videos and their pose images.

        anchor-jax prepare seth.mp4 --poses seth-poses --out data/seth --preview

    If it is stopped, repeat the command to continue. Several videos of one
    person, each with its poses, with a camera and a background that do not
    move:

        anchor-jax prepare a.mp4 b.mp4 --poses a-poses b-poses --identity seth \\
            --still-background --out data/seth

    A part of the videos, whose poses `render` drew with the same --end:

        anchor-jax prepare seth.mp4 --end 50 --poses seth-poses --out data/seth

    The JSON lists of the published system:

        anchor-jax prepare --list train_body.json --out data/body

    Check an existing data set, and make its contact sheets:

        anchor-jax prepare --out data/seth --preview --verify

    Attributes:
        videos: of people, in any format; cut into clips of 300 frames.
        out: the data set, a new folder.
        poses: for each video a folder or video with a pose image for each frame, square or of the
            video's size; with the files that `render` writes beside them, faces are cropped too.
        identity: name of the person, if all videos show the same one.
        mattes: for each video a folder or video with a matte for each frame.
        green_screen: compute the mattes from a green or blue screen behind the person.
        still_background: compute the mattes; neither camera nor background moves.
        plate: as --still-background, with pictures or videos of the scene without the person: one
            for each video, or one for all.
        json_list: instead of videos, a file with {"source": pose, "target": frame, "reference":
            other frame} on each line, and "mask" for the head.
        loop_poses: repeat or cut the poses of another motion to the video's length, for trials.
        no_face: do not crop faces.
        face_size: side of the face crops; a multiple of 8.
        no_audio: do not store the sound of the videos in DATASET/audio.
        crop: the square of the videos to keep: its left, top and side in pixels.
        size: size of the stored frames.
        fps: frames per second of the data set and of pose folders.
        start: start of the part to store of every video, in seconds; poses show this part alone.
        end: end of the part to store of every video, in seconds.
        processes: number of parallel processes; each needs about 1 GB.
        preview: write a contact sheet of each clip to DATASET/preview.
        verify: check the hash of every file and decode every frame.
    """

    videos: Positional[
        Annotated[tuple[Path, ...], arg(metavar="VIDEO ...", help_behavior_hint="")]
    ] = ()
    out: Annotated[Path, arg(metavar="DATASET")]
    poses: Annotated[
        tuple[Path, ...], arg(metavar="DIR|VIDEO ...", help_behavior_hint="(one for each video)")
    ] = ()
    identity: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: the name of each video)")
    ] = None
    mattes: Annotated[
        tuple[Path, ...], arg(metavar="DIR|VIDEO ...", help_behavior_hint="(default: none)")
    ] = ()
    green_screen: bool = False
    still_background: bool = False
    plate: Annotated[
        tuple[Path, ...], arg(metavar="FILE ...", help_behavior_hint="(default: the median)")
    ] = ()
    json_list: Annotated[
        Path | None, arg(name="list", metavar="JSON", help_behavior_hint="(default: none)")
    ] = None
    loop_poses: bool = False
    no_face: bool = False
    face_size: Annotated[int, arg(metavar="PX")] = 256
    no_audio: bool = False
    crop: Annotated[
        str | None,
        arg(metavar="X,Y,SIDE", help_behavior_hint="(default: around the person, or the middle)"),
    ] = None
    size: Annotated[
        str | None,
        arg(metavar="PX", help_behavior_hint="(default: 512; for --list, that of its pictures)"),
    ] = None
    fps: Annotated[str, arg(metavar="FPS")] = "30"
    start: float = 0.0
    end: Annotated[
        float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the end of each video)")
    ] = None
    processes: OneEachCore = None
    preview: bool = False
    verify: bool = False

    def run(self) -> None:
        """Make or open the data set, and check it if asked to."""
        need_extra("train", "tensorflow_datasets", "array_record")
        check_count("processes", self.processes)
        from anchor_jax.data import dataset as datasets
        from anchor_jax.data.preview import write_sheets
        from anchor_jax.progress import bars

        dataset, bar = self._make(), bars()
        if self.verify:
            with bar("verifying", len(dataset), "frame") as advance:
                datasets.verify(dataset, advance)
        if self.preview:
            with bar("previewing", len(dataset.clips), "clip") as advance:
                write_sheets(dataset, self.out / "preview", advance)
        pictures = ", ".join(f"{name} {w}x{h}" for name, (w, h) in dataset.pictures.items())
        print(f"{self.out}: {len(dataset)} frames in {len(dataset.clips)} clips; {pictures}")
        if self.verify:
            print(f"{self.out}: all hashes are right and all pictures can be decoded")
        if self.preview:
            sheets = self.out / "preview"
            print(f"{sheets}: a contact sheet of each clip; check that bodies and poses fit")

    def _make(self) -> "Dataset":
        """Make the data set, or open it if only --preview or --verify is asked for."""
        from anchor_jax.data import dataset as datasets
        from anchor_jax.data.prepare import hidden_folder
        from anchor_jax.data.video import read_rate
        from anchor_jax.processes import num_cores
        from anchor_jax.progress import bars

        if not self.videos and self.json_list is None and (self.preview or self.verify):
            return datasets.load(self.out)
        request = self._request()
        self._look_at_poses()
        for path in self.videos:
            rate = read_rate(path)
            if rate and 2 * rate <= request.fps:
                note(
                    f"{path} has {float(rate):g} frames per second, so each frame is stored"
                    f" {round(request.fps / rate)} times; --fps {float(rate):g} stores it once"
                )
        try:
            return request.make(self.out, self.processes or num_cores(), bars())
        except KeyboardInterrupt:
            kept = hidden_folder(self.out)
            if not kept.is_dir():
                raise
            message = f"complete clips are kept in {kept}; repeat the command to continue"
            raise KeyboardInterrupt(message) from None

    def _look_at_poses(self) -> None:
        """Print a note if what is given as poses looks like a video of a person."""
        from anchor_jax.data.pictures import list_images
        from anchor_jax.data.video import iter_video, read_frames
        from anchor_jax.poses.framing import on_black

        for path in self.poses:
            with suppress(AnchorError, OSError):  # told when the work begins
                if path.is_dir():
                    first = read_frames(list_images(path)[0])[0][0]
                else:
                    with closing(iter_video(path)) as frames:
                        _, first = next(frames)
                if not on_black(first):
                    note(
                        f"the background of {path} is not black: are these pose images? The command"
                        " is prepare VIDEO --poses POSES"
                    )

    def _request(self) -> "Request":
        """Make the request that the options describe."""
        from anchor_jax.data.request import Request
        from anchor_jax.poses.face_crops import find_faces

        return Request(
            videos=self.videos,
            poses=self.poses,
            faces=() if self.no_face else find_faces(self.poses, self.face_size),
            identity=self.identity,
            mattes=self.mattes,
            green_screen=self.green_screen,
            still_background=self.still_background,
            plates=self.plate,
            json_list=self.json_list,
            loop_poses=self.loop_poses,
            audio=not self.no_audio,
            crop=None if self.crop is None else _parse_crop(self.crop),
            size=None if self.size is None else parse_size(self.size),
            fps=parse_fps(self.fps),
            start=self.start,
            end=self.end,
        )


def _parse_crop(text: str) -> tuple[int, int, int]:
    """Parse left, top and side in pixels."""
    try:
        left, top, side = (int(number) for number in text.split(","))
    except ValueError:
        raise AnchorError(
            f"--crop {text}: expected left, top and side in pixels, such as 420,0,1080"
        ) from None
    return left, top, side
