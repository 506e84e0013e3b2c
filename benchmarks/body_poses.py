"""Draw the free body in a few poses, beside SMPL-X's joints as lines in the same pose.

    python -m benchmarks.body_poses --out docs/body.png

The lines are the skeleton of SMPL-X's average body with the same rotations. Needs the extra
`render`.
"""

import argparse
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from anchor_jax.body import render
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.motion import JAW, Motion
from anchor_jax.body.skinning import pose_skeleton, rotation_matrices
from anchor_jax.body.smplx_file import PARENTS
from anchor_jax.body.view import make_view

_SIDE = 300
_Turns = dict[int, tuple[float, float, float]]
_FINGERS = [*range(25, 37)], [*range(40, 52)]
_HANGING: _Turns = {16: (0, 0, -1.25), 17: (0, 0, 1.25)}
_FIST = dict.fromkeys(_FINGERS[0], (0.0, 0.0, -1.3)) | {37: (0.9, 0.2, 0.3), 38: (0, 0.6, 0)}
_UP = {16: (0, -0.3, -0.9), 18: (0.0, -2.2, 0.6), 17: (0, 0.3, 0.9), 19: (0.0, 2.2, -0.6)}
POSES: dict[str, _Turns] = {
    "rest": _HANGING,
    "T": {},
    "crossed arms": {
        16: (0.1, -0.65, -1.0), 17: (0.1, 0.65, 1.0), 18: (0.3, -1.75, 0.2), 19: (0.3, 1.75, -0.2),
    },
    "fist and open hand": _UP | _FIST,
    "head turned": _HANGING | {12: (0, 0.35, 0), 15: (0, 0.6, 0)},
    "jaw open": _HANGING | {JAW: (0.4, 0, 0)},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG")
    args = parser.parse_args()
    render.use_platform("egl")
    body = MakeHuman()
    columns = [_column(body, name, turns) for name, turns in POSES.items()]
    Image.fromarray(np.concatenate(columns, 1)).save(args.out, optimize=True)


def _column(body: MakeHuman, name: str, turns: _Turns) -> np.ndarray:
    """Body above lines, (2 side, side, 3)."""
    motion = _still(turns)
    local = rotation_matrices(jnp.asarray(motion.poses))
    lines = np.asarray(pose_skeleton(PARENTS, jnp.asarray(body.smplx_joints[None]), local)[1][0])
    close = name == "jaw open"
    view = make_view(motion, lines[None], (_SIDE, _SIDE))
    if close:  # the head alone
        head, _ = view.project(view.place(lines[15]))
        view = view.zoomed(3.0, head, np.full(2, _SIDE / 2))
    renderer = render.Renderer(body.faces, body.groups["face"], view)
    picture = renderer.draw(view.place(body.vertices(motion)[0])).pixels
    renderer.close()
    drawn = Image.new("RGB", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(drawn)
    pixels, _ = view.project(view.place(lines))
    for joint, parent in enumerate(PARENTS[1:], 1):
        draw.line([tuple(pixels[parent]), tuple(pixels[joint])], fill=(255, 200, 80), width=2)
    draw.text((6, 4), name, fill=(255, 255, 255))
    return np.concatenate([picture, np.asarray(drawn)], 0)


def _still(turns: _Turns) -> Motion:
    poses = np.zeros((1, 55, 3), np.float32)
    for joint, turn in turns.items():
        poses[0, joint] = turn
    zeros = np.zeros((1, 10), np.float32)
    return Motion(poses, zeros[:, :3], zeros[0], zeros, Fraction(30), "y_up", mean_hands=False)


if __name__ == "__main__":
    main()
