"""Pose images of a body: pyrender without a screen, the published material and lights.

OpenGL takes its platform when it is first imported: a process that draws calls
`use_platform` before.
"""

import os
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

from anchor_jax.body.view import View
from anchor_jax.errors import AnchorError

PLATFORMS = "egl", "osmesa"
PACKAGES = "libegl1 libgl1-mesa-dri (EGL) or libosmesa6 (OSMesa)"

AMBIENT = (0.3, 0.3, 0.3)
BLACK = (0.0, 0.0, 0.0, 0.0)
MATERIAL = {
    "metallicFactor": 0.2,
    "roughnessFactor": 0.6,
    "baseColorFactor": (0.3, 0.5, 0.55, 1.0),
}
POINT_LIGHTS = (0, -1, 1), (0, 1, 1), (1, 1, 2)  # white at 0.2, intensity 1
SPOT_LIGHTS = (1, 2, 2), (-1, 2, 2)  # intensity 15, along -z
FACE_LABEL, BODY_LABEL = 255, 128
TOLERANCE = 0.01  # metres that a landmark may lie under the drawn surface and still be seen


@dataclass(frozen=True)
class Drawing:
    """One frame.

    The masks say of each pixel whether its middle is on the body, and whether what is seen there
    belongs to the face; the picture's outlines are smoothed, so lit pixels reach one pixel farther.
    """

    pixels: np.ndarray  # uint8 (h, w, 3), RGB on black
    face: np.ndarray  # bool (h, w)
    foreground: np.ndarray  # bool (h, w)
    depth: np.ndarray  # float32 (h, w), metres in front of the camera, 0 on the background


def use_platform(name: str) -> None:
    """Let OpenGL draw through "egl" or "osmesa"; call it before anything imports OpenGL."""
    if "OpenGL" in sys.modules and os.environ.get("PYOPENGL_PLATFORM") != name:
        raise AnchorError("OpenGL is loaded already; choose its platform before")
    os.environ["PYOPENGL_PLATFORM"] = name


class Renderer:
    """Draws meshes of one topology from one view. Close it, or use it in a `with`.

    Args:
        faces: int (F, 3), triangles.
        face_group: vertices of the face; a triangle is of the face when all its corners are.
        view: the camera.

    Raises:
        AnchorError: OpenGL cannot be used.
    """

    def __init__(self, faces: np.ndarray, face_group: np.ndarray, view: View) -> None:
        of_face = np.isin(faces, face_group).all(1)
        self.faces = np.asarray(faces)
        self._parts = [self.faces[of_face], self.faces[~of_face]]
        self._labels = [FACE_LABEL, BODY_LABEL]
        self.view = view
        try:
            import pyrender

            self._offscreen = pyrender.OffscreenRenderer(*view.size)
        except ModuleNotFoundError as error:
            raise AnchorError(
                f"rendering needs {error.name}; install it: pip install 'anchor-jax[render]'"
            ) from error
        except Exception as error:  # each platform fails in ways of its own
            raise AnchorError(
                f"OpenGL cannot draw without a screen here ({type(error).__name__}); "
                f"on Debian and Ubuntu install {PACKAGES}"
            ) from error
        self._scene = _make_scene(view)
        self._material = pyrender.MetallicRoughnessMaterial(**MATERIAL)

    def draw(self, vertices: np.ndarray) -> Drawing:
        """Draw one frame; vertices (V, 3) in the world, metres."""
        import pyrender
        from pyrender.constants import RenderFlags

        normals = vertex_normals(vertices, self.faces)
        nodes = {}
        for triangles, label in zip(self._parts, self._labels, strict=True):
            if len(triangles):
                part = pyrender.Primitive(vertices, normals, indices=triangles, mode=4)
                part.material = self._material
                nodes[_add(self._scene, mesh=pyrender.Mesh([part]))] = (label,) * 3
        try:
            pixels, _ = self._offscreen.render(self._scene)  # type: ignore[misc]
            labels, depth = self._offscreen.render(  # type: ignore[misc]
                self._scene, RenderFlags.SEG, nodes
            )
        finally:
            for node in nodes:
                self._scene.remove_node(node)
        labels = labels[..., 0]
        return Drawing(pixels.copy(), labels == FACE_LABEL, labels > 0, depth)

    def sees(self, drawing: Drawing, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points (k, 3) of the world are in a drawing, and which are seen in it.

        Returns:
            float32 (k, 2), pixels x and y (`view` tells how they count), and bool (k,): in the
            picture and not behind any of the body.
        """
        points, depth = self.view.project(world)
        width, height = self.view.size
        with np.errstate(invalid="ignore"):
            column, row = np.floor(points).astype(int).T
        inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        surface = drawing.depth[row * inside, column * inside]
        seen = inside & (surface > 0) & (depth < surface + TOLERANCE)
        return points.astype(np.float32), seen

    def close(self) -> None:
        """Give the graphics memory back."""
        self._offscreen.delete()

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smooth normals, float32 (V, 3) of length 1: at each vertex the normals of its triangles,
    weighted by the angle there. Where they cancel out, any direction."""
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    return np.asarray(mesh.vertex_normals, np.float32)


def _make_scene(view: View):
    import pyrender

    scene = pyrender.Scene(bg_color=BLACK, ambient_light=AMBIENT)
    camera = pyrender.IntrinsicsCamera(
        view.focal_length, view.focal_length, *view.center, znear=view.near, zfar=view.far
    )
    _add(scene, camera=camera, matrix=_at(view.position))
    white = np.ones(3)
    for place in POINT_LIGHTS:
        light = pyrender.PointLight(color=0.2 * white, intensity=1.0)
        _add(scene, light=light, matrix=_at(place))
    for place in SPOT_LIGHTS:
        light = pyrender.SpotLight(
            color=white, intensity=15.0, innerConeAngle=np.pi / 3, outerConeAngle=np.pi / 2
        )
        _add(scene, light=light, matrix=_at(place))
    return scene


def _add(scene, **contents):
    """Add a node to the scene, numbered so that the scene's sets of nodes keep their order."""
    node = _node_class()(**contents)
    node.number = len(scene.nodes)
    scene.add_node(node)
    return node


@cache
def _node_class():
    """pyrender keeps nodes in sets, and sums light in their order: with hashes of addresses it
    would change a grey level here and there from process to process."""
    import pyrender

    class Numbered(pyrender.Node):
        number: int

        def __hash__(self) -> int:
            return self.number

    return Numbered


def _at(place) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = place
    return pose
