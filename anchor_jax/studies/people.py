"""Landmark distances, jitter and identity of the person in videos."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anchor_jax.diffusion.rings import State
from anchor_jax.evaluation import identity
from anchor_jax.evaluation.landmarks import (
    PARTS,
    jitter,
    mean_distances,
    points_of,
    without_outliers,
)
from anchor_jax.evaluation.people import Person, PersonFinder
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.shapes import Images, Params
from anchor_jax.studies.disturb import disturb
from anchor_jax.studies.exact import Exact
from anchor_jax.studies.keypoint_files import Landmarks
from anchor_jax.studies.measures import Measure, Scores, Values
from anchor_jax.studies.video_pairs import Block, VideoPair
from anchor_jax.threads import map_rows

OF_PEOPLE = (*(f"lmd_{part}" for part in PARTS), "jitter", "identity")

_FLOOR_FRAMES = 8  # frames of the truth from which noise floors are measured
_HANDS = "hands"  # the distances of single hands, until outliers are left out
# Corners of the eyes, tip of the nose and corners of the mouth among iBUG's points; an eye is where
# the middle of its corners is.
_FIVE = (36, 39), (42, 45), (30,), (48,), (54,)


class People(Measure):
    """Landmark distances, jitter and identity.

    Args:
        names: of `OF_PEOPLE`.
        finders: two, for generated and for true frames; None if landmarks are given for both.
        descriptor: variables of dlib's network, for "identity".
        given: landmarks that others found, of each pair: generated and true; None: they are found.
        exact: where landmarks of each pair should be, or None: where the truth has them.
        num_frames: of all pairs, of which some give the noise floors.
    """

    def __init__(
        self,
        names: Sequence[str],
        finders: tuple[PersonFinder, ...] | None,
        descriptor: Params | None,
        given: Sequence[tuple[Landmarks | None, Landmarks | None]],
        exact: Sequence[Exact | None],
        num_frames: int,
    ):
        self._names, self._finders, self._descriptor = names, finders, descriptor
        self._given, self._exact = given, exact
        self._pair = 0
        self._every = -(-num_frames // _FLOOR_FRAMES)
        self._frames = 0
        self._seen = np.zeros((2, len(PARTS)))  # how often, generated and true
        self._last: list[np.ndarray] = []  # landmarks of up to two frames before, of both sides
        self._ignored = np.zeros(2)  # hands: outliers, and all
        self._floor: list[list[float]] = []

    def begin(self, pair: VideoPair, number: int) -> None:
        self._pair, self._last = number, []

    def add(self, block: Block) -> Values:
        sides = (block.images, 0), (block.truth, 1)
        found = map_rows(lambda row: self._find(*row, block.start), sides)
        points, expected = map(points_of, found)
        for side, parts in enumerate((points, expected)):
            seen = [~np.isnan(parts[part]).all((-1, -2)) for part in PARTS]
            self._seen[side] += [x.mean(1).sum() for x in seen]
        values = self._distances(points, expected, block.start)
        values |= self._jitter(points, expected)
        if "identity" in self._names:
            values["identity"] = self._identity((block.images, block.truth), (found[0], found[1]))
        for index in range(len(block.truth)):
            if (self._frames + index) % self._every == 0 and self._can_find(1):
                self._measure_floor(block.truth[index], found[1][index])
        self._frames += len(block.images)
        return values

    def end(self, values: Values) -> Values:
        hands = values.pop(_HANDS)
        known = int((~np.isnan(hands)).sum())
        kept, share = without_outliers(hands)
        self._ignored += share * known, known
        values["lmd_hands"] = kept
        unasked = set(OF_PEOPLE) - set(self._names)
        return {name: x for name, x in values.items() if name not in unasked}

    def floors(self) -> Scores:
        if not self._floor:
            return {}
        rows = np.array(self._floor)
        names = [*(f"lmd_{part}" for part in PARTS), "identity"]
        means = {name: known_mean(x) for name, x in zip(names, rows.T, strict=True)}
        return {name: value for name, value in means.items() if name in self._names}

    def facts(self) -> dict[str, Any]:
        shares = (self._seen / max(1, self._frames)).round(4).tolist()
        sides = {
            name: dict(zip(PARTS, row, strict=True))
            for name, row in zip(("generated", "truth"), shares, strict=True)
        }
        ignored, known = self._ignored
        share = round(ignored / known, 4) if known else 0.0
        return {"found": sides, "hands ignored as outliers": share}

    def state(self) -> State:
        return {
            "counts": np.array([self._frames, *self._ignored, *self._seen.ravel()]),
            "floor": np.array(self._floor).reshape(-1, len(PARTS) + 1),
            "last": {str(side): points for side, points in enumerate(self._last)},
        }

    def restore(self, state: State) -> None:
        self._frames = int(state["counts"][0])
        self._ignored = state["counts"][1:3].copy()
        self._seen = state["counts"][3:].reshape(2, -1).copy()
        self._floor = state["floor"].tolist()
        last = state.get("last", {})  # nothing is kept of no arrays
        self._last = [last[side] for side in sorted(last)]

    def _can_find(self, side: int) -> bool:
        return self._finders is not None and self._given[self._pair][side] is None

    def _find(self, frames: Images, side: int, start: int) -> list[Person]:
        """Find the people in generated (0) or true (1) frames, or read where they are."""
        given = self._given[self._pair][side]
        if given is None:
            return self._look(frames, side)
        people = [given(start + index) for index in range(len(frames))]
        if "identity" not in self._names:
            return people
        found = self._look(frames, side)  # whose face is cut out
        return [replace(x, five=y.five) for x, y in zip(people, found, strict=True)]

    def _look(self, frames: Images, side: int) -> list[Person]:
        assert self._finders is not None
        return [self._finders[side].find(frame) for frame in frames]

    def _distances(self, points: Values, expected: Values, start: int) -> Values:
        exact = self._exact[self._pair]
        if exact is not None:
            frames = slice(start, start + len(points["face"]))
            points = points | {"face": five_landmarks(points["face"])}
            expected = expected | {"face": exact.five[frames, None]}
            if exact.body is not None and exact.hands is not None:
                expected |= {"body": exact.body[frames, None], "hands": exact.hands[frames]}
        values = {part: mean_distances(points[part], expected[part]) for part in PARTS}
        hands = values.pop("hands")
        return {f"lmd_{part}": x[:, 0] for part, x in values.items()} | {_HANDS: hands}

    def _jitter(self, points: Values, expected: Values) -> Values:
        """Measure the jitter of all landmarks, with those of the two frames before."""
        both = [
            np.concatenate([x[part].reshape(len(x[part]), 1, -1, 2) for part in PARTS], 2)
            for x in (points, expected)
        ]
        if self._last:
            both = [np.concatenate(x) for x in zip(self._last, both, strict=True)]
        self._last = [x[-2:] for x in both]
        return {"jitter": jitter(both[0], both[1])} if len(both[0]) > 2 else {}

    def _identity(
        self, frames: tuple[Images, Images], people: tuple[list[Person], list[Person]]
    ) -> np.ndarray:
        """Compare the faces of generated and true frames."""
        assert self._descriptor is not None
        faces = [[person.five for person in found] for found in people]
        return identity.face_distances(self._descriptor, frames, faces)

    def _measure_floor(self, frame: np.ndarray, person: Person) -> None:
        """Measure what a true frame scores against slightly disturbed copies of itself."""
        assert self._finders is not None
        for copy in disturb(frame):
            again = self._finders[1].find(copy)
            points, expected = points_of([again]), points_of([person])
            row = [known_mean(mean_distances(points[part], expected[part])) for part in PARTS]
            if "identity" in self._names:
                row += self._identity((copy[None], frame[None]), ([again], [person])).tolist()
            else:
                row.append(float("nan"))
            self._floor.append(row)


def five_landmarks(face: np.ndarray) -> np.ndarray:
    """Reduce iBUG's points (..., 68, 2) to both eyes, nose and both corners of the mouth
    (..., 5, 2), image-left first."""
    return np.stack([face[..., list(chosen), :].mean(-2) for chosen in _FIVE], -2)
