"""How the free body's bones follow the 55 joints of SMPL-X.

The two skeletons differ in rest pose, in the number of bones, and in where some joints lie. So the
body is first brought into SMPL-X's rest pose (arms sideways, palms down, `rest_turns`). There each
bone belongs to one joint of SMPL-X, and follows it, or a part of its rotation (`Followers`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

from anchor_jax.body.smplx_file import PARENTS

_SIDES = {"L": 1.0, "R": -1.0}
_FINGERS = 37, 25, 28, 34, 31  # first joint of the left thumb, index, middle, ring, little finger
_RIGHT = 15  # from a joint of the left hand to that of the right one

# Joints of SMPL-X that lie elsewhere in the body than the bone that follows them, such as the
# joints of the spine. They are where SMPL-X has them; all others are where the bone begins.
_APART = 0, 3, 6, 9, 12, 13, 14, 15, 22
# At rest this body's face looks down a little: measured against a mesh of SMPL-X's topology, whose
# profile from forehead to chin and from crown to chin leans back by 6 and 3 degrees more.
_HEAD_BACK = np.deg2rad(5)
HIPS = 1, 2  # reported where SMPL-X has them; the thighs turn about the body's own


@dataclass(frozen=True)
class Followers:
    """What each of B bones follows. The world rotation of a bone is

        turn[base] @ exp(share * v) @ exp(twist * phi * axis)

    where v is the local rotation (axis-angle) of joint `part`, and phi the angle of its twist about
    `axis`. The bone turns about joint `pivot`.
    """

    base: np.ndarray  # int (B,)
    part: np.ndarray  # int (B,)
    pivot: np.ndarray  # int (B,)
    share: np.ndarray  # float32 (B,)
    twist: np.ndarray  # float32 (B,)
    axis: np.ndarray  # float32 (B, 3)


def followers(names: list[str], joints: np.ndarray) -> Followers:
    """Find what the bones follow, by their names.

    Args:
        names: of the bones, as anny names them: "upperarm01.L".
        joints: joints of SMPL-X's average body, (55, 3), metres.

    Raises:
        KeyError: a bone that no rule covers.
    """
    rows = [_rule(*name.partition(".")[::2]) for name in names]
    base, part, pivot, share, twist = (np.array(column) for column in zip(*rows, strict=True))
    ends = {16: 18, 17: 19, 18: 20, 19: 21, 20: 28, 21: 43}
    axis = np.zeros((len(names), 3), np.float32)
    for bone in np.flatnonzero(twist):
        axis[bone] = unit(joints[ends[pivot[bone]]] - joints[pivot[bone]])
    return Followers(base, part, pivot, share.astype(np.float32), twist.astype(np.float32), axis)


def _rule(bone: str, side: str) -> tuple[int, int, int, float, float]:
    """Base, part, pivot, share and twist of a bone; joints of the left side, moved to `side`."""
    right = side == "R"
    whole = lambda joint: (joint, joint, joint, 0.0, 0.0)
    some = lambda joint, share: (PARENTS[joint], joint, joint, share, 0.0)
    # Muscles carry a twist along the limb: the upper bone of an arm has half of the twist at its
    # upper end, the lower bone of the forearm half of the twist of the wrist.
    less = lambda joint: (PARENTS[joint], joint, joint, 1.0, -0.5)
    trunk = {
        "root": whole(0), "spine05": whole(0), "spine04": some(3, 0.5), "spine03": whole(3),
        "spine02": whole(6), "spine01": whole(9), "neck01": some(12, 0.6), "neck02": whole(12),
        "neck03": some(15, 0.5), "head": whole(15),
    }  # fmt: skip
    if bone in trunk:
        return trunk[bone]
    body = lambda joint: joint + right
    limbs = {
        "pelvis": whole(0), "upperleg01": whole(body(1)), "upperleg02": whole(body(1)),
        "lowerleg01": whole(body(4)), "lowerleg02": whole(body(4)), "foot": whole(body(7)),
        "clavicle": some(body(13), 0.5), "shoulder01": whole(body(13)),
        "upperarm01": less(body(16)), "upperarm02": whole(body(16)),
        "lowerarm01": less(body(18)), "lowerarm02": (body(18), body(20), body(18), 0.0, 0.5),
        "wrist": whole(body(20)), "eye": whole(body(23)),
    }  # fmt: skip
    if bone in limbs:
        return limbs[bone]
    if bone.startswith("toe"):
        return whole(body(10))
    if bone.startswith("metacarpal"):
        return whole(body(20))
    finger, segment = bone.removeprefix("finger").split("-")
    return whole(_FINGERS[int(finger) - 1] + int(segment) - 1 + _RIGHT * right)


def owners(names: list[str]) -> dict[int, int]:
    """For joints of SMPL-X, the bone that begins there, or nearest to it."""
    number = {name: index for index, name in enumerate(names)}
    found = {0: "root", 3: "spine03", 6: "spine02", 9: "spine01", 12: "neck01", 15: "head"}
    for right, side in enumerate(_SIDES):
        limbs = {
            1: "upperleg01", 4: "lowerleg01", 7: "foot", 10: "toe3-1", 13: "clavicle",
            16: "upperarm01", 18: "lowerarm01", 20: "wrist", 23: "eye",
        }  # fmt: skip
        found |= {joint + right: f"{bone}.{side}" for joint, bone in limbs.items()}
        for finger, first in enumerate(_FINGERS, 1):
            for segment in range(3):
                joint = first + segment + _RIGHT * right
                found[joint] = f"finger{finger}-{segment + 1}.{side}"
    found[22] = "head"  # the jaw is no bone: facial actions move it
    return {joint: number[name] for joint, name in sorted(found.items())}


def place_joints(
    rest: np.ndarray, average: np.ndarray, joints: np.ndarray, names: list[str]
) -> np.ndarray:
    """Place SMPL-X's joints in a body of any shape.

    Args:
        rest: where the bones begin in SMPL-X's rest pose, (B, 3).
        average: the same for the average shape.
        joints: joints of SMPL-X's average body, (55, 3).
        names: of the bones.

    Returns:
        float64 (55, 3), metres.
    """
    placed = np.empty((len(joints), 3))
    for joint, bone in owners(names).items():
        placed[joint] = rest[bone]
        if joint in _APART:
            placed[joint] += joints[joint] - average[bone]
    return placed


def rest_turns(
    names: list[str], parents: np.ndarray, heads: np.ndarray, tips: np.ndarray, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rotations that bring the average body from its reference pose to SMPL-X's rest pose.

    Arms and palms get SMPL-X's directions, fingers those of its flat hand. The trunk leans so that
    shoulders and head are above the hips as far as SMPL-X's are, and the face looks ahead.

    Args:
        names, parents: of the bones.
        heads: where the bones begin in the reference pose, (B, 3), metres.
        tips: where they end, (B, 3); used for the last bone of each finger.
        joints: joints of SMPL-X's average body, (55, 3).

    Returns:
        World rotations (B, 3, 3) of the bones, and the position (3,) of the root in the rest pose.
    """
    number = {name: index for index, name in enumerate(names)}
    turns = np.tile(np.eye(3), (len(names), 1, 1))
    at = lambda name: heads[number[name]]

    def put(turn: np.ndarray, *bones: str) -> None:
        for bone in bones:
            turns[number[bone]] = turn

    def lean(angle: float, *bones: str) -> None:
        put(Rotation.from_rotvec([angle, 0, 0]).as_matrix(), *bones)

    def forward(bone: str, joint: int) -> float:
        """How far a bone is in front of where SMPL-X has the joint, relative to the hips."""
        placed = chain(parents, heads, turns)
        ours = placed[number[bone]] - placed[number["upperleg01.L"]]
        theirs = joints[[joint, joint + 1]].mean(0) - joints[[1, 2]].mean(0)
        return float(ours[2] - theirs[2])

    lean(-_HEAD_BACK, "head")
    spine = "spine05", "spine04", "spine03", "spine02", "spine01"
    girdle = "clavicle.L", "shoulder01.L", "clavicle.R", "shoulder01.R"

    def error(bones: tuple[str, ...], bone: str, joint: int):
        def of(angle: float) -> float:
            lean(angle, *bones)
            return forward(bone, joint)

        return of

    for bones, bone, joint in (
        ((*spine, *girdle), "upperarm01.L", 16),
        (("neck01", "neck02", "neck03"), "eye.L", 23),
    ):
        angle: Any = brentq(error(bones, bone, joint), -0.7, 0.7)
        lean(angle, *bones)
    for side, sign in _SIDES.items():
        _turn_arm(number, at, put, tips, joints, side, sign)
        for bones, (start, end), (a, b) in (
            (("upperleg01", "upperleg02"), ("upperleg02", "lowerleg01"), (1, 4)),
            (("lowerleg01", "lowerleg02"), ("lowerleg01", "foot"), (4, 7)),
        ):
            a, b = a + (side == "R"), b + (side == "R")
            along = at(f"{end}.{side}") - at(f"{start}.{side}")
            turn = shortest(along, joints[b] - joints[a])
            put(turn, *(f"{bone}.{side}" for bone in bones))
    placed = chain(parents, heads, turns)
    shoulders = (placed[number["upperarm01.L"]] + placed[number["upperarm01.R"]]) / 2
    root = (joints[16] + joints[17]) / 2 - (shoulders - placed[number["root"]])
    return turns, np.array([joints[0, 0], *root[1:]])


def _turn_arm(number, at, put, tips, joints, side: str, sign: float) -> None:
    """Rotations of one arm with its fingers, set by `put`."""
    right = side == "R"
    of = lambda bone: at(f"{bone}.{side}")
    name = lambda *bones: (f"{bone}.{side}" for bone in bones)
    shoulder, elbow, wrist = (joints[joint + right] for joint in (16, 18, 20))
    upper, lower = of("lowerarm01") - of("upperarm01"), of("wrist") - of("lowerarm01")
    # The elbow bends about the axis that upper and lower arm span; SMPL-X's bends forwards.
    upper_turn = frame_of(elbow - shoulder, np.cross(elbow - shoulder, [0, 0, 1.0])) @ (
        frame_of(upper, np.cross(upper, lower)).T
    )
    lower_turn = shortest(upper_turn @ lower, wrist - elbow) @ upper_turn
    fingers = [first + _RIGHT * right for first in _FINGERS]
    across = joints[fingers[4]] - joints[fingers[1]]
    palm_turn = frame_of(joints[fingers[2]] - wrist, across) @ (
        frame_of(of("finger3-1") - of("wrist"), of("finger5-1") - of("finger2-1")).T
    )
    axis = unit(wrist - elbow)
    between = Rotation.from_matrix(palm_turn @ lower_turn.T).as_rotvec() @ axis
    rolled = lambda share: Rotation.from_rotvec(share * between * axis).as_matrix() @ lower_turn
    put(upper_turn, *name("upperarm01", "upperarm02"))
    put(rolled(0.25), *name("lowerarm01"))
    put(rolled(0.65), *name("lowerarm02"))
    put(palm_turn, *name("wrist", "metacarpal1", "metacarpal2", "metacarpal3", "metacarpal4"))
    for finger, first in enumerate(fingers, 1):
        turn = palm_turn
        for segment in range(1, 4):
            bone = f"finger{finger}-{segment}"
            begin = of(bone)
            last = segment == 3
            end = tips[number[f"{bone}.{side}"]] if last else of(f"finger{finger}-{segment + 1}")
            start = first + min(segment, 2) - 1
            turn = shortest(turn @ (end - begin), joints[start + 1] - joints[start]) @ turn
            put(turn, *name(bone))


def chain(parents: np.ndarray, heads: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Positions (B, 3) of bones with world rotations (B, 3, 3); the root stays."""
    placed = heads.copy()
    for bone, parent in enumerate(parents):
        if parent >= 0:
            placed[bone] = placed[parent] + turns[parent] @ (heads[bone] - heads[parent])
    return placed


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """The rotations nearest to matrices (..., 3, 3), in the Frobenius norm (Procrustes)."""
    u, _, vt = np.linalg.svd(matrices)
    signs = np.ones((*matrices.shape[:-2], 3))
    signs[..., 2] = np.sign(np.linalg.det(u @ vt))
    return (u * signs[..., None, :]) @ vt


def frame_of(along: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """The rotations (..., 3, 3) whose columns are `along`, `beside` made orthogonal to it, and
    both's cross product; vectors (..., 3)."""
    x = unit(along)
    y = unit(beside - (beside * x).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def shortest(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The smallest rotations (..., 3, 3) that turn vectors `before` to `after`, (..., 3)."""
    before, after = unit(np.broadcast_to(before, after.shape)), unit(after)
    axis = np.cross(before, after)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    cosine = (before * after).sum(-1, keepdims=True)
    vectors = axis / np.maximum(sine, 1e-9) * np.arctan2(sine, cosine)
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*after.shape, 3)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
