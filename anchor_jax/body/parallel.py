"""A whole clip drawn by several processes, each with an OpenGL context of its own.

What a frame looks like depends on that frame and the view alone, so the number of processes changes
nothing but the time.
"""

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import numpy as np

from anchor_jax.body import render
from anchor_jax.body.motion import Motion
from anchor_jax.body.view import View
from anchor_jax.errors import AnchorError
from anchor_jax.processes import Pool, WorkerEnded, num_cores
from anchor_jax.progress import Advance, no_advance

FRAMES_AT_ONCE = 16  # whose vertices are computed together, as many as SMPL-X wants
FRAMES_PER_TASK = 4  # of these, to one process


@runtime_checkable
class Body(Protocol):
    """What can be drawn: the licensed body model or a free body.

    Vertices are float32 (n, V, 3) in metres, in the motion's frame.
    """

    faces: np.ndarray
    groups: dict[str, np.ndarray]

    def vertices(self, motion: Motion) -> np.ndarray: ...
    def joints(self, motion: Motion) -> np.ndarray: ...
    def landmarks(self, vertices: np.ndarray) -> np.ndarray: ...
    def notes(self, motion: Motion) -> list[str]: ...


@dataclass(frozen=True)
class PoseImage:
    """One frame and what is known of it. The landmarks are left eye, right eye, nose, left and
    right mouth corner, image-left first; `anchor_jax.body.view` says how pixels count. Joints are
    in the order of `anchor_jax.body.motion`; None if the drawer does not know them."""

    pixels: np.ndarray  # uint8 (h, w, 3), RGB on black
    face: np.ndarray  # bool (h, w): what is seen there belongs to the face
    foreground: np.ndarray  # bool (h, w): the body is there
    landmarks: np.ndarray  # float32 (5, 2), pixels
    visible: np.ndarray  # bool (5,): in the picture and not hidden
    joints: np.ndarray | None = None  # float32 (55, 2), pixels


def draw_clip(
    body: Body,
    motion: Motion,
    view: View,
    processes: int | None = None,
    advance: Advance = no_advance,
) -> Generator[PoseImage, None, None]:
    """Draw every frame of a motion, in order.

    It starts processes: a program that calls it needs an `if __name__ == "__main__":`.

    Args:
        body: what to draw.
        motion: how it moves.
        view: from where, by `view.make_view`.
        processes: how many draw at once; by default one a core.
        advance: called with the number of frames drawn since the last call.

    Raises:
        AnchorError: vertices that are not finite, no OpenGL to draw with, or a missing package.
    """
    _check_packages()
    processes = processes or num_cores()
    num_tasks = -(-len(motion.poses) // FRAMES_PER_TASK)
    with _start(min(processes, num_tasks), body, view) as pool:
        pending: deque[Future[list[PoseImage]]] = deque()
        for number, geometry in enumerate(_geometry(body, motion, view), 1):
            pending.append(pool.submit(_draw, *geometry))
            while len(pending) > (0 if number == num_tasks else 2 * processes):
                images = pool.result(pending.popleft())
                advance(len(images))
                yield from images


def _check_packages() -> None:
    """Raise AnchorError if a package that draws is missing, before any process starts."""
    missing = [name for name in ("pyrender", "trimesh") if find_spec(name) is None]
    if missing:
        raise AnchorError(
            f"rendering needs {missing[0]}; install it: pip install 'anchor-jax[render]'"
        )


def _geometry(
    body: Body, motion: Motion, view: View
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Vertices, landmarks and joints in the world of the frames of each task, checked."""
    for start in range(0, len(motion.poses), FRAMES_AT_ONCE):
        part = motion[start : start + FRAMES_AT_ONCE]
        vertices = body.vertices(part)
        finite = np.isfinite(vertices).all((1, 2))
        if not finite.all():
            frame = start + int(np.argmin(finite))
            raise AnchorError(f"frame {frame} of the motion gives vertices that are not finite")
        points = vertices, body.landmarks(vertices), body.joints(part)
        places = [view.place(x) for x in points]
        for first in range(0, len(vertices), FRAMES_PER_TASK):
            task = slice(first, first + FRAMES_PER_TASK)
            yield places[0][task], places[1][task], places[2][task]


def _start(processes: int, body: Body, view: View) -> Pool:
    """Processes that can draw, on the first platform that works.

    `PYOPENGL_PLATFORM`, where it is set, is the only one tried.
    """
    given = os.environ.get("PYOPENGL_PLATFORM")
    if given is not None and given not in render.PLATFORMS:
        raise AnchorError(
            f"PYOPENGL_PLATFORM is {given}; expected {' or '.join(render.PLATFORMS)}, or unset"
        )
    error = None
    for platform in [given] if given else render.PLATFORMS:
        pool = Pool(processes, _set_up, (platform, body.faces, body.groups["face"], view))
        try:
            pool.result(pool.submit(_open))
            return pool
        except AnchorError as reason:
            pool.close()
            error = reason
        except BaseException:
            pool.close()
            raise
    if error is not None and not isinstance(error, WorkerEnded):
        raise error
    raise AnchorError(
        f"processes that draw end at once: OpenGL does not work (on Debian and Ubuntu it needs "
        f'{render.PACKAGES}), or the calling program has no `if __name__ == "__main__":`'
    ) from error


# In the processes that draw.

_drawing: dict[str, object] = {}


def _set_up(platform: str, faces: np.ndarray, face_group: np.ndarray, view: View) -> None:
    render.use_platform(platform)
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's: the processes share the cores already
    _drawing["arguments"] = faces, face_group, view


def _open() -> None:
    """Open the OpenGL context of this process, once."""
    if "renderer" not in _drawing:
        _drawing["renderer"] = render.Renderer(*_drawing["arguments"])  # type: ignore[misc]


def _draw(vertices: np.ndarray, landmarks: np.ndarray, joints: np.ndarray) -> list[PoseImage]:
    """Draw the frames of one task, from vertices (k, V, 3), landmarks (k, 5, 3) and joints
    (k, 55, 3) in the world."""
    _open()
    renderer = _drawing["renderer"]
    assert isinstance(renderer, render.Renderer)
    images = []
    for shape, points, places in zip(vertices, landmarks, joints, strict=True):
        drawing = renderer.draw(shape)
        seen = renderer.sees(drawing, points)
        bones = renderer.view.project(places)[0].astype(np.float32)
        images.append(PoseImage(drawing.pixels, drawing.face, drawing.foreground, *seen, bones))
    return images
