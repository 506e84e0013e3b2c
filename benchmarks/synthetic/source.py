"""Draws the frames of a person, as a source for `anchor_jax.data.prepare`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from anchor_jax.body import render
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.motion import Motion
from anchor_jax.body.parallel import FRAMES_AT_ONCE, PoseImage
from anchor_jax.body.retarget import nearest_rotations
from anchor_jax.body.view import View
from anchor_jax.data.dataset import FACE, Pictures
from anchor_jax.demo.demo import view_like
from anchor_jax.poses.face_crops import FaceCrops
from anchor_jax.poses.pose_images import Conditions
from anchor_jax.shapes import Size
from benchmarks.synthetic.body import TO_WORLD, Anny, make_view
from benchmarks.synthetic.motion import perturb, talk
from benchmarks.synthetic.painter import Painter
from benchmarks.synthetic.people import OTHERS, TARGET, Person
from benchmarks.synthetic.scenery import room
from benchmarks.synthetic.wide import wide_motion

_PEOPLE = (TARGET, *OTHERS)
FRAMES = 300  # per clip
_ROOM, _MOTION, _NOISE, _WIDE = 1, 2, 3, 4  # streams of random numbers


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
    of the pose images only. With `wide` the clips show `wide_motion`.
    """

    person: Person
    clips: range
    size: int
    face_size: int
    seed: int
    frames: int = FRAMES
    noise: tuple[float, float] | None = None
    wide: bool = False

    @property
    def identity(self) -> str:
        return self.person.name

    @property
    def sound(self) -> None:
        return None

    def examine(self) -> "Talking":
        return self

    def lengths(self) -> list[tuple[str, int]]:
        kind = "-wide" if self.wide else ""
        return [(f"{self.person.name}{kind}-{clip:03d}", self.frames) for clip in self.clips]

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
        shoot = studio.shoot_wide if self.wide else studio.shoot
        for frame in shoot(clip, self.frames):
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
        self._looking: View | None = None  # nothing is open

    def shoot(self, clip: int, num_frames: int) -> Iterator[Frame]:
        """Draw the frames of a clip. Equal clip numbers give equal clips."""
        self._look(self.view)
        anny = self._anny
        motion = talk(anny.skeleton(self._person), num_frames, self._random(_MOTION, clip))
        posed = fitted = anny.pose(self._person, motion)
        if self._noise is not None:
            noisy = perturb(motion, self._random(_NOISE, clip), *self._noise)
            fitted = anny.pose(self._person, noisy)
        for vertices, head, fit in zip(posed.vertices, posed.head, fitted.vertices, strict=True):
            yield self._draw(vertices, head, fit)

    def shoot_wide(self, clip: int, num_frames: int) -> Iterator[Frame]:
        """Draw a clip of `wide_motion`. Size and place of the face differ from the other clips' by
        up to a tenth, so that the room is learned by its own place and not by the body's."""
        rng = self._random(_WIDE, clip)
        body = body_of(self._person)
        motion = wide_motion(num_frames, body.smplx_joints, body.mean_hands, rng)
        view = view_like(body, motion, self.view.size, self._face_marks())
        scale, shift = rng.uniform(0.9, 1.1), rng.uniform(-0.07, 0.07, 2) * self.view.size
        middle = np.array(self.view.size) / 2
        yield from self.shoot_motion(motion, view.zoomed(scale, middle, middle + shift))

    def shoot_motion(self, motion: Motion, view: View) -> Iterator[Frame]:
        """Draw the person doing any SMPL-X motion, seen by any camera of the same size."""
        anny, body = self._anny, body_of(self._person)
        rest, head = anny.rest(self._person)
        self._look(replace(view, rotation=view.rotation @ TO_WORLD))
        for start in range(0, len(motion.poses), FRAMES_AT_ONCE):
            posed = body.vertices(motion[start : start + FRAMES_AT_ONCE])
            for vertices in posed[:, anny.kept] @ TO_WORLD:
                placement = _moved_rigidly(anny, rest, vertices) @ head
                yield self._draw(vertices, placement, vertices)

    def _look(self, view: View) -> None:
        """Look from `view`, which maps vertices in anny's axes."""
        if view is self._looking:
            return
        self.close()  # closing one renderer breaks all others of the process
        self._painter = Painter(self._anny, self._person, view)
        self._renderer = render.Renderer(self._anny.faces, self._anny.face, view)
        self._looking = view

    def _marks(self, places: np.ndarray) -> np.ndarray:
        """The landmarks (5, 3) of vertices."""
        return np.stack([places[group].mean(0) for group in self._anny.landmarks])

    def _face_marks(self) -> np.ndarray:
        """Landmarks (1, 5, 2) of the person at rest, pixels."""
        places = self.view.place(self._anny.rest(self._person)[0])
        return self.view.project(self._marks(places))[0][None]

    def _draw(self, vertices, head, fit) -> Frame:
        """Draw the person with vertices and head in anny's axes, and the pose image of `fit`."""
        assert self._looking is not None
        places = self._looking.place(fit)
        drawing = self._renderer.draw(places)
        landmarks, visible = self._renderer.sees(drawing, self._marks(places))
        painted = self._painter.draw(vertices, head)
        alpha = painted[..., 3:]
        target = painted[..., :3] * 255 + self._room * (1 - alpha)
        return Frame(
            np.clip(np.rint(target), 0, 255).astype(np.uint8),
            np.rint(alpha[..., 0] * 255).astype(np.uint8),
            PoseImage(drawing.pixels, drawing.face, drawing.foreground, landmarks, visible),
        )

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._number, *stream])

    def close(self) -> None:
        if self._looking is not None:
            self._renderer.close()
            self._painter.close()
        self._looking = None

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _load_anny() -> Anny:
    """The body model, loaded once per process."""
    return Anny()


@cache
def body_of(person: Person) -> MakeHuman:
    """The library's free body with the shape of a person.

    Raises:
        AnchorError: the body's file has no such shape.
    """
    return MakeHuman(shape={person.name: 1.0})


def _moved_rigidly(anny: Anny, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The rigid motion (4, 4) of the skull between two sets of vertices (Kabsch 1976)."""
    skull = (anny.weights["skull"] > 0.99) & (anny.average[:, 2] > anny.joints["eye.L"][2] + 0.06)
    a, b = before[skull].astype(np.float64), after[skull].astype(np.float64)
    turn = nearest_rotations((b - b.mean(0)).T @ (a - a.mean(0)))
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn, b.mean(0) - turn @ a.mean(0)
    return motion
