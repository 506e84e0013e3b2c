"""The options of `anchor-jax prepare`, checked before the work begins."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from anchor_jax.data.clips import LENGTH, Box
from anchor_jax.data.dataset import Dataset
from anchor_jax.data.lists import read_list
from anchor_jax.data.pairing import Faces, MatteMaker, VideoSource
from anchor_jax.data.prepare import prepare
from anchor_jax.errors import AnchorError, require
from anchor_jax.progress import Progress
from anchor_jax.shapes import Size, show_size

SIZE = 512, 512
# Options that are files and folders. Their names and sizes are hashed, but not their locations.
PLACES = "videos", "poses", "faces", "mattes", "plates", "json_list"


@dataclass(frozen=True)
class Request:
    """The options that the content of the data set depends on.

    Raises:
        AnchorError: options are out of range or contradict each other.
    """

    videos: tuple[Path, ...] = ()
    poses: tuple[Path, ...] = ()
    faces: tuple[Faces, ...] = ()  # one for each of `poses`, or empty
    identity: str | None = None
    mattes: tuple[Path, ...] = ()
    green_screen: bool = False
    still_background: bool = False
    plates: tuple[Path, ...] = ()
    json_list: Path | None = None
    loop_poses: bool = False
    audio: bool = True
    crop: Box | None = None
    size: Size | None = None
    fps: Fraction = Fraction(30)
    start: float = 0.0
    end: float | None = None

    def __post_init__(self):
        identity, size = self.identity, self.size or SIZE
        require(
            (
                identity is None or (identity and identity.isprintable()),
                "--identity: expected a name",
            ),
            (
                all(8 <= side <= 8192 for side in size),
                f"--size {show_size(size)}: expected 8 to 8192 pixels a side",
            ),
            (self.start >= 0, f"--start {self.start:g}: expected 0 or more seconds"),
            (
                self.end is None or self.end > max(self.start, 0),
                f"--end {self.end}: expected more seconds than --start, {self.start:g}",
            ),
        )
        if self.json_list is None:
            self._check_videos()
            return
        others = {
            "videos": self.videos,
            "--poses": self.poses,
            "--mattes": self.mattes,
            "--green-screen": self.green_screen,
            "--still-background": self.still_background,
            "--plate": self.plates,
            "--loop-poses": self.loop_poses,
            "--crop": self.crop,
            "--start": self.start,
            "--end": self.end,
        }
        if given := [name for name, value in others.items() if value]:
            raise AnchorError(f"--list names its pictures itself: leave out {', '.join(given)}")

    def make(self, out: Path, processes: int, progress: Progress) -> Dataset:
        """Make the data set; see `prepare`."""
        if self.json_list is None:
            sources = self._video_sources()
            inputs = [*self.videos, *self.poses, *self.mattes, *self.plates]
            inputs += [path for faces in self.faces for path in faces.inputs]
        else:
            sources = read_list(self.json_list, self.identity, self.size)
            inputs = [self.json_list]
            inputs += [
                path for source in sources for line in source.lines for path in line.values()
            ]
        options: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in {*PLACES, "start", "end"}
        }
        if self.start or self.end is not None:  # else data sets of earlier versions were others
            options |= {"start": self.start, "end": self.end}
        options["counts"] = [len(getattr(self, name) or ()) for name in PLACES[:-1]]
        options["face_sizes"] = [faces.size for faces in self.faces]
        return prepare(
            sources,
            out,
            inputs=inputs,
            options=options,
            fps=self.fps,
            processes=processes,
            progress=progress,
        )

    def _check_videos(self) -> None:
        if not self.videos:
            raise AnchorError(
                "there is nothing to prepare: name videos with their --poses, or a --list"
            )
        makers = [bool(self.mattes), self.green_screen, self.still_background or bool(self.plates)]
        if sum(makers) > 1:
            raise AnchorError(
                "--mattes, --green-screen and --still-background (--plate) exclude each other: give"
                " one of them"
            )
        if not self.poses:
            raise AnchorError(
                "--poses is missing: name the pose images of each video, which anchor-jax render"
                " draws of its motion file"
            )
        named = {"--poses": self.poses, "--mattes": self.mattes, "--plate": self.plates}
        for name, paths in named.items():
            one_for_all = len(paths) == 1 and (
                name == "--plate" or (name == "--poses" and self.loop_poses)
            )
            if paths and len(paths) != len(self.videos) and not one_for_all:
                raise AnchorError(
                    f"{name} has {len(paths)} entries for {len(self.videos)} videos; expected one"
                    " for each, in the same order"
                )
        if self.size is not None and self.size[0] != self.size[1]:
            raise AnchorError(
                f"--size {show_size(self.size)}: frames of videos are cut to squares;"
                " expected one number, such as 512"
            )

    def _video_sources(self) -> list[VideoSource]:
        count = len(self.videos)
        made: MatteMaker | None = "green screen" if self.green_screen else None
        made = "still background" if self.still_background or self.plates else made
        mattes: Sequence[Path | MatteMaker | None] = self.mattes or (made,)
        columns = zip(
            self.videos,
            _names(self.videos),
            _for_each(self.poses, count),
            _for_each(self.faces or (None,), count),
            _for_each(mattes, count),
            _for_each(self.plates or (None,), count),
            strict=True,
        )
        return [
            VideoSource(
                path=video,
                poses=poses,
                name=name,
                identity=self.identity or name,
                mattes=matte,
                plate=plate,
                faces=faces,
                audio=self.audio,
                loop_poses=self.loop_poses,
                fps=self.fps,
                length=LENGTH,
                size=(self.size or SIZE)[0],
                crop=self.crop,
                start=self.start,
                end=self.end,
            )
            for video, name, poses, faces, matte, plate in columns
        ]


def _for_each(values: Sequence[Any], count: int) -> Sequence[Any]:
    """Repeat a single value for each of `count` videos."""
    return values if len(values) == count else tuple(values) * count


def _names(videos: tuple[Path, ...]) -> list[str]:
    """List the videos' names without suffix. A second video of the same name is `name.2`."""
    names: list[str] = []
    for video in videos:
        name, number = video.stem, 1
        while name in names:
            number += 1
            name = f"{video.stem}.{number}"
        names.append(name)
    return names
