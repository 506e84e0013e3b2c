"""Random SMPL-X motion in the ranges of recorded and fitted motion files.

The gestures of `motion` stay near one posture. People in files of TalkSHOW and BEAT2 lean, turn,
sit or stand, hold hands low, high, crossed or wide, and bend wrists and fingers farther. The ranges
below cover the first to the last percentile of three such files; no pose of theirs is used.

Axes are the world's: x to the person's left, y up, z to the front, metres. Angles are degrees.
"""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.motion import FACIAL_ACTIONS, LEFT_HAND, NUM_JOINTS, RIGHT_HAND, Motion
from anchor_jax.body.retarget import frame_of, shortest
from anchor_jax.body.skinning import pose_skeleton
from anchor_jax.body.smplx_file import PARENTS
from benchmarks.synthetic.motion import FPS, bend_arm, smooth_noise, speech

_SPINE, _COLLARS, _NECK, _HEAD = (3, 6, 9), (13, 14), 12, 15
_ARMS = (16, 18, 20), (17, 19, 21)  # shoulder, elbow, wrist

# Turn, nod and tilt (about y, x and z) of the trunk, with the means between these ends; and how far
# the person moves to the sides and up and down, metres.
_SEATED = ((-4, 4), (22, 42), (-4, 4))
_STILL, _WALKING = ((-0.03, 0.03), (-0.03, 0.03)), ((-0.36, 0.36), (-0.06, 0.06))
_STANDING = ((-28, 28), (-12, 16), (-10, 10))
_HEAD_TURN = ((-28, 28), (-18, 16), (-11, 11))  # relative to the trunk
# Places of the wrist from the middle of the shoulders: outwards, up, forwards.
_PLACES = {
    "lap": ((0.02, 0.26), (-0.44, -0.30), (0.12, 0.24)),
    "front": ((-0.04, 0.26), (-0.34, -0.14), (0.16, 0.36)),
    "chest": ((0.0, 0.20), (-0.20, -0.04), (0.16, 0.30)),
    "high": ((0.14, 0.34), (-0.14, 0.08), (0.12, 0.36)),
    "wide": ((0.28, 0.52), (-0.40, -0.05), (-0.05, 0.25)),
    "hanging": ((0.20, 0.32), (-0.54, -0.46), (-0.12, 0.10)),
}
_USUAL = (0.26, 0.30, 0.12, 0.10, 0.12, 0.10)  # how often each is chosen
_LIMITS = 0.06, 0.985  # of `bend_arm`
_PALM = -55, 85  # roll of the palm: 0 faces the other hand, 90 up
_WRIST = ((-35, 35), (-25, 60))  # sideways and backwards
_CURL = -0.1, 2.0  # of a finger: 0 is the flat hand, 1 SMPL-X's mean hand, 3 a fist


def wide_motion(
    num_frames: int, joints: np.ndarray, hands: np.ndarray, rng: np.random.Generator
) -> Motion:
    """Generate a clip.

    Args:
        num_frames: at 30 frames a second.
        joints: joints of SMPL-X's average body at rest, (55, 3).
        hands: its mean hands, (2, 15, 3).
        rng: random numbers.
    """
    turns = np.tile(np.eye(3), (num_frames, NUM_JOINTS, 1, 1))  # local rotations
    seated = rng.uniform() < 0.5
    ranges = _SEATED if seated else _STANDING
    trunk = _wander(num_frames, ranges, 1.6, rng)
    turns[:, 0] = _euler(trunk * (0.9, 0.15, 0.4))
    for joint, share in zip(_SPINE, (0.65, 0.1, 0.25), strict=True):
        turns[:, joint] = _euler(trunk * (0.03, 0.85 * share, 0.2))
    head = _wander(num_frames, _HEAD_TURN, 0.8, rng)
    turns[:, _NECK], turns[:, _HEAD] = _euler(0.5 * head), _euler(0.5 * head)
    for joint, sign in zip(_COLLARS, (1, -1), strict=True):
        turns[:, joint] = _euler(
            _wander(num_frames, ((-22, 4), (-6, 4), (-18, 6)), 1.2, rng) * (sign, 1, sign)
        )
    world, places = map(
        np.asarray, pose_skeleton(PARENTS, jnp.asarray(joints[None]), jnp.asarray(turns))
    )
    for side, track in enumerate(_keys(num_frames, rng)):
        _reach(turns, world, places, joints, side, track)
    poses = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(num_frames, -1, 3)
    for side, hand in enumerate((LEFT_HAND, RIGHT_HAND)):
        poses[:, hand] = _fingers(num_frames, hands[side], rng)
    for eye in (23, 24):
        poses[:, eye] = np.deg2rad(
            _wander(num_frames, ((-8, 8), (-4, 4), (0, 0)), 0.7, rng)[:, [1, 0, 2]]
        )
    ways = (*(_STILL if seated else _WALKING), (0, 0))
    return Motion(
        poses=poses.astype(np.float32),
        translation=_wander(num_frames, ways, 2.0, rng).astype(np.float32),
        betas=np.zeros(10, np.float32),
        expression=np.zeros((num_frames, 10), np.float32),
        fps=Fraction(FPS),
        frame="y_up",
        mean_hands=True,
        actions=_face(num_frames, rng),
    )


def _wander(n: int, ranges, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth curves (n, 3) in `ranges`: a mean for the clip, and movement around it."""
    low, high = np.array(ranges, float).T
    middle = rng.uniform(0.25, 0.75, 3)
    curve = middle + 0.22 * smooth_noise(n, seconds, rng, 3)
    return low + (high - low) * np.clip(curve, 0, 1)


def _keys(n: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """Of both arms: places of the wrist (n, 3), palm (n,), wrist (n, 2) and elbow (n,)."""
    tracks = [
        {
            "place": np.zeros((n, 3)),
            "palm": np.zeros(n),
            "wrist": np.zeros((n, 2)),
            "elbow": np.zeros(n),
        }
        for _ in range(2)
    ]
    start = 0
    while start < n:
        stop = start + int(FPS * rng.uniform(0.4, 1.5))
        same = rng.uniform() < 0.5
        chosen = rng.choice(list(_PLACES), 2, p=_USUAL)
        for side, track in enumerate(tracks):
            name = chosen[0] if same else chosen[side]
            part = slice(start, stop)
            track["place"][part] = rng.uniform(*np.array(_PLACES[name]).T)
            track["palm"][part] = rng.uniform(*_PALM)
            track["wrist"][part] = rng.uniform(*np.array(_WRIST).T)
            track["elbow"][part] = rng.uniform(-15, 45)
        start = stop
    for track in tracks:
        pace = rng.uniform(3.5, 6)  # frames
        for name, values in track.items():
            track[name] = gaussian_filter1d(values, pace, axis=0, mode="nearest")
        track["place"] += smooth_noise(n, 0.35, rng, 3) * 0.01
    return tracks


def _reach(turns, world, places, joints, side: int, track) -> None:
    """Local rotations of one arm that bring the wrist to its place, set in `turns`.

    Args:
        turns: local rotations (n, 55, 3, 3).
        world, places: world rotations and positions of the joints before.
        joints: at rest, (55, 3).
        side: 0 is left, 1 right.
        track: of `_keys`.
    """
    shoulder, elbow, wrist = _ARMS[side]
    sign = 1.0 if side == 0 else -1.0
    chest = world[:, 9]
    yaw = np.arctan2(chest[:, 0, 2], chest[:, 2, 2])
    facing = Rotation.from_rotvec(yaw[:, None] * [0, 1, 0]).as_matrix()
    seen = lambda vectors: np.einsum("nij,nj->ni", facing, vectors)
    middle = (places[:, 16] + places[:, 17]) / 2
    goal = middle + seen(track["place"] * (sign, 1, 1))
    angle = np.deg2rad(track["elbow"])
    pole = seen(np.stack([sign * np.sin(angle), -np.cos(angle), np.full(len(angle), -0.5)], 1))
    upper, lower = joints[elbow] - joints[shoulder], joints[wrist] - joints[elbow]
    lengths = float(np.linalg.norm(upper)), float(np.linalg.norm(lower))
    bend, end = bend_arm(places[:, shoulder], goal, *lengths, pole, _LIMITS)
    along, ahead = bend - places[:, shoulder], end - bend
    turn = frame_of(along, np.cross(along, ahead)) @ frame_of(upper, np.cross(upper, [0, 0, 1.0])).T
    below = shortest(turn @ lower, ahead) @ turn
    palm = np.deg2rad(track["palm"])[:, None] * sign * ahead / lengths[1]
    roll = lambda share: Rotation.from_rotvec(share * palm).as_matrix()
    aside, back = track["wrist"].T
    hand = _euler(np.stack([sign * aside, np.zeros(len(aside)), sign * back], 1))
    rolled = roll(0.6) @ below
    turns[:, shoulder] = world[:, PARENTS[shoulder]].swapaxes(1, 2) @ turn
    turns[:, elbow] = turn.swapaxes(1, 2) @ rolled
    turns[:, wrist] = rolled.swapaxes(1, 2) @ roll(1.0) @ below @ hand


def _fingers(n: int, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotations (n, 15, 3) of a hand, relative to the mean hand."""
    curl = np.zeros((n, 15, 1))
    start = 0
    while start < n:
        stop = start + int(FPS * rng.uniform(0.4, 1.6))
        whole = rng.uniform(*_CURL)
        each = whole + rng.normal(0, 0.3, 5) + (rng.uniform() < 0.25) * rng.uniform(-1, 1, 5)
        curl[start:stop] = np.clip(np.repeat(each, 3), -0.3, 2.6)[:, None]
        start = stop
    curl = (
        gaussian_filter1d(curl, 4.0, axis=0, mode="nearest")
        + 0.08 * smooth_noise(n, 0.5, rng, 15)[..., None]
    )
    spread = 0.08 * smooth_noise(n, 0.9, rng, 45).reshape(n, 15, 3)
    return (curl - 1) * mean + spread


def _face(n: int, rng: np.random.Generator) -> np.ndarray:
    actions = np.zeros((n, len(FACIAL_ACTIONS)), np.float32)
    for name, values in speech(n, rng).items():
        actions[:, FACIAL_ACTIONS.index(name)] = values
    return actions


def _euler(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrices of turn, nod and tilt (n, 3): about y, x and z."""
    return Rotation.from_euler("YXZ", np.deg2rad(degrees)).as_matrix()
