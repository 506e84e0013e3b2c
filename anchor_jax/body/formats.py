"""Reads motion files in five published layouts and our own, and writes our own.

The layout is recognised from the content of the file; docs/motion.md describes each. Missing values
get defaults: zeros for translation and face, 30 for frames per second.

TalkSHOW and SHOW: https://arxiv.org/abs/2212.04420
BEAT2: https://arxiv.org/abs/2401.00374
AMASS: https://arxiv.org/abs/1904.03278

To add a layout, write a function that turns the arrays of the file into a `Motion`, and call it in
`_recognise` (in `read_motion` if the file is neither an archive nor a pickle). Then name the layout
in `_LAYOUTS`, the text of the errors, and in the table of docs/motion.md.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from anchor_jax.body.arrays import Archive, read_npy
from anchor_jax.body.motion import FACIAL_ACTIONS, MAX_BETAS, NUM_JOINTS, Camera, Motion
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import placed
from anchor_jax.unpickle import MAX_BYTES, read_pickle

_OWN_FORMAT = "anchor-jax motion 1"
_NO_BETAS = np.zeros(10, np.float32)
_TALKSHOW_WIDTH = 265
_MAX_FRAMES = 1 << 20  # about ten hours at 30 fps

# Position of the root joint of the average body, metres. SMPL and SMPL-X rotate the body about this
# joint, so rotating the world about its origin needs the position.
_SMPLH_ROOT = np.array([0, -0.22, 0.03])
_SMPLX_ROOT = np.array([0, -0.35, 0.01])
_Z_UP_TO_Y_UP = Rotation.from_euler("x", -90, degrees=True)

_LAYOUTS = (
    "TalkSHOW .npy (n, 265), BEAT2 or AMASS .npz with poses and trans, SHOW .pkl or .npz with"
    " body_pose_axis, or a file of save_motion"
)

_NamedArrays = Archive | dict  # the content of a file: name to array


def read_motion(path: Path) -> Motion:
    """Read a motion from a TalkSHOW, BEAT2, AMASS or SHOW file, or from our own format.

    Raises:
        AnchorError: the file is missing or damaged, has another layout, or holds invalid values.
            The message names the file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if not start:
            raise AnchorError("the file is empty; copy or download it again")
        if start == b"\x93NUMPY":
            return _talkshow(read_npy(path, MAX_BYTES))
        if start[:4] == b"PK\x03\x04":
            return _recognise(Archive(path, MAX_BYTES))
        if start[:1] in b"\x80(]}c":  # the first byte of a pickled dict or list
            return _recognise(read_pickle(path))
        raise AnchorError(f"not an .npy, .npz or pickle file; expected {_LAYOUTS}")
    except OSError as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}") from None
    except AnchorError as error:
        text = str(error)
        raise AnchorError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def save_motion(path: Path, motion: Motion) -> None:
    """Write all fields of a motion to an `.npz` file. `read_motion` restores them exactly.

    Raises:
        AnchorError: the name does not end in `.npz`, or the file cannot be written. An older file
            of that name then stays unchanged.
    """
    if path.suffix.lower() != ".npz":
        raise AnchorError(f"cannot write {path}: the name of a motion file must end in .npz")
    fields = {
        "format": np.array(_OWN_FORMAT),
        "poses": motion.poses,
        "translation": motion.translation,
        "betas": motion.betas,
        "expression": motion.expression,
        "fps": np.array([motion.fps.numerator, motion.fps.denominator]),
        "frame": np.array(motion.frame),
        "mean_hands": np.array(motion.mean_hands),
    }
    if motion.camera is not None:
        fields |= {
            "camera_focal_length": np.array(motion.camera.focal_length, np.float64),
            "camera_center": np.array(motion.camera.center, np.float64),
            "camera_translation": motion.camera.translation,
            "camera_size": np.array(motion.camera.size),
        }
    if motion.hand_pca is not None:
        fields |= {"left_hand_pca": motion.hand_pca[0], "right_hand_pca": motion.hand_pca[1]}
    if motion.actions is not None:
        fields |= {"actions": motion.actions, "action_names": np.array(FACIAL_ACTIONS)}
    with placed(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **fields)


def _recognise(entries: _NamedArrays) -> Motion:
    if "format" in entries:
        return _own(entries)
    if "body_pose_axis" in entries and "global_orient" in entries:
        return _show(entries)
    if "poses" in entries and "expressions" in entries:
        return _beat2(entries)
    if "poses" in entries and "trans" in entries:
        return _amass(entries)
    raise AnchorError(f"unknown motion layout; expected {_LAYOUTS}")


def _talkshow(table: np.ndarray) -> Motion:
    if table.ndim != 2 or table.shape[1] != _TALKSHOW_WIDTH:
        raise AnchorError(f"an array of shape {table.shape}; expected TalkSHOW's (n, 265)")
    n = len(_frames("the array", table))
    face, root, rest, expression = np.split(_float32("the array", table), [9, 12, 165], axis=1)
    body, hands = rest[:, :63], rest[:, 63:]
    return Motion(
        poses=np.concatenate([root, body, face, hands], axis=1).reshape(n, NUM_JOINTS, 3),
        translation=np.zeros((n, 3), np.float32),
        betas=_NO_BETAS,
        expression=expression,
        fps=Fraction(30),
        frame="camera",
        mean_hands=True,
    )


def _beat2(entries: _NamedArrays) -> Motion:
    poses = _poses(entries, 165)
    n = len(poses)
    return Motion(
        poses=poses.reshape(n, NUM_JOINTS, 3),
        translation=_field(entries, "trans", (n, 3)) if "trans" in entries else _zeros(n, 3),
        betas=_betas(entries),
        expression=_field(entries, "expressions", (n, -1)),
        fps=_rate(entries),
        frame="y_up",
        mean_hands=True,
    )


def _amass(entries: _NamedArrays) -> Motion:
    """Keeps the betas of SMPL-X files only: SMPL-H has another shape space."""
    poses = _poses(entries, 156, 165)
    n = len(poses)
    smplx = poses.shape[1] == 165
    if not smplx:
        poses = np.concatenate([poses[:, :66], _zeros(n, 9), poses[:, 66:]], axis=1)
    poses = poses.reshape(n, NUM_JOINTS, 3)
    translation = _field(entries, "trans", (n, 3))
    if _is_z_up(poses[:, 0]):
        poses, translation = _stand(poses, translation, _SMPLX_ROOT if smplx else _SMPLH_ROOT)
    return Motion(
        poses=poses,
        translation=translation,
        betas=_betas(entries) if smplx else _NO_BETAS,
        expression=_zeros(n, 10),
        fps=_rate(entries),
        frame="y_up",
        mean_hands=False,
    )


def _is_z_up(root: np.ndarray) -> bool:
    """Whether the body stands along z (AMASS) and not along y, in the median over the clip."""
    _, y, z = np.abs(np.median(Rotation.from_rotvec(root).apply([0, 1, 0]), axis=0))
    return bool(z > y)


def _stand(
    poses: np.ndarray, translation: np.ndarray, source_root: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poses and translation of the same motion of an SMPL-X body in a y-up world."""
    poses = poses.copy()
    poses[:, 0] = (_Z_UP_TO_Y_UP * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    place = _Z_UP_TO_Y_UP.apply(source_root + translation) - _SMPLX_ROOT
    return poses, place.astype(np.float32)


def _show(entries: _NamedArrays) -> Motion:
    body = _frames("body_pose_axis", entries["body_pose_axis"])
    n = len(body)
    parts = [_field(entries, "global_orient", (n, 3)), _field(entries, "body_pose_axis", (n, 63))]
    parts += [_field(entries, name, (n, 3)) for name in ("jaw_pose", "leye_pose", "reye_pose")]
    hands = [_field(entries, f"{side}_hand_pose", (n, -1)) for side in ("left", "right")]
    expanded = all(hand.shape[1] == 45 for hand in hands)  # otherwise PCA coefficients
    parts += hands if expanded else [_zeros(n, 90)]
    return Motion(
        poses=np.concatenate(parts, axis=1).reshape(n, NUM_JOINTS, 3),
        translation=_field(entries, "transl", (n, 3)),
        betas=_betas(entries),
        expression=_field(entries, "expression", (n, -1)),
        fps=Fraction(30),
        frame="camera",
        mean_hands=True,
        camera=_show_camera(entries),
        hand_pca=None if expanded else (hands[0], hands[1]),
    )


def _show_camera(entries: _NamedArrays) -> Camera | None:
    names = ("camera_transl", "focal_length", "center", "width", "height")
    missing = [name for name in names if name not in entries]
    if len(missing) == len(names):
        return None
    if missing:
        raise AnchorError(f"the camera lacks {', '.join(missing)}; expected {', '.join(names)}")
    translation = _field(entries, "camera_transl", (-1,))
    if translation.size != 3:  # some files repeat the one camera per frame
        rows = translation.reshape(-1, 3) if translation.size % 3 == 0 else translation[None]
        if not len(rows) or rows.shape[1] != 3 or (rows != rows[0]).any():
            raise AnchorError("camera_transl differs between frames; expected one static camera")
        translation = rows[0]
    cx, cy = _field(entries, "center", (2,)).tolist()
    return Camera(
        focal_length=_number(entries, "focal_length"),
        center=(cx, cy),
        translation=translation,
        size=(round(_number(entries, "width")), round(_number(entries, "height"))),
    )


def _own(entries: _NamedArrays) -> Motion:
    found = str(np.asarray(entries["format"]))[:40]
    if found != _OWN_FORMAT:
        raise AnchorError(
            f"format is {found!r}: expected {_OWN_FORMAT!r}; it may need a newer version"
        )
    n = len(_frames("poses", entries["poses"]))
    frame, mean_hands = np.asarray(entries["frame"]), np.asarray(entries["mean_hands"])
    numerator, denominator = (int(x) for x in _field(entries, "fps", (2,), np.float64))
    if denominator <= 0:
        raise AnchorError(f"fps is {numerator}/{denominator}: expected two positive numbers")
    return Motion(
        poses=_field(entries, "poses", (n, NUM_JOINTS, 3)),
        translation=_field(entries, "translation", (n, 3)),
        betas=_betas(entries),
        expression=_field(entries, "expression", (n, -1)),
        fps=Fraction(numerator, denominator),
        frame=str(frame)[:40],
        mean_hands=bool(mean_hands.all()),
        camera=_own_camera(entries) if "camera_translation" in entries else None,
        hand_pca=_own_pca(entries, n) if "left_hand_pca" in entries else None,
        actions=_own_actions(entries, n) if "actions" in entries else None,
    )


def _own_camera(entries: _NamedArrays) -> Camera:
    cx, cy = _field(entries, "camera_center", (2,), np.float64).tolist()
    width, height = _field(entries, "camera_size", (2,)).tolist()
    return Camera(
        focal_length=_number(entries, "camera_focal_length"),
        center=(cx, cy),
        translation=_field(entries, "camera_translation", (3,)),
        size=(round(width), round(height)),
    )


def _own_pca(entries: _NamedArrays, n: int) -> tuple[np.ndarray, np.ndarray]:
    left, right = (_field(entries, f"{side}_hand_pca", (n, -1)) for side in ("left", "right"))
    return left, right


def _own_actions(entries: _NamedArrays, n: int) -> np.ndarray:
    """Facial actions in our order. Those that the file does not name are 0."""
    if "action_names" not in entries:
        raise AnchorError("actions without action_names; expected the name of each column")
    names = [str(name)[:40] for name in np.asarray(entries["action_names"]).ravel()]
    unknown = [name for name in names if name not in FACIAL_ACTIONS]
    if unknown or len(set(names)) < len(names):
        raise AnchorError(
            f"action_names has {shorten(unknown) if unknown else 'a name twice'}; expected names of"
            " ARKit's 52 facial actions, such as jawOpen"
        )
    actions = _zeros(n, len(FACIAL_ACTIONS))
    actions[:, [FACIAL_ACTIONS.index(name) for name in names]] = _field(
        entries, "actions", (n, len(names))
    )
    return actions


def _poses(entries: _NamedArrays, *widths: int) -> np.ndarray:
    poses = _frames("poses", entries["poses"])
    width = poses.size // len(poses)
    if width not in widths or poses.size % len(poses):
        expected = " or ".join(f"(n, {w})" for w in widths)
        raise AnchorError(f"poses has shape {poses.shape}; expected {expected}")
    return _field(entries, "poses", (len(poses), width))


def _frames(name: str, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim < 2 or len(array) == 0:
        raise AnchorError(f"{name} has shape {array.shape}: expected at least one frame")
    if len(array) > _MAX_FRAMES:
        raise AnchorError(f"{name} has {len(array)} frames: expected at most {_MAX_FRAMES}")
    return array


def _field(
    entries: _NamedArrays, name: str, shape: tuple[int, ...], dtype: type = np.float32
) -> np.ndarray:
    """The array `name`, reshaped to `shape`: only axes of length one may be added or removed. An
    axis of -1 may have any length."""
    if name not in entries:
        raise AnchorError(f"{name} is missing")
    array = np.asarray(entries[name])
    size = int(np.prod([side for side in shape if side >= 0], dtype=np.int64))
    fits = array.size % size == 0 if -1 in shape else array.size == size
    if not fits or (len(shape) > 1 and (array.ndim < 1 or len(array) != shape[0])):
        expected = str(shape).replace("-1", "any")
        raise AnchorError(f"{name} has shape {array.shape}; expected {expected}")
    with np.errstate(over="ignore"):  # an overflow gives infinity, which Motion refuses
        return _numbers(name, array).astype(dtype).reshape(shape)


def _numbers(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise AnchorError(f"{name} is of type {array.dtype}; expected numbers")
    if not np.isfinite(array).all():
        raise AnchorError(f"{name} holds values that are not finite")
    return array


def _float32(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow gives infinity, which Motion refuses
        return _numbers(name, array).astype(np.float32)


def _number(entries: _NamedArrays, name: str) -> float:
    return float(_field(entries, name, (1,), np.float64)[0])


def _betas(entries: _NamedArrays) -> np.ndarray:
    if "betas" not in entries:
        return _NO_BETAS
    betas = np.asarray(entries["betas"])
    if betas.ndim > 1 and betas.size and (betas == betas.reshape(-1, betas.shape[-1])[0]).all():
        betas = betas.reshape(-1, betas.shape[-1])[0]  # some files repeat the betas per frame
    if betas.ndim != 1 or betas.size > MAX_BETAS:
        raise AnchorError(f"betas has shape {betas.shape}; expected up to {MAX_BETAS} numbers")
    return _float32("betas", betas)


def _rate(entries: _NamedArrays) -> Fraction:
    """Frames per second of BEAT2 and AMASS, which use two names for it."""
    for name in ("mocap_frame_rate", "mocap_framerate"):
        if name in entries:
            return Fraction(_number(entries, name)).limit_denominator(1001)
    return Fraction(30)


def _zeros(n: int, width: int) -> np.ndarray:
    return np.zeros((n, width), np.float32)
