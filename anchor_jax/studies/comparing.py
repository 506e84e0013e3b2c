"""Compare video pairs block by block, with a state from which an interrupted run goes on."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from anchor_jax.diffusion.rings import State
from anchor_jax.evaluation.l1 import l1
from anchor_jax.studies.evaluation import Frame
from anchor_jax.studies.measures import Measure, Values
from anchor_jax.studies.video_pairs import Block, VideoPair

_WORST = 4  # frames that the report shows


class Run:
    """A comparison that goes on.

    Attributes:
        values: of each pair that has begun.
        worst: the frames of the highest L1, worst last.
        done: number of frames that were compared.
    """

    def __init__(self, pairs: Sequence[VideoPair], measures: Sequence[Measure]):
        self._pairs, self._measures = pairs, measures
        self.values: list[Values] = []
        self.worst: list[Frame] = []
        self.done = 0
        self._inside = 0  # frames of the present pair that were compared
        self._parts: dict[str, list[np.ndarray]] = {}  # values of the present pair

    def blocks(self) -> Iterator[Block]:
        """Compare block after block, and yield each one."""
        for number in range(len(self.values), len(self._pairs)):
            pair = self._pairs[number]
            if not self._inside:
                for measure in self._measures:
                    measure.begin(pair, number)
            for block in pair.blocks(self._inside):
                found: Values = {}
                for measure in self._measures:
                    found |= measure.add(block)
                for name, x in found.items():
                    self._parts.setdefault(name, []).append(x)
                errors = found["l1"] if "l1" in found else l1(block.images, block.truth)
                self._keep_worst(number, block, errors)
                self._inside += len(block.images)
                self.done += len(block.images)
                yield block
            values = {name: np.concatenate(x) for name, x in self._parts.items()}
            for measure in self._measures:
                values = measure.end(values)
            self.values.append(values)
            self._parts, self._inside = {}, 0

    def _keep_worst(self, number: int, block: Block, errors: np.ndarray) -> None:
        for index in np.argsort(errors, kind="stable")[-_WORST:]:
            # Copies, so that no whole block is kept for a frame of it.
            sides = block.images[index].copy(), block.truth[index].copy()
            place = block.start + int(index)
            self.worst.append(Frame(number, place, *sides, float(errors[index])))
        self.worst.sort(key=lambda frame: frame.error)
        del self.worst[:-_WORST]

    def state(self) -> State:
        """Return what `restore` needs to go on, nested arrays."""
        parts = {name: np.concatenate(x) for name, x in self._parts.items()}
        return {
            "place": np.array([self.done, self._inside]),
            "values": {str(number): x for number, x in enumerate([*self.values, parts])},
            "worst": {str(number): _frame_arrays(x) for number, x in enumerate(self.worst)},
            "measures": {str(number): x.state() for number, x in enumerate(self._measures)},
        }

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self.done, self._inside = map(int, state["place"])
        given = state.get("values", {})
        values = [given.get(str(number), {}) for number in range(len(self._pairs))]
        finished, left = 0, self.done - self._inside
        while left:
            left -= self._pairs[finished].count
            finished += 1
        self.values = values[:finished]
        worst = [state["worst"][x] for x in sorted(state["worst"], key=int)]
        self.worst = [_frame_from(arrays) for arrays in worst]
        if self._inside:
            self._parts = {name: [x] for name, x in values[finished].items()}
            for measure in self._measures:
                measure.begin(self._pairs[finished], finished)
        for number, measure in enumerate(self._measures):
            measure.restore(state.get("measures", {}).get(str(number), {}))


def _frame_arrays(frame: Frame) -> dict[str, np.ndarray]:
    numbers = np.array([frame.video, frame.number, frame.error])
    return {"numbers": numbers, "generated": frame.generated, "truth": frame.truth}


def _frame_from(arrays: Mapping[str, np.ndarray]) -> Frame:
    video, number, error = arrays["numbers"]
    return Frame(int(video), int(number), arrays["generated"], arrays["truth"], float(error))
