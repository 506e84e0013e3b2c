"""Reads and checks an SMPL-X model file, `SMPLX_*.npz`, without unpickling anything."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.body.arrays import Archive
from anchor_jax.body.motion import MAX_MAGNITUDE, NUM_JOINTS
from anchor_jax.errors import AnchorError

_MAX_BYTES = 1 << 30  # limit of one array; the largest, posedirs, has 122 MB
_NUM_LANDMARKS = 51
PARENTS = (  # parent of every joint; the same in every SMPL-X file
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),  # root and body
    *(15, 15, 15),  # jaw and eyes
    *(20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38),  # left hand
    *(21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53),  # right hand
)
_COEFFICIENTS = {400: (300, 100), 20: (10, 10)}  # number in shapedirs: (shape, expression)
_OTHER_MODELS = {5: "FLAME", 16: "MANO", 24: "SMPL", 52: "SMPL-H"}
_NEUTRAL = "SMPLX_NEUTRAL.npz"
EXPECTED_FILE = f"an SMPL-X model file such as {_NEUTRAL} (docs/render.md says where to get it)"

_V, _F, _K = "vertices", "faces", " or ".join(map(str, _COEFFICIENTS))
_NUMBERS: dict[str, tuple[int | str, ...]] = {
    "v_template": (_V, 3),
    "shapedirs": (_V, 3, _K),
    "posedirs": (_V, 3, 9 * (NUM_JOINTS - 1)),
    "J_regressor": (NUM_JOINTS, _V),
    "weights": (_V, NUM_JOINTS),
    "hands_componentsl": (45, 45),
    "hands_componentsr": (45, 45),
    "hands_meanl": (45,),
    "hands_meanr": (45,),
    "lmk_bary_coords": (_NUM_LANDMARKS, 3),
}
_INDICES: dict[str, tuple[int | str, ...]] = {
    "kintree_table": (2, NUM_JOINTS),
    "f": (_F, 3),
    "lmk_faces_idx": (_NUM_LANDMARKS,),
}


@dataclass(frozen=True)
class SmplxFile:
    """The arrays of a model file, under the names in the file: float32 (metres, radians), int64."""

    v_template: np.ndarray  # (V, 3)
    shapedirs: np.ndarray  # (V, 3, K): of shape, then of expression
    posedirs: np.ndarray  # (V, 3, 486)
    J_regressor: np.ndarray  # (55, V)
    weights: np.ndarray  # (V, 55)
    hands_componentsl: np.ndarray  # (45, 45), one row per coefficient
    hands_componentsr: np.ndarray
    hands_meanl: np.ndarray  # (45,)
    hands_meanr: np.ndarray
    lmk_bary_coords: np.ndarray  # (51, 3)
    kintree_table: np.ndarray  # (2, 55): parents, joints
    f: np.ndarray  # (F, 3)
    lmk_faces_idx: np.ndarray  # (51,)

    @property
    def num_betas(self) -> int:
        """Number of shape directions in `shapedirs`; the rest are expression directions."""
        return _COEFFICIENTS[self.shapedirs.shape[2]][0]


def read_smplx(path: Path) -> SmplxFile:
    """Read a model file.

    Args:
        path: the file, or a folder that holds the neutral model, directly or in `smplx/`, as the
            package smplx accepts it.

    Raises:
        AnchorError: the file is missing or damaged, holds another model (SMPL, SMPL-H, FLAME,
            MANO), or an array is missing, not finite, or of another shape or type. The message
            lists all problems of the arrays.
    """
    if path.is_dir():
        inside = [place / _NEUTRAL for place in (path, path / "smplx")]
        found = [file for file in inside if file.is_file()]
        if not found:
            raise AnchorError(f"{path}: a folder without {_NEUTRAL}; expected {EXPECTED_FILE}")
        path = found[0]
    if not path.is_file():
        raise AnchorError(f"{path}: there is no such file; expected {EXPECTED_FILE}")
    if path.suffix.lower() == ".pkl":
        raise AnchorError(f"{path}: pickles are not read; expected the .npz file of the same model")
    archive = Archive(path, _MAX_BYTES)
    _check_model(archive)
    reader = _Reader(archive)
    arrays = {name: reader.numbers(name) for name in _NUMBERS}
    arrays |= {name: reader.indices(name) for name in _INDICES}
    if reader.problems:
        raise AnchorError(f"{path}: {'; '.join(reader.problems)}; expected {EXPECTED_FILE}")
    return SmplxFile(**arrays)


def _check_model(archive: Archive) -> None:
    """Refuse other models and other files, recognised by array names and number of joints."""
    if "kintree_table" in archive:
        joints = archive["kintree_table"].shape[-1:]
        if joints != (NUM_JOINTS,):
            count = joints[0] if joints else 0
            kind = f", as {_OTHER_MODELS[count]} has" if count in _OTHER_MODELS else ""
            raise AnchorError(
                f"{archive.path}: a model of {count} joints{kind}, not {NUM_JOINTS}; "
                f"expected {EXPECTED_FILE}"
            )
    elif "v_template" not in archive:
        raise AnchorError(f"{archive.path}: not a body model; expected {EXPECTED_FILE}")
    missing = [name for name in (*_NUMBERS, *_INDICES) if name not in archive]
    if missing:
        raise AnchorError(f"{archive.path}: missing {', '.join(missing)}; expected {EXPECTED_FILE}")


class _Reader:
    """Reads the arrays of an archive and collects their problems."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.problems: list[str] = []
        self.sides: dict[
            int | str, int
        ] = {}  # lengths of named axes, set by the first array that has them

    def numbers(self, name: str) -> np.ndarray:
        array = self.archive[name]
        if array.dtype.kind not in "fiu":
            self.problems.append(f"{name} is of type {array.dtype}, not numbers")
            return array
        self.fits(name, array, _NUMBERS[name])
        with np.errstate(over="ignore"):  # an overflow gives infinity, reported below
            array = np.ascontiguousarray(array, np.float32)
        if array.size and not max(array.max(), -array.min()) <= MAX_MAGNITUDE:  # False for NaN
            self.problems.append(
                f"{name} holds values that are not finite, or beyond {MAX_MAGNITUDE:g}"
            )
        return array

    def indices(self, name: str) -> np.ndarray:
        array = self.archive[name]
        if array.dtype.kind not in "iu":
            self.problems.append(f"{name} is of type {array.dtype}, not integers")
            return array
        if not self.fits(name, array, _INDICES[name]):
            return array
        array = array.astype(np.int64)
        if name == "kintree_table":  # files differ in how they write the root's parent
            if tuple(array[0, 1:]) != PARENTS[1:]:
                self.problems.append(f"{name} is not the skeleton of SMPL-X")
            return array
        what = _V if name == "f" else _F
        count = self.sides.get(what)  # None if no array fits, which is already a problem
        least, most = array.min(), array.max()
        if count is not None and not 0 <= least <= most < count:
            self.problems.append(f"{name} refers to {what} {least} to {most} of {count}")
        return array

    def fits(self, name: str, array: np.ndarray, shape: tuple[int | str, ...]) -> bool:
        """Whether the array has `shape`, in which a string stands for a named axis."""
        expected = [self.sides.get(side, side) for side in shape]
        pairs = list(zip(expected, array.shape, strict=False))
        same = array.ndim == len(shape) and all(isinstance(s, str) or s == n for s, n in pairs)
        same = same and array.size > 0 and (_K not in shape or array.shape[-1] in _COEFFICIENTS)
        if same:
            self.sides |= {side: n for side, n in pairs if isinstance(side, str)}
        else:
            text = ", ".join(map(str, expected))
            self.problems.append(f"{name} has shape {array.shape}, not ({text})")
        return same
