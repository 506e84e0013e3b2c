"""Derive what SMPL-X's expression coefficients do to a face, from renders of them.

    python -m benchmarks.expression_table ../shared/data/motion

The folder holds TalkSHOW's motion files and its own renders of them, whose faces are SMPL-X's.
1. The faces of all frames are brought to one place by the head's pose, which the file tells.
2. Ridge regression of their grey levels on the standardised coefficients, on the jaw and on the
   rotation of the head gives a picture of what each coefficient changes.
3. Each picture is explained by pictures of what the free body's facial actions change, drawn in
   the same poses: non-negative least squares, for a positive and for a negative coefficient.

Prints, for each coefficient, the actions for one unit and the share of the picture that they
explain. The table in `anchor_jax/body/expression.py` keeps what explains a fifth or more. Needs the
extra `render` and opencv.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls

from anchor_jax.body import render
from anchor_jax.body.expression import add_action
from anchor_jax.body.formats import read_motion
from anchor_jax.body.makehuman import MakeHuman
from anchor_jax.body.motion import FACIAL_ACTIONS, JAW, Motion
from anchor_jax.body.view import make_view
from anchor_jax.data import video
from anchor_jax.poses.framing import measure

_CLIPS = "talkshow_oliver", "talkshow_french"
_SIDE, _BORDER = 800, 8  # pixels of TalkSHOW's images, and of their red border
_HEAD = 15
_FACE = np.array([[44, 48], [84, 48], [64, 72], [50, 92], [78, 92]], np.float32)  # of 128 pixels
_REGIONS = {
    "mouth": (slice(78, 120), slice(34, 94)),
    "brows": (slice(20, 60), slice(24, 104)),
}
_ACTIONS = {
    "mouth": (
        *("jawOpen", "mouthSmile", "mouthFrown", "mouthPucker", "mouthFunnel", "mouthStretch"),
        *("mouthUpperUp", "mouthLowerDown", "mouthPress"),
    ),
    "brows": ("browInnerUp", "browOuterUp", "browDown"),
}
_COEFFICIENTS, _RIDGE, _SMALL = 10, 8.0, 0.15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with the .npy files and their renders")
    args = parser.parse_args()
    render.use_platform("egl")
    body = MakeHuman()
    motions = [read_motion(args.folder / f"{name}.npy") for name in _CLIPS]
    faces = np.concatenate(
        [
            _their_faces(body, motion, args.folder / f"{name}.mp4")
            for name, motion in zip(_CLIPS, motions, strict=True)
        ]
    )
    causes = np.concatenate(
        [
            np.concatenate([m.expression[:, :12], m.poses[:, JAW], m.poses[:, _HEAD]], axis=1)
            for m in motions
        ]
    )
    spread = causes.std(0)
    causes = (causes - causes.mean(0)) / spread
    changes = faces.reshape(len(faces), -1) - faces.reshape(len(faces), -1).mean(0)
    effects = np.linalg.solve(causes.T @ causes + _RIDGE * np.eye(len(spread)), causes.T @ changes)
    effects = effects.reshape(-1, *faces.shape[1:]) / spread[:, None, None]
    for region, names in _ACTIONS.items():
        ours = np.mean([_our_changes(body, motion, names) for motion in motions], axis=0)
        for number in range(_COEFFICIENTS):
            for sign in (1, -1):
                _explain(region, names, ours, sign * effects[number], f"{number} {sign:+d}")


def _plain(motion: Motion, **changes: float) -> Motion:
    """The motion with these facial actions alone; a name without a side is that of both."""
    actions = np.zeros((len(motion.poses), len(FACIAL_ACTIONS)), np.float32)
    for name, value in changes.items():
        add_action(actions, name, value)
    return replace(motion, actions=actions)


def _their_faces(body: MakeHuman, motion: Motion, path: Path) -> np.ndarray:
    """The faces (n, 128, 128) of TalkSHOW's images, in one place."""
    motion = _plain(motion)
    view = make_view(motion, body.joints(motion), (_SIDE, _SIDE))
    some = np.arange(0, len(motion.poses), 12)
    renderer = render.Renderer(body.faces, body.groups["face"], view)
    ours = [measure(renderer.draw(view.place(v)).pixels) for v in body.vertices(motion[some])]
    renderer.close()
    frames, _ = video.read_frames(path)
    inner = slice(_BORDER, -_BORDER)
    theirs = [measure(frame[inner, inner]) for frame in frames[some]]
    median = lambda places, name: np.nanmedian([getattr(place, name) for place in places])
    inside = _SIDE - 2 * _BORDER
    scale = median(theirs, "head") * inside / (median(ours, "head") * _SIDE)
    column = median(theirs, "column") * inside - scale * median(ours, "column") * _SIDE
    crown = median(theirs, "crown") * inside + _BORDER - scale * median(ours, "crown") * _SIDE
    marks = view.project(view.place(body.landmarks(body.vertices(motion))))[0] - (_SIDE / 2, 0)
    marks = scale * marks + (column + _SIDE / 2, crown)
    return np.stack([_crop(frame, at) for frame, at in zip(frames, marks, strict=True)])


def _our_changes(body: MakeHuman, motion: Motion, names: tuple[str, ...]) -> np.ndarray:
    """What each action changes in the face (k, 128, 128), for one unit, over a few frames."""
    motion = motion[np.arange(20, 280, 60)]
    plain = _plain(motion)
    view = make_view(plain, body.joints(plain), (_SIDE, _SIDE))
    marks = view.project(view.place(body.landmarks(body.vertices(plain))))[0]
    renderer = render.Renderer(body.faces, body.groups["face"], view)

    def faces(motion: Motion) -> np.ndarray:
        drawn = (renderer.draw(view.place(vertices)).pixels for vertices in body.vertices(motion))
        return np.stack([_crop(frame, at) for frame, at in zip(drawn, marks, strict=True)])

    before = faces(plain)
    amount = {name: 0.25 if name == "jawOpen" else 0.5 for name in names}
    changes = [
        (faces(_plain(motion, **{name: amount[name]})) - before).mean(0) / amount[name]
        for name in names
    ]
    renderer.close()
    return np.stack(changes)


def _crop(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The grey face of a frame, turned and scaled so that its landmarks are at `_FACE`."""
    import cv2

    matrix, _ = cv2.estimateAffinePartial2D(landmarks.astype(np.float32), _FACE, method=cv2.LMEDS)
    return cv2.warpAffine(frame, matrix, (128, 128)).mean(2)


def _explain(
    region: str, names: tuple[str, ...], ours: np.ndarray, effect: np.ndarray, label: str
) -> None:
    """Print which actions change the face as a coefficient does."""
    rows, columns = _REGIONS[region]
    seen = lambda image: gaussian_filter(image, 2.0)[rows, columns].ravel()
    matrix, wanted = np.stack([seen(change) for change in ours], axis=1), seen(effect)
    length = np.linalg.norm(matrix, axis=0)
    system = np.concatenate([matrix / length, _SMALL * np.eye(len(names))])
    found, rest = nnls(system, np.concatenate([wanted, np.zeros(len(names))]))
    share = 1 - (rest / np.linalg.norm(wanted)) ** 2
    parts = [
        f"{name} {value / size:.2f}"
        for name, value, size in zip(names, found, length, strict=True)
        if value > 0.08 * np.linalg.norm(wanted)
    ]
    print(f"{region} {label}: explained {share:.2f}: {', '.join(parts)}")


if __name__ == "__main__":
    main()
