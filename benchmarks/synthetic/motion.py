"""Random motion of a talking person: hand gestures, syllables, glances, blinks.

Axes are anny's at rest: x to the person's left, -y to the front, z up, metres.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from anchor_jax.body.retarget import shortest, unit

FPS = 30
_SIDES = {"L": 1.0, "R": -1.0}

# Wrist position (x outwards, y, z) of an average body, roll of the palm in degrees (0: towards the
# other hand, 90: up), and hand shape.
_GESTURES = {
    "rest": ((0.150, -0.27, 0.175), 15, "relaxed"),
    "offer": ((0.225, -0.29, 0.27), 60, "open"),
    "explain": ((0.165, -0.30, 0.28), 10, "relaxed"),
    "wide": ((0.285, -0.22, 0.29), 35, "open"),
    "stress": ((0.215, -0.26, 0.36), -15, "pinch"),
    "point": ((0.215, -0.25, 0.40), 15, "point"),
    "stop": ((0.255, -0.23, 0.37), -50, "open"),
    "hold": ((0.135, -0.31, 0.24), 5, "round"),
}
_BOTH = ("rest", "offer", "explain", "wide", "hold", "stress")
_ONE = ("offer", "explain", "stress", "point", "stop")
_AVERAGE_ARM, _AVERAGE_SHOULDER = 0.50, np.array([0.178, 0.0, 0.459])

# Flexion of the three joints of thumb, index, middle, ring and little finger, degrees.
_HANDS = {
    "relaxed": ((5, 10, 10), (18, 24, 14), (22, 28, 17), (26, 32, 19), (28, 32, 19)),
    "open": ((-8, 0, 0), (0, 6, 4), (0, 7, 4), (3, 8, 5), (2, 8, 5)),
    "point": ((20, 30, 25), (0, 4, 3), (62, 80, 40), (66, 82, 42), (66, 80, 42)),
    "pinch": ((22, 18, 18), (44, 46, 24), (24, 28, 16), (16, 22, 12), (10, 16, 10)),
    "round": ((10, 14, 12), (30, 34, 20), (32, 36, 20), (34, 38, 22), (34, 38, 22)),
}


@dataclass(frozen=True)
class Talk:
    """A clip: rotations of bones (n, 3, 3), each relative to its parent in the axes at rest, and
    anny's facial actions, (n,) from 0 to 1."""

    rotations: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]


@dataclass(frozen=True)
class Skeleton:
    """Joint positions of a body at rest, and how far its belly reaches."""

    joints: dict[str, np.ndarray]
    belly: float  # metres in front of the average belly


def talk(skeleton: Skeleton, num_frames: int, rng: np.random.Generator) -> Talk:
    """Generate a random clip of a talking person."""
    mouth = _syllables(num_frames, rng)
    rotations, actions = _head(num_frames, mouth, rng)
    keys = _gestures(num_frames, rng)
    for side in _SIDES:
        rotations |= _arm(skeleton, side, *(track[side] for track in keys))
    return Talk(rotations, actions)


def speech(num_frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Generate facial actions, (n,) from 0 to 1 by name, of a talking person."""
    return _head(num_frames, _syllables(num_frames, rng), rng)[1]


def perturb(motion: Talk, rng: np.random.Generator, pose: float, action: float) -> Talk:
    """Add noise to a clip, like an imperfect fit (paper, section 4.3), independently in each frame.

    Standard deviations: `pose` radians about each axis of every bone, `action` on every facial
    action. The shape stays.
    """

    def turned(matrices: np.ndarray) -> np.ndarray:
        return matrices @ _rotation(rng.normal(0, pose, (len(matrices), 3)))

    def moved(values: np.ndarray) -> np.ndarray:
        return np.clip(values + rng.normal(0, action, len(values)), 0, 1)

    return Talk(
        {bone: turned(matrices) for bone, matrices in motion.rotations.items()},
        {name: moved(values) for name, values in motion.actions.items()},
    )


def smooth_noise(n: int, seconds: float, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Smooth random curves (n, count), roughly in -1 to 1, with a spline knot every `seconds`."""
    knots = rng.uniform(-1, 1, (int(n / FPS / seconds) + 6, count))
    times = np.arange(n) / FPS / seconds + 1 + rng.uniform()
    return CubicSpline(np.arange(len(knots)), knots)(times)


def _syllables(n: int, rng: np.random.Generator) -> np.ndarray:
    """Mouth opening, 0 to 1: about four syllables per second, in phrases with pauses."""
    phrase = np.clip(smooth_noise(n, 0.9, rng)[:, 0] * 1.4 + 0.6, 0, 1)
    speed = 4.0 + 1.2 * smooth_noise(n, 0.4, rng)[:, 0]
    wave = 0.5 + 0.5 * np.sin(np.cumsum(2 * np.pi * speed / FPS))
    return phrase * (0.12 + 0.88 * wave)


def _gestures(n: int, rng: np.random.Generator):
    """For each side: wrist positions (n, 3), rolls (n,) and finger angles (n, 5, 3)."""
    places: dict[str, np.ndarray] = {side: np.zeros((n, 3)) for side in _SIDES}
    rolls: dict[str, np.ndarray] = {side: np.zeros(n) for side in _SIDES}
    fingers: dict[str, np.ndarray] = {side: np.zeros((n, 5, 3)) for side in _SIDES}
    start = 0
    while start < n:
        stop = start + int(FPS * rng.uniform(0.55, 1.5))
        for side, name in _pick(rng).items():
            place, roll, hand = _GESTURES[name]
            part = slice(start, stop)
            places[side][part] = np.array(place) + rng.normal(0, (0.022, 0.018, 0.025))
            rolls[side][part] = roll + rng.normal(0, 14)
            fingers[side][part] = np.array(_HANDS[hand]) + rng.normal(0, 4, (5, 1))
        start = stop
    for side in _SIDES:
        pace = rng.uniform(3.8, 5.2)  # frames
        places[side] = gaussian_filter1d(places[side], pace, axis=0, mode="nearest")
        places[side] += smooth_noise(n, 0.35, rng, 3) * (0.010, 0.010, 0.018)
        rolls[side] = gaussian_filter1d(rolls[side], pace, mode="nearest")
        rolls[side] += 10 * smooth_noise(n, 0.5, rng)[:, 0]
        fingers[side] = gaussian_filter1d(fingers[side], pace, axis=0, mode="nearest")
        fingers[side] += 5 * smooth_noise(n, 0.4, rng, 5)[..., None]
    return places, rolls, fingers


def _pick(rng: np.random.Generator) -> dict[str, str]:
    """The next gesture of each side: the same for both, or one hand only."""
    if rng.uniform() < 0.55:
        name = str(rng.choice(_BOTH))
        return {"L": name, "R": name}
    busy, other = ("L", "R") if rng.uniform() < 0.5 else ("R", "L")
    return {busy: str(rng.choice(_ONE)), other: str(rng.choice(("rest", "explain")))}


def _head(n: int, mouth: np.ndarray, rng: np.random.Generator):
    """Rotations of head, spine and eyes, and facial actions."""
    turn = smooth_noise(n, 0.75, rng, 3) * (5, 13, 5)
    turn[:, 0] += 4 * (gaussian_filter1d(mouth, 2) - 0.4)
    rotations = {
        "neck02": _about_axes(0.4 * turn),
        "head": _about_axes(0.6 * turn),
        "spine03": _about_axes(smooth_noise(n, 1.8, rng, 3) * (1.0, 3.5, 1.6)),
    }
    glance = gaussian_filter1d(_steps(n, rng, (4, 9)), 1.0, axis=0)
    for side in _SIDES:
        vertical = glance[:, :1] * (1, 0, 0)
        rotations[f"eye.{side}"] = _about_axes(vertical + glance[:, 1:] * (0, 1, 0))
    blink = np.zeros(n)
    start = int(rng.uniform(10, 60))
    while start < n - 5:
        blink[start : start + 5] = 0.5, 1, 1, 0.7, 0.3
        start += int(rng.uniform(50, 120))
    mood = smooth_noise(n, 0.6, rng, 4)
    positive = np.clip(mood, 0, 1)
    spread = 0.4 * np.clip(-mood[:, 0], 0, 1)
    actions = {
        "jawOpen": 0.80 * mouth,
        "mouthFunnel": 0.55 * positive[:, 0] * mouth,
        "mouthStretchLeft": spread,
        "mouthStretchRight": spread,
        "mouthSmileLeft": 0.45 * positive[:, 1],
        "mouthSmileRight": 0.45 * positive[:, 1],
        "mouthUpperUpLeft": 0.3 * mouth,
        "mouthUpperUpRight": 0.3 * mouth,
        "browInnerUp": 0.7 * positive[:, 2],
        "browOuterUpLeft": 0.6 * positive[:, 2],
        "browOuterUpRight": 0.6 * positive[:, 2],
        "browDownLeft": 0.5 * positive[:, 3],
        "browDownRight": 0.5 * positive[:, 3],
        "eyeBlinkLeft": blink,
        "eyeBlinkRight": blink,
    }
    return rotations, {name: np.clip(values, 0, 1) for name, values in actions.items()}


def _steps(n: int, rng: np.random.Generator, largest: tuple[float, float]) -> np.ndarray:
    """Random step functions (n, 2)."""
    values, start = np.zeros((n, 2)), 0
    while start < n:
        stop = start + int(FPS * rng.uniform(0.4, 2.0))
        values[start:stop] = rng.uniform(-1, 1, 2) * largest
        start = stop
    return values


def _arm(skeleton: Skeleton, side: str, wrists, rolls, fingers) -> dict[str, np.ndarray]:
    """Rotations of one arm that bring the wrist to its position and turn the palm."""
    sign, joints = _SIDES[side], skeleton.joints
    at = lambda bone: joints[f"{bone}.{side}"]
    shoulder, elbow, wrist = at("upperarm01"), at("lowerarm01"), at("wrist")
    upper, lower = (float(np.linalg.norm(bone)) for bone in (elbow - shoulder, wrist - elbow))
    scale = (upper + lower) / _AVERAGE_ARM
    goal = (wrists - _AVERAGE_SHOULDER) * scale - (0, skeleton.belly, 0)
    goal = goal * (sign, 1, 1) + shoulder
    bend, reach = bend_arm(shoulder, goal, upper, lower, np.array([0.35 * sign, 0.3, -1.0]))
    turn_upper = shortest(elbow - shoulder, bend - shoulder)
    turn_lower = shortest((turn_upper @ (wrist - elbow)), reach - bend) @ turn_upper

    axis = unit(reach - bend)
    along = unit(at("finger3-1") - wrist)
    palm = sign * unit(np.cross(along, at("finger2-1") - at("finger5-1")))
    angle = np.deg2rad(rolls)[:, None]
    wanted = np.cos(angle) * (-sign, 0, 0) + np.sin(angle) * (0, 0, 1)
    now = turn_lower @ palm
    across = np.cross(axis, now)
    twist = np.unwrap(np.arctan2((across * wanted).sum(1), (now * wanted).sum(1)))
    twist -= 2 * np.pi * np.round(np.median(twist) / (2 * np.pi))
    middle = _rotation(axis * (0.5 * twist)[:, None]) @ turn_lower
    hand = _rotation(axis * twist[:, None]) @ turn_lower
    turned = {
        "upperarm01": turn_upper,
        "lowerarm01": _inverse(turn_upper) @ turn_lower,
        "lowerarm02": _inverse(turn_lower) @ middle,
        "wrist": _inverse(middle) @ hand,
    }
    for finger in range(5):
        for joint in range(3):
            bone = f"finger{finger + 1}-{joint + 1}"
            tip = f"finger{finger + 1}-{min(joint + 2, 3)}"
            ahead = at(tip) - at(bone) if joint < 2 else at(bone) - at(f"finger{finger + 1}-2")
            hinge = unit(np.cross(ahead, palm))
            turned[bone] = _rotation(hinge * np.deg2rad(fingers[:, finger, joint])[:, None])
    return {f"{bone}.{side}": matrices for bone, matrices in turned.items()}


def bend_arm(
    shoulder: np.ndarray,
    goal: np.ndarray,
    upper: float,
    lower: float,
    pole: np.ndarray,
    limits: tuple[float, float] = (0.05, 0.98),
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics: positions (n, 3) of elbow and wrist. The wrist is at its goal or
    as near as the arm reaches; the elbow points towards the pole.

    Args:
        shoulder, pole: (3,) or (n, 3).
        goal: (n, 3).
        upper, lower: lengths of the bones, metres.
        limits: metres that the arm stays from being folded, and the share of its length that it
            reaches.
    """
    ahead = goal - shoulder
    distance = np.linalg.norm(ahead, axis=1, keepdims=True)
    ahead = ahead / distance
    folded, stretched = abs(upper - lower) + limits[0], limits[1] * (upper + lower)
    distance = np.clip(distance, folded, stretched)
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = unit(pole - (ahead * pole).sum(1, keepdims=True) * ahead)
    height = np.sqrt(np.maximum(upper**2 - along**2, 0))
    return shoulder + along * ahead + height * aside, shoulder + distance * ahead


def _about_axes(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrices of nod, turn and tilt (n, 3): about x, z and y."""
    return Rotation.from_euler("xzy", np.deg2rad(degrees)).as_matrix()


def _rotation(vectors: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(vectors).as_matrix()


def _inverse(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, 1, 2)
