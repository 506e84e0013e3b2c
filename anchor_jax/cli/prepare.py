"""`anchor-jax prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from anchor_jax.cli.options import OneEachCore, check_count, need_extra, parse_fps, parse_size
from anchor_jax.errors import AnchorError

if TYPE_CHECKING:
    from anchor_jax.data.dataset import Dataset
    from anchor_jax.data.request import Request


@tyro.conf.configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn videos and their pose images into a data set to train on.

        anchor-jax prepare seth.mp4 --poses seth-poses --out data/seth --preview

    Killed or interrupted, the same command goes on where it was. Several
    videos of one person, each with its poses, before a background that
    does not move:

        anchor-jax prepare a.mp4 b.mp4 --poses a-poses b-poses --identity seth \\
            --still-background --out data/seth

    The JSON lists of the published system:

        anchor-jax prepare --list train_body.json --out data/body

    Look at a data set that is there, and read every frame of it:

        anchor-jax prepare --out data/seth --preview --verify

    Attributes:
        videos: of people, in any format; cut into clips of 300 frames.
        out: the data set, a new folder.
        poses: for each video a folder or video with one pose image a frame, squares or of the
            video's own size; with what `render` writes beside them the faces are cut out, too.
        identity: who is seen, where all videos show one person.
        mattes: for each video a folder or video with a matte for every frame.
        green_screen: make the mattes: the person is before a green or blue screen.
        still_background: make the mattes: neither camera nor background moves.
        plate: the same, with the scene without the person: a picture or video for each video, or
            one for all.
        json_list: instead of videos: {"source": pose, "target": frame, "reference": other} a
            line, and "mask" for the head.
        loop_poses: repeat or cut poses of another motion to the video's length, to try things.
        no_face: leave the faces out.
        face_size: side of the face crops; a multiple of 8.
        no_audio: leave the sound of the videos out of DATASET/audio.
        crop: the square of the videos to keep: its left, top and side in pixels.
        size: of the stored frames.
        fps: frames per second of the data set and of pose folders.
        processes: that work side by side; each takes about 1 GB.
        preview: write a contact sheet of each clip to DATASET/preview.
        verify: check the hash of every file and decode every frame.
    """

    videos: Positional[
        Annotated[tuple[Path, ...], arg(metavar="VIDEO ...", help_behavior_hint="")]
    ] = ()
    out: Annotated[Path, arg(metavar="DATASET")]
    poses: Annotated[
        tuple[Path, ...], arg(metavar="DIR|VIDEO ...", help_behavior_hint="(one a video)")
    ] = ()
    identity: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: each video's name)")
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
        arg(metavar="X,Y,SIDE", help_behavior_hint="(default: the person, or the middle)"),
    ] = None
    size: Annotated[
        str | None,
        arg(metavar="PX", help_behavior_hint="(default: 512; of a list, its pictures' own)"),
    ] = None
    fps: Annotated[str, arg(metavar="FPS")] = "30"
    processes: OneEachCore = None
    preview: bool = False
    verify: bool = False

    def run(self) -> None:
        need_extra("train", "tensorflow_datasets", "array_record")
        check_count("processes", self.processes)
        from anchor_jax.data import dataset as datasets
        from anchor_jax.data.preview import write_sheets
        from anchor_jax.progress import bars

        made, bar = self._make(), bars()
        if self.verify:
            with bar("verifying", len(made), "frame") as advance:
                datasets.verify(made, advance)
        if self.preview:
            with bar("previewing", len(made.clips), "clip") as advance:
                write_sheets(made, self.out / "preview", advance)
        pictures = ", ".join(f"{name} {w}x{h}" for name, (w, h) in made.pictures.items())
        print(f"{self.out}: {len(made)} frames in {len(made.clips)} clips; {pictures}")
        if self.verify:
            print(f"{self.out}: every file is what was written and every picture can be decoded")
        if self.preview:
            sheets = self.out / "preview"
            print(f"{sheets}: a contact sheet of each clip; look whether bodies and poses fit")

    def _make(self) -> "Dataset":
        """The data set, made now unless only a look at one that is there is asked for."""
        from anchor_jax.data import dataset as datasets
        from anchor_jax.data.prepare import hidden_folder
        from anchor_jax.processes import num_cores
        from anchor_jax.progress import bars

        if not self.videos and self.json_list is None and (self.preview or self.verify):
            return datasets.load(self.out)
        request = self._request()
        try:
            return request.make(self.out, self.processes or num_cores(), bars())
        except KeyboardInterrupt:
            kept = hidden_folder(self.out)
            if not kept.is_dir():
                raise
            words = f"complete clips are kept in {kept}, and the same command goes on there"
            raise KeyboardInterrupt(words) from None

    def _request(self) -> "Request":
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
        )


def _parse_crop(text: str) -> tuple[int, int, int]:
    try:
        left, top, side = (int(number) for number in text.split(","))
    except ValueError:
        raise AnchorError(
            f"--crop {text}: expected left, top and side in pixels, such as 420,0,1080"
        ) from None
    return left, top, side
