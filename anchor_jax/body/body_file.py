"""Reads and checks the free body's file, written by `benchmarks/synthetic/pack_body.py`.

World axes everywhere: y up, z to the front, x to the person's left; metres. V vertices, B bones,
K shape axes.

format               "anchor-jax body 1"
provenance           JSON: the packages that it was made from
vertices             float32 (V, 3), the average body at rest
faces                uint16 (F, 3), triangles, counter-clockwise seen from outside
bone_names, bone_parents       (B,), a parent comes before its children, the root's parent is -1
bone_heads           float32 (B, 3), where the bones begin
bone_covariances     float32 (B, 3, 3): the nearest rotation is the bone's orientation at rest
bone_references      float32 (B, 3, 3): its orientation in the reference pose
skin_bones, skin_weights       uint8 and uint16 (V, 9): bones of a vertex, and weights times 65535
shape_names          (K,); `shape_directions` int16 (K, V, 3) times `shape_scales` float32 (K,),
                     `shape_heads`, `shape_covariances`: what one unit of an axis adds
shape_of_betas       float32 (K, b): values of the axes for each of SMPL-X's shape coefficients
action_names         (52,); `action_directions` int16 (52, k, 3) times `action_scales` moves the
                     vertices `action_vertices` uint16 (k,)
joints               float32 (55, 3): joints of SMPL-X's average body
mean_hands           float32 (2, 15, 3): SMPL-X's mean left and right hand, axis-angle
group_NAME           uint16: vertices of a part
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.body.arrays import Archive
from anchor_jax.body.motion import FACIAL_ACTIONS, NUM_JOINTS
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import file_hash

BODY = Path(__file__).parents[1] / "assets" / "body" / "makehuman.npz"  # the shipped one
FORMAT = "anchor-jax body 1"
_MAX_BYTES = 1 << 26  # of one array
GROUPS = (
    *("face", "head", "left_hand", "right_hand", "left_eye", "right_eye"),
    *("upper_lip", "lower_lip", "nose", "left_mouth", "right_mouth"),
)
_SHAPES: dict[str, tuple[int | str, ...]] = {
    "vertices": ("V", 3),
    "faces": ("F", 3),
    "bone_names": ("B",),
    "bone_parents": ("B",),
    "bone_heads": ("B", 3),
    "bone_covariances": ("B", 3, 3),
    "bone_references": ("B", 3, 3),
    "skin_bones": ("V", "S"),
    "skin_weights": ("V", "S"),
    "shape_names": ("K",),
    "shape_directions": ("K", "V", 3),
    "shape_scales": ("K",),
    "shape_heads": ("K", "B", 3),
    "shape_covariances": ("K", "B", 3, 3),
    "shape_of_betas": ("K", "b"),
    "action_names": (len(FACIAL_ACTIONS),),
    "action_vertices": ("k",),
    "action_directions": (len(FACIAL_ACTIONS), "k", 3),
    "action_scales": (len(FACIAL_ACTIONS),),
    "joints": (NUM_JOINTS, 3),
    "mean_hands": (2, 15, 3),
}
_INDICES = {"faces": "V", "skin_bones": "B", "action_vertices": "V"}
EXPECTED = "a body file of anchor-jax, as python -m benchmarks.synthetic.pack_body writes it"


def is_body_file(path: Path) -> bool:
    """Whether `path` is an archive that says it is the free body's file."""
    try:
        archive = Archive(path, _MAX_BYTES)
        return "format" in archive and str(archive["format"])[:80].startswith("anchor-jax body")
    except AnchorError:
        return False


def describe(path: Path) -> dict[str, Any]:
    """Return size, SHA-256 and provenance of a body file, for the file beside it."""
    return {
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
        "provenance": json.loads(str(Archive(path, _MAX_BYTES)["provenance"])),
    }


def check_hash(path: Path) -> None:
    """Compare a body file with the JSON file beside it, which `pack_body` writes.

    Raises:
        AnchorError: a file is missing or unreadable, or they do not belong together.
    """
    beside = path.with_suffix(".json")
    try:
        expected = json.loads(beside.read_text("utf-8"))["sha256"]
        found = file_hash(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnchorError(
            f"the free body {path} cannot be read: {first_line(error)}; install anchor-jax again"
        ) from None
    if found != expected:
        raise AnchorError(
            f"the free body {path} is not what was shipped (SHA-256 {found[:12]}, expected"
            f" {str(expected)[:12]}); install anchor-jax again"
        )


def read_body(path: Path) -> dict[str, np.ndarray]:
    """Read a body file: names to arrays.

    Raises:
        AnchorError: the file is missing or damaged, is something else, or an array is missing, has
            another shape or type, or refers to vertices or bones that do not exist.
    """
    if not path.is_file():
        raise AnchorError(f"{path}: there is no such file; expected {EXPECTED}")
    archive = Archive(path, _MAX_BYTES)
    found = str(archive["format"])[:80] if "format" in archive else "missing"
    if found != FORMAT:
        raise AnchorError(f"{path}: format is {found}, not {FORMAT!r}; expected {EXPECTED}")
    needed = (*_SHAPES, *(f"group_{name}" for name in GROUPS))
    missing = [name for name in needed if name not in archive]
    if missing:
        raise AnchorError(f"{path}: missing {', '.join(missing)}; expected {EXPECTED}")
    arrays = {name: archive[name] for name in needed}
    problems = _problems(arrays)
    if problems:
        raise AnchorError(f"{path}: {'; '.join(problems)}; expected {EXPECTED}")
    return arrays


def _problems(arrays: dict[str, np.ndarray]) -> list[str]:
    problems: list[str] = []
    sides: dict[int | str, int] = {}  # lengths of named axes, set by the first array that has them
    for name, shape in _SHAPES.items():
        array = arrays[name]
        kinds = "U" if name.endswith("names") else "iu" if name in _INDICES else "fiu"
        if array.dtype.kind not in kinds:
            problems.append(f"{name} is of type {array.dtype}")
            continue
        if array.ndim == len(shape):
            for side, length in zip(shape, array.shape, strict=True):
                sides.setdefault(side, length if isinstance(side, str) else side)
        if array.shape != tuple(sides.get(side, side) for side in shape):
            text = ", ".join(str(sides.get(side, side)) for side in shape)
            problems.append(f"{name} has shape {array.shape}, not ({text})")
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"{name} holds values that are not finite")
    if problems:
        return problems
    for name, of in {**_INDICES, **{f"group_{name}": "V" for name in GROUPS}}.items():
        array = arrays[name]
        if array.dtype.kind not in "iu" or not array.size or array.max() >= sides[of]:
            problems.append(f"{name} is empty or refers to more than {sides[of]}")
    parents = arrays["bone_parents"]
    if parents[0] != -1 or (parents[1:] < 0).any() or (parents >= np.arange(len(parents))).any():
        problems.append("bone_parents is no tree")
    if tuple(arrays["action_names"]) != FACIAL_ACTIONS:
        problems.append("action_names are others")
    return problems
