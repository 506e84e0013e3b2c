"""Draws pose images of a body with pyrender, off screen, with the published material and lights.

OpenGL fixes its platform when it is first imported, so a process that draws must call
`use_platform` before that.
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

_AMBIENT = (0.3, 0.3, 0.3)
_BLACK = (0.0, 0.0, 0.0, 0.0)
_MATERIAL = {
    "metallicFactor": 0.2,
    "roughnessFactor": 0.6,
    "baseColorFactor": (0.3, 0.5, 0.55, 1.0),
}
_POINT_LIGHTS = (0, -1, 1), (0, 1, 1), (1, 1, 2)  # white at 0.2, intensity 1
_SPOT_LIGHTS = (1, 2, 2), (-1, 2, 2)  # intensity 15, along -z
_FACE_LABEL, _BODY_LABEL = 255, 128
_TOLERANCE = 0.01  # metres that a visible landmark may lie below the drawn surface


@dataclass(frozen=True)
class Drawing:
    """One drawn frame.

    A pixel is in a mask if its centre shows the face or the body. The image is antialiased, so lit
    pixels may lie up to one pixel outside `foreground`.
    """

    pixels: np.ndarray  # uint8 (h, w, 3), RGB on black
    face: np.ndarray  # bool (h, w)
    foreground: np.ndarray  # bool (h, w)
    depth: np.ndarray  # float32 (h, w), metres in front of the camera, 0 on the background


def use_platform(name: str) -> None:
    """Select the OpenGL platform, "egl" or "osmesa". Call it before anything imports OpenGL.

    Raises:
        AnchorError: OpenGL is already loaded with another platform.
    """
    if "OpenGL" in sys.modules and os.environ.get("PYOPENGL_PLATFORM") != name:
        raise AnchorError("OpenGL is already loaded; select the platform earlier")
    os.environ["PYOPENGL_PLATFORM"] = name


class Renderer:
    """Draws meshes of one topology from one view. Call `close`, or use it in a `with` statement.

    Args:
        faces: int (F, 3), triangles.
        face_group: indices of the vertices of the face. A triangle belongs to the face if all its
            corners do.
        view: the camera.

    Raises:
        AnchorError: pyrender is not installed, or OpenGL cannot draw off screen.
    """

    def __init__(self, faces: np.ndarray, face_group: np.ndarray, view: View) -> None:
        of_face = np.isin(faces, face_group).all(1)
        self.faces = np.asarray(faces)
        self._parts = [self.faces[of_face], self.faces[~of_face]]
        self._labels = [_FACE_LABEL, _BODY_LABEL]
        self.view = view
        try:
            import pyrender

            self._offscreen = pyrender.OffscreenRenderer(*view.size)
        except ModuleNotFoundError as error:
            raise AnchorError(
                f"rendering needs {error.name}; install it: pip install 'anchor-jax[render]'"
            ) from error
        except Exception as error:  # the exception type depends on the platform
            raise AnchorError(
                f"OpenGL cannot draw off screen here ({type(error).__name__}); "
                f"on Debian and Ubuntu install {PACKAGES}"
            ) from error
        self._scene = _make_scene(view)
        self._material = pyrender.MetallicRoughnessMaterial(**_MATERIAL)

    def draw(self, vertices: np.ndarray) -> Drawing:
        """Draw one frame. `vertices`: float32 (V, 3), metres, world coordinates (`View.place`)."""
        import pyrender
        from pyrender.constants import RenderFlags

        normals = _vertex_normals(vertices, self.faces)
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
        return Drawing(pixels.copy(), labels == _FACE_LABEL, labels > 0, depth)

    def sees(self, drawing: Drawing, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points into a drawing and test which of them are visible.

        Args:
            drawing: from `draw`.
            world: (k, 3), metres, world coordinates.

        Returns:
            Pixel coordinates x and y, float32 (k, 2), as defined in `view`, and visibility, bool
            (k,): inside the image and not behind the body.
        """
        points, depth = self.view.project(world)
        width, height = self.view.size
        with np.errstate(invalid="ignore"):
            column, row = np.floor(points).astype(int).T
        inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        surface = drawing.depth[row * inside, column * inside]
        seen = inside & (surface > 0) & (depth < surface + _TOLERANCE)
        return points.astype(np.float32), seen

    def close(self) -> None:
        """Release the graphics memory."""
        self._offscreen.delete()

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smooth unit normals, float32 (V, 3): at each vertex the mean of its triangles' normals,
    weighted by their angle there. Arbitrary where the mean is zero."""
    import trimesh

    mesh = trimesh.Trimesh(vertices, faces, process=False, validate=False)
    return np.asarray(mesh.vertex_normals, np.float32)


def _make_scene(view: View):
    import pyrender

    scene = pyrender.Scene(bg_color=_BLACK, ambient_light=_AMBIENT)
    camera = pyrender.IntrinsicsCamera(
        view.focal_length, view.focal_length, *view.center, znear=view.near, zfar=view.far
    )
    _add(scene, camera=camera, matrix=_at(view.position))
    white = np.ones(3)
    for place in _POINT_LIGHTS:
        light = pyrender.PointLight(color=0.2 * white, intensity=1.0)
        _add(scene, light=light, matrix=_at(place))
    for place in _SPOT_LIGHTS:
        light = pyrender.SpotLight(
            color=white, intensity=15.0, innerConeAngle=np.pi / 3, outerConeAngle=np.pi / 2
        )
        _add(scene, light=light, matrix=_at(place))
    return scene


def _add(scene, **contents):
    """Add a node to the scene, numbered so that sets of nodes have a fixed order."""
    node = _node_class()(**contents)
    node.number = len(scene.nodes)
    scene.add_node(node)
    return node


@cache
def _node_class():
    """A node class whose hash is its number.

    pyrender keeps nodes in sets and sums lights in iteration order. With the default hash, an
    address, the order and so some pixels would differ by a grey level between processes.
    """
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
