"""An SMPL-X model file, `SMPLX_*.npz`: read without unpickling anything, and checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.body.arrays import Archive
from anchor_jax.body.motion import LARGEST, NUM_JOINTS
from anchor_jax.errors import AnchorError

MAX_BYTES = 1 << 30  # of one array; the largest, posedirs, takes 122 MB
NUM_LANDMARKS = 51
PARENTS = (  # of every joint: SMPL-X's skeleton, the same in each of its files
    *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),  # root and body
    *(15, 15, 15),  # jaw and eyes
    *(20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38),  # left hand
    *(21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53),  # right hand
)
COEFFICIENTS = {400: (300, 100), 20: (10, 10)}  # of shapedirs: shape, then expression
OTHER_MODELS = {5: "FLAME", 16: "MANO", 24: "SMPL", 52: "SMPL-H"}
NEUTRAL = "SMPLX_NEUTRAL.npz"
WHERE = f"SMPL-X's own, such as {NEUTRAL} (docs/render.md tells where it is had)"

V, F, K = "vertices", "faces", " or ".join(map(str, COEFFICIENTS))
NUMBERS: dict[str, tuple[int | str, ...]] = {
    "v_template": (V, 3),
    "shapedirs": (V, 3, K),
    "posedirs": (V, 3, 9 * (NUM_JOINTS - 1)),
    "J_regressor": (NUM_JOINTS, V),
    "weights": (V, NUM_JOINTS),
    "hands_componentsl": (45, 45),
    "hands_componentsr": (45, 45),
    "hands_meanl": (45,),
    "hands_meanr": (45,),
    "lmk_bary_coords": (NUM_LANDMARKS, 3),
}
INDICES: dict[str, tuple[int | str, ...]] = {
    "kintree_table": (2, NUM_JOINTS),
    "f": (F, 3),
    "lmk_faces_idx": (NUM_LANDMARKS,),
}


@dataclass(frozen=True)
class SmplxFile:
    """The arrays of a model file under their own names: float32 in metres and radians, int64."""

    v_template: np.ndarray  # (V, 3)
    shapedirs: np.ndarray  # (V, 3, K): the shape's, then the expression's
    posedirs: np.ndarray  # (V, 3, 486)
    J_regressor: np.ndarray  # (55, V)
    weights: np.ndarray  # (V, 55)
    hands_componentsl: np.ndarray  # (45, 45), a row a coefficient
    hands_componentsr: np.ndarray
    hands_meanl: np.ndarray  # (45,)
    hands_meanr: np.ndarray
    lmk_bary_coords: np.ndarray  # (51, 3)
    kintree_table: np.ndarray  # (2, 55): parents, joints
    f: np.ndarray  # (F, 3)
    lmk_faces_idx: np.ndarray  # (51,)

    @property
    def num_betas(self) -> int:
        """How many of the directions of `shapedirs` are of the shape; the others of expression."""
        return COEFFICIENTS[self.shapedirs.shape[2]][0]


def read_smplx(path: Path) -> SmplxFile:
    """Read a model file, or the neutral one of a folder with or without `smplx/` in it, as the
    package smplx takes it.

    Raises:
        AnchorError: missing, damaged, another model (SMPL, SMPL-H, FLAME, MANO), or arrays that are
            missing, of another shape or type, or not finite; all that is wrong in one line.
    """
    if path.is_dir():
        inside = [place / NEUTRAL for place in (path, path / "smplx")]
        found = [file for file in inside if file.is_file()]
        if not found:
            raise AnchorError(f"{path}: a folder without {NEUTRAL}; expected a file of {WHERE}")
        path = found[0]
    if not path.is_file():
        raise AnchorError(f"{path}: there is no such file; expected {WHERE}")
    if path.suffix.lower() == ".pkl":
        raise AnchorError(f"{path}: a pickle, which is not read; expected the .npz of the same set")
    archive = Archive(path, MAX_BYTES)
    _check_model(archive)
    reader = _Reader(archive)
    arrays = {name: reader.numbers(name) for name in NUMBERS}
    arrays |= {name: reader.indices(name) for name in INDICES}
    if reader.problems:
        raise AnchorError(f"{path}: {'; '.join(reader.problems)}; expected {WHERE}")
    return SmplxFile(**arrays)


def _check_model(archive: Archive) -> None:
    """Tell other models, and what is none, by their arrays' names and their skeletons."""
    if "kintree_table" in archive:
        joints = archive["kintree_table"].shape[-1:]
        if joints != (NUM_JOINTS,):
            count = joints[0] if joints else 0
            kind = f", as {OTHER_MODELS[count]} has" if count in OTHER_MODELS else ""
            raise AnchorError(
                f"{archive.path}: a model of {count} joints{kind}, not {NUM_JOINTS}; "
                f"expected {WHERE}"
            )
    elif "v_template" not in archive:
        raise AnchorError(f"{archive.path}: no body model; expected {WHERE}")
    missing = [name for name in (*NUMBERS, *INDICES) if name not in archive]
    if missing:
        raise AnchorError(f"{archive.path}: it lacks {', '.join(missing)}; expected {WHERE}")


class _Reader:
    """Arrays of an archive, with a list of what is wrong with them."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.problems: list[str] = []
        self.sides: dict[int | str, int] = {}  # as the first array that has a side says

    def numbers(self, name: str) -> np.ndarray:
        array = self.archive[name]
        if array.dtype.kind not in "fiu":
            self.problems.append(f"{name} is of type {array.dtype}, not numbers")
            return array
        self.fits(name, array, NUMBERS[name])
        with np.errstate(over="ignore"):  # what overflows is infinite, and told
            array = np.ascontiguousarray(array, np.float32)
        if array.size and not max(array.max(), -array.min()) <= LARGEST:  # nor NaN
            self.problems.append(f"{name} holds values that are not finite, or beyond {LARGEST:g}")
        return array

    def indices(self, name: str) -> np.ndarray:
        array = self.archive[name]
        if array.dtype.kind not in "iu":
            self.problems.append(f"{name} is of type {array.dtype}, not integers")
            return array
        if not self.fits(name, array, INDICES[name]):
            return array
        array = array.astype(np.int64)
        if name == "kintree_table":  # the root's parent is written in several ways
            if tuple(array[0, 1:]) != PARENTS[1:]:
                self.problems.append(f"{name} is another skeleton than SMPL-X's")
            return array
        what = V if name == "f" else F
        known = self.sides.get(what)  # unless no array fits, which is a problem already
        least, most = array.min(), array.max()
        if known is not None and not 0 <= least <= most < known:
            self.problems.append(f"{name} names {what} from {least} to {most}, of {known}")
        return array

    def fits(self, name: str, array: np.ndarray, shape: tuple[int | str, ...]) -> bool:
        """Whether the array has that shape, whose sides may be names."""
        expected = [self.sides.get(side, side) for side in shape]
        pairs = list(zip(expected, array.shape, strict=False))
        same = array.ndim == len(shape) and all(isinstance(s, str) or s == n for s, n in pairs)
        same = same and array.size > 0 and (K not in shape or array.shape[-1] in COEFFICIENTS)
        if same:
            self.sides |= {side: n for side, n in pairs if isinstance(side, str)}
        else:
            text = ", ".join(map(str, expected))
            self.problems.append(f"{name} has shape {array.shape}, not ({text})")
        return same
