"""Draws images of a person with OpenGL off screen: a fragment shader for colours, antialiased."""

from importlib.resources import files

import numpy as np

from anchor_jax.body.view import View
from anchor_jax.errors import AnchorError
from benchmarks.synthetic.body import Anny
from benchmarks.synthetic.people import BLOUSE, Person

_MIN_SIDE = 512  # pixels; smaller images are drawn larger and averaged
_RINGS, _SPOKES = 40, 96  # of the hair shell

_VERSION = "#version 330\n"
_VERTEX_SHADER = """
in vec3 in_place, in_normal, in_r;
in vec4 in_marks;
out vec3 place, normal, r;
out vec4 marks;
uniform mat4 projection;
void main() {
  place = in_place;
  normal = in_normal;
  r = in_r;
  marks = in_marks;
  gl_Position = projection * vec4(in_place, 1);
}"""


class Painter:
    """Draws one person from one view. Call `close`, or use it in a `with` statement.

    Raises:
        AnchorError: moderngl is missing, or OpenGL cannot be used.
    """

    def __init__(self, anny: Anny, person: Person, view: View) -> None:
        try:
            import moderngl
        except ModuleNotFoundError as error:
            raise AnchorError(
                f"synthetic anchors need {error.name}; install it: pip install -e '.[synthetic]'"
            ) from error
        self._anny, self._view = anny, view
        rest, head = anny.rest(person)
        self._push = _cloth(anny, person)[:, None]
        shell, triangles = _hair_shell(anny)
        self._shell = _moved(_fitted(anny, shell, rest), np.linalg.inv(head))
        self._shell_faces = triangles

        side = view.size[0]
        self._factor = max(2, -(-_MIN_SIDE // side))
        side *= self._factor
        try:
            self._context = context = moderngl.create_context(standalone=True, backend="egl")  # pyright: ignore[reportArgumentType]
        except Exception as error:  # the exception type depends on the platform
            raise AnchorError(f"OpenGL cannot draw off screen here: {error}") from error
        context.enable(moderngl.DEPTH_TEST)
        self._culling = moderngl.CULL_FACE
        paint = files("benchmarks.synthetic").joinpath("paint.glsl").read_text()
        programs = [
            context.program(_VERSION + _VERTEX_SHADER, _VERSION + define + paint)
            for define in ("", "#define SHELL\n")
        ]
        for program in programs:
            self._set(program, person)
        count = len(rest) + len(shell)
        self._moving = context.buffer(reserve=count * 24, dynamic=True)
        marks = np.stack([anny.lips, anny.weights["head"], anny.weights["hand"], anny.parts], 1)
        marks = np.concatenate([marks, np.tile([0.0, 1, 0, 0], (len(shell), 1))])
        still = np.concatenate([np.concatenate([anny.average, shell]), marks], 1)
        at_rest = context.buffer(still.astype("f4").tobytes())
        self._arrays = []
        for program, faces in zip(programs, (anny.faces, triangles + len(rest)), strict=True):
            content = [
                (self._moving, "3f 3f", "in_place", "in_normal"),
                (at_rest, "3f 4f", "in_r", "in_marks"),
            ]
            indices = context.buffer(faces.astype("i4").tobytes())
            self._arrays.append(context.vertex_array(program, content, indices, skip_errors=True))
        size = side, side
        self._frame = context.framebuffer(
            [context.renderbuffer(size, 4)], context.depth_renderbuffer(size)
        )
        self._side = side

    def _set(self, program, person: Person) -> None:
        values = {
            name: getattr(person, name)
            for name in ("skin", "lips", "hair", "jacket", "stripe", "shirt", "tie")
        }
        average = self._anny.joints
        values |= {"iris": person.eyes, "camera": tuple(self._view.position)}
        values |= {"eye": average["eye.L"], "elbow": average["lowerarm01.L"]}
        values |= {"wrist": average["wrist.L"]}
        values |= {name: getattr(person, name) for name in ("clothes", "pattern", "haircut")}
        for name, value in values.items():
            if name in program:
                program[name].value = value if isinstance(value, int) else tuple(value)
        program["projection"].write(_projection(self._view).T.astype("f4").tobytes())

    def draw(self, vertices: np.ndarray, head: np.ndarray) -> np.ndarray:
        """Draw one frame: float32 (h, w, 4), premultiplied colours and alpha, 0 to 1.

        Args:
            vertices: vertices of the body (V, 3), in anny's axes.
            head: placement of the head bone (4, 4).
        """
        anny, view = self._anny, self._view
        dressed = vertices + self._push * anny.normals(vertices)
        placed = _moved(self._shell, head)
        normals = np.concatenate([anny.normals(dressed), _normals(placed, self._shell_faces)])
        places = view.place(np.concatenate([dressed, placed]))
        moving = np.concatenate([places, normals @ view.rotation.T], 1)
        with self._context:
            self._moving.write(moving.astype("f4").tobytes())
            self._frame.use()
            self._frame.clear(0, 0, 0, 0)
            self._context.enable(self._culling)
            self._arrays[0].render()
            self._context.disable(self._culling)  # the hair shell is visible from inside, too
            self._arrays[1].render()
            pixels = np.frombuffer(self._frame.read(components=4), np.uint8)
        pixels = pixels.reshape(self._side, self._side, 4)[::-1]
        return _downsample(pixels, self._factor)

    def close(self) -> None:
        self._context.release()

    def __enter__(self) -> "Painter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _downsample(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each square of `factor` x `factor` pixels, uint8 to float32 in [0, 1]."""
    h, w, c = pixels.shape
    squares = pixels.reshape(h // factor, factor, w // factor, factor, c)
    return squares.sum((1, 3), dtype=np.uint32).astype(np.float32) / (255 * factor**2)


def _projection(view: View) -> np.ndarray:
    """The matrix (4, 4) from the world to OpenGL's clip space; agrees with `View.project`."""
    (w, h), (cx, cy), f = view.size, view.center, view.focal_length
    near, far = view.near, view.far
    lens = np.array(
        [
            [2 * f / w, 0, 1 - 2 * cx / w, 0],
            [0, 2 * f / h, 2 * cy / h - 1, 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )
    camera = np.eye(4)
    camera[:3, 3] = -view.position
    return lens @ camera


def _cloth(anny: Anny, person: Person) -> np.ndarray:
    """Distance of the clothes' surface from the skin (V,), metres."""
    x, y, z = anny.average.T
    lower = anny.joints["wrist.L"] - anny.joints["lowerarm01.L"]
    reached = np.stack([abs(x), y, z], 1) - anny.joints["lowerarm01.L"]
    along = reached @ lower / (lower @ lower)
    collar = z - (0.478 + 0.44 * (y + 0.06))
    trunk = np.clip((0.012 - collar) / 0.02, 0, 1) * np.where(abs(x) > 0.2, along < 0.93, True)
    push = 0.011 * trunk
    if person.clothes != BLOUSE:
        push = np.maximum(push, 0.009 * ((collar > 0) & (collar < 0.034) & (abs(x) < 0.13)))
    front = np.clip(-y / 0.04, 0, 1) * (abs(x) < 0.05) * np.clip((z - 0.18) / 0.05, 0, 1)
    return push - 0.004 * front * trunk


def _hair_shell(anny: Anny) -> tuple[np.ndarray, np.ndarray]:
    """A hair shell around the average head: vertices (., 3) at rest, and triangles. The fragment
    shader cuts it to the haircut."""
    left, front, back, crown, level = _skull(anny, anny.average)
    middle, deep = (front + back) / 2, (back - front) / 2
    rise = np.linspace(0, 1, _RINGS)[:, None]
    cap = rise < 0.5
    angle = np.pi * np.minimum(rise, 0.5)  # from the crown down to the level
    drop = np.maximum(rise - 0.5, 0) / 0.5
    around = np.linspace(-np.pi, np.pi, _SPOKES, endpoint=False)[None]
    width = (left + 0.011) * np.sin(angle) ** 0.9 * (1 + 0.16 * drop)
    depth = (deep + 0.010) * np.sin(angle) ** 0.85 * (1 - 0.10 * drop)
    height = np.where(cap, level + (crown + 0.014 - level) * np.cos(angle), level - 0.26 * drop)
    shape = np.broadcast_arrays(
        width * np.sin(around), middle - depth * np.cos(around), height + 0 * around
    )
    vertices = np.stack(shape, -1).reshape(-1, 3)
    ring, spoke = np.mgrid[: _RINGS - 1, :_SPOKES]
    after = (spoke + 1) % _SPOKES
    a, b = ring * _SPOKES + spoke, ring * _SPOKES + after
    quads = np.stack([a, a + _SPOKES, b, b, a + _SPOKES, b + _SPOKES], -1)
    return vertices, quads.reshape(-1, 3)


def _skull(anny: Anny, vertices: np.ndarray):
    """Half width, front, back and top of the skull, and the lowest level of its upper part."""
    z = anny.average[:, 2]
    level = anny.joints["eye.L"][2] + 0.045
    skull = vertices[(z > level - 0.004) & (anny.weights["skull"] > 0.9)]
    widest = float(abs(skull[:, 0]).max())
    return widest, skull[:, 1].min(), skull[:, 1].max(), skull[:, 2].max(), skull[:, 2].min()


def _fitted(anny: Anny, shell: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Move and scale the shell from the average head to a person's head."""
    old, new = (_skull(anny, vertices) for vertices in (anny.average, rest))
    scale = np.array(
        [
            new[0] / old[0],
            (new[2] - new[1]) / (old[2] - old[1]),
            (new[3] - new[4]) / (old[3] - old[4]),
        ]
    )
    old_corner, new_corner = np.array([0, old[1], old[4]]), np.array([0, new[1], new[4]])
    return (shell - old_corner) * scale + new_corner


def _moved(points: np.ndarray, placement: np.ndarray) -> np.ndarray:
    return points @ placement[:3, :3].T + placement[:3, 3]


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    of_faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(total, faces[:, corner], of_faces)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
