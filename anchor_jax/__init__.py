"""Make-Your-Anchor in JAX: generate a video of a person from body motion and one picture.

    anchor = anchor_jax.load("anchors/seth")                 # configs and parameters; or "shipped"
    frames = anchor_jax.generate(anchor, poses, appearance)  # uint8 (n,h,w,3)
    for frame in anchor_jax.stream(anchor, poses): ...       # of any length, as poses arrive

Importing the package loads neither JAX nor NumPy: a name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchor_jax.checkpoint import Anchor, load
    from anchor_jax.errors import AnchorError
    from anchor_jax.generation.face import Face
    from anchor_jax.generation.pipeline import generate
    from anchor_jax.generation.stream import stream
    from anchor_jax.poses.face_inputs import read_face
    from anchor_jax.studies.evaluate import evaluate

    __version__: str

__all__ = [
    "Anchor",
    "AnchorError",
    "Face",
    "__version__",
    "evaluate",
    "generate",
    "load",
    "read_face",
    "stream",
]

_MODULES = {
    "Anchor": "anchor_jax.checkpoint",
    "AnchorError": "anchor_jax.errors",
    "Face": "anchor_jax.generation.face",
    "evaluate": "anchor_jax.studies.evaluate",
    "generate": "anchor_jax.generation.pipeline",
    "load": "anchor_jax.checkpoint",
    "read_face": "anchor_jax.poses.face_inputs",
    "stream": "anchor_jax.generation.stream",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("anchor-jax")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'anchor_jax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
