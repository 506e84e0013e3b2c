"""Draws the frames of a person, as a source for `anchor_jax.data.prepare`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from anchor_jax.body import render
from anchor_jax.body.parallel import PoseImage
from anchor_jax.body.view import View
from anchor_jax.data.dataset import FACE, Pictures
from anchor_jax.poses.face_crops import FaceCrops
from anchor_jax.poses.pose_images import Conditions
from anchor_jax.shapes import Size
from benchmarks.synthetic.body import Anny, make_view
from benchmarks.synthetic.motion import perturb, talk
from benchmarks.synthetic.painter import Painter
from benchmarks.synthetic.people import OTHERS, TARGET, Person
from benchmarks.synthetic.scenery import room

_PEOPLE = (TARGET, *OTHERS)
FRAMES = 300  # per clip
_ROOM, _MOTION, _NOISE = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True)
class Frame:
    """One frame and its ground truth."""

    target: np.ndarray  # uint8 (h, w, 3)
    matte: np.ndarray  # uint8 (h, w)
    pose: PoseImage


@dataclass(frozen=True)
class _InMemory(Conditions):
    """Landmarks and face masks in memory instead of a folder."""

    faces: tuple[np.ndarray, ...] = ()

    def face(self, number: int) -> np.ndarray:
        return self.faces[number].astype(np.uint8) * 255


@dataclass(frozen=True)
class Talking:
    """A source for `anchor_jax.data.prepare`: clips of one person, given by their numbers.

    `noise` holds the strengths of `perturb`, radians and facial actions. The noise is on the motion
    of the pose images only.
    """

    person: Person
    clips: range
    size: int
    face_size: int
    seed: int
    frames: int = FRAMES
    noise: tuple[float, float] | None = None

    @property
    def identity(self) -> str:
        return self.person.name

    @property
    def sound(self) -> None:
        return None

    def examine(self) -> "Talking":
        return self

    def lengths(self) -> list[tuple[str, int]]:
        return [(f"{self.person.name}-{clip:03d}", self.frames) for clip in self.clips]

    def pictures(self) -> dict[str, Size]:
        """The images of each frame and their sizes."""
        whole = dict.fromkeys(("target", "pose", "matte"), (self.size, self.size))
        return whole | dict.fromkeys(FACE, (self.face_size, self.face_size))

    def read(self, wanted: range) -> Iterator[tuple[int, Iterator[Pictures]]]:
        """Draw the clips with indices `wanted` in `clips`."""
        with Studio(self.person, self.size, self.seed, self.noise) as studio:
            for index in wanted:
                yield index, self._pictures(studio, self.clips[index])

    def _pictures(self, studio: "Studio", clip: int) -> Iterator[Pictures]:
        for frame in studio.shoot(clip, self.frames):
            conditions = _InMemory(
                Path(self.person.name),
                frame.pose.landmarks[None],
                (self.size, self.size),
                (frame.pose.face,),
            )
            crops = FaceCrops(conditions, self.face_size).cut(
                0, frame.target, frame.pose.pixels, (0, 0, self.size)
            )
            whole = {"target": frame.target, "pose": frame.pose.pixels, "matte": frame.matte}
            yield whole | dict(crops)


class Studio:
    """A person in a room in front of the camera. Call `close`, or use it in a `with` statement."""

    def __init__(
        self,
        person: Person,
        size: int,
        seed: int,
        noise: tuple[float, float] | None = None,
    ) -> None:
        self._person, self._seed, self._noise = person, seed, noise
        self._number = _PEOPLE.index(person)
        self._anny = _load_anny()
        self.view: View = make_view(self._anny.rest(person)[0], size)
        render.use_platform("egl")
        os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa: the processes already use all cores
        self._room = room(person, size, self._random(_ROOM)) * 255
        self._painter = Painter(self._anny, person, self.view)
        self._renderer = render.Renderer(self._anny.faces, self._anny.face, self.view)

    def shoot(self, clip: int, num_frames: int) -> Iterator[Frame]:
        """Draw the frames of a clip. Equal clip numbers give equal clips."""
        anny, view = self._anny, self.view
        motion = talk(anny.skeleton(self._person), num_frames, self._random(_MOTION, clip))
        posed = fitted = anny.pose(self._person, motion)
        if self._noise is not None:
            noisy = perturb(motion, self._random(_NOISE, clip), *self._noise)
            fitted = anny.pose(self._person, noisy)
        for vertices, head, fit in zip(posed.vertices, posed.head, fitted.vertices, strict=True):
            places = view.place(fit)
            drawing = self._renderer.draw(places)
            marks = np.stack([places[group].mean(0) for group in anny.landmarks])
            landmarks, visible = self._renderer.sees(drawing, marks)
            painted = self._painter.draw(vertices, head)
            alpha = painted[..., 3:]
            target = painted[..., :3] * 255 + self._room * (1 - alpha)
            yield Frame(
                np.clip(np.rint(target), 0, 255).astype(np.uint8),
                np.rint(alpha[..., 0] * 255).astype(np.uint8),
                PoseImage(drawing.pixels, drawing.face, drawing.foreground, landmarks, visible),
            )

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._number, *stream])

    def close(self) -> None:
        self._renderer.close()
        self._painter.close()

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _load_anny() -> Anny:
    """The body model, loaded once per process."""
    return Anny()
