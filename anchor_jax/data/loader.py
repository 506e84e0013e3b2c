"""Batches for training from a data set: its frames in an order that a seed decides, by grain."""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from anchor_jax.data.dataset import Dataset, decode
from anchor_jax.errors import AnchorError, require
from anchor_jax.processes import begin_worker, blocked, num_cores, worker_ended

Span = tuple[int, int]

REFERENCES = {"target": "reference", "matte": "reference_matte", "face": "face_reference"}
MAX_THREADS = 16
SIGNALS = signal.SIGINT, signal.SIGTERM  # a terminal and a cluster send them to all processes
READY = 2  # finished batches to keep ready; grain's default of 500 takes gigabytes

_open: "weakref.WeakSet[Batches]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all batches at exit, before the modules that grain's threads use are gone."""
    for batches in list(_open):
        batches.close()


class Batches(Iterator[dict[str, np.ndarray]]):
    """An iterator over batches, whose order depends on the seed alone.

    An epoch has each frame once, with a reference: another frame of the same clip, drawn anew each
    time as in the paper. A batch maps names to arrays. Pictures are uint8 (b, h, w, 3), mattes and
    masks (b, h, w): `target`, `pose`, `matte`, `face`, `face_pose` and `face_mask` where the data
    set has them, and `reference`, `reference_matte` and `face_reference` of the other frame.
    `index` and `reference_index`, int64 (b,), are the numbers of the two frames in the data set;
    `position`, int32 (b,), is the place of each example in the batch of all processes together.

    A batch may span two epochs; frames that do not fill a whole batch at the very end are left out.
    Use it in a `with`, or call `close`, which ends the worker processes. A program with workers
    needs `if __name__ == "__main__":`.

    Args:
        dataset: from `dataset.load`.
        batch_size: examples a batch, in each process.
        seed: of order, references and mirroring, 0 to 2^32 - 1.
        num_epochs: None for no end.
        flip: probability that all pictures of an example are mirrored, 0 to 1. Published: 0, as
            text, a parting and the lights of the pose images would change sides.
        workers: processes that read and decode; 0 does it in threads of this one.
        process: index of this process and number of processes that share the data. Together
            they get the batches of one process with the sum of their batch sizes.
        spans: the frames to draw from, (first, end) of each clip; default: all. References are from
            the same span.
        pictures: names of the pictures to read, of those above; default: all.
        more: returns further arrays of an example, given the numbers of its frame and reference.
            It is pickled for worker processes.

    Raises:
        AnchorError: settings out of range, a clip of one frame, which has no reference, or too few
            frames for one batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int,
        num_epochs: int | None = None,
        flip: float = 0.0,
        workers: int = 0,
        process: tuple[int, int] = (0, 1),
        spans: Sequence[Span] | None = None,
        pictures: Sequence[str] | None = None,
        more: Callable[[int, int], dict[str, np.ndarray]] | None = None,
    ):
        import grain

        spans = clip_spans(dataset) if spans is None else tuple(spans)
        _check(dataset, spans, batch_size, seed, num_epochs, flip, workers, process)
        index, count = process
        frames = grain.MapDataset.range(sum(end - start for start, end in spans))
        drawn = frames.seed(seed).shuffle().repeat(num_epochs).random_map(_Draw(spans, flip))
        examples = drawn[index::count].map(Load(dataset, pictures, more))
        self._batches = examples.batch(batch_size, drop_remainder=True)
        if not len(self._batches):
            raise AnchorError(
                f"{dataset.path} gives {len(examples)} examples; expected a batch of {batch_size}"
            )
        self._workers = workers
        self._order = {
            "spans": [list(span) for span in spans],
            "batch_size": batch_size * count,
            "seed": seed,
            "num_epochs": num_epochs,
            "flip": flip,
        }
        self._positions = np.arange(index, batch_size * count, count, dtype=np.int32)
        self._next = 0
        self._running: Any = None
        _open.add(self)

    def __next__(self) -> dict[str, np.ndarray]:
        guard = nullcontext()
        if self._running is None:
            self._running = self._start()
            guard = blocked(*SIGNALS)  # the first batch starts the workers
        with guard:
            batch = self._read()
        self._next += 1
        if self._workers:
            # Copy, because the arrays are in shared memory that is freed when the workers end.
            batch = {name: np.array(values) for name, values in batch.items()}
        return {**batch, "position": self._positions}

    def get_state(self) -> dict[str, Any]:
        """Return the position as a JSON object. It does not depend on workers and processes."""
        return {"next_batch": self._next, **self._order}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to the position of `get_state`; the batches that follow are the same bit for bit.

        Raises:
            AnchorError: the state is of another order: another data set, seed, batch size, ...
        """
        order = {name: state.get(name) for name in self._order}
        if order != self._order or not isinstance(state.get("next_batch"), int):
            names = [name for name in order if order[name] != self._order[name]]
            wrong = [f"{name} {order[name]} instead of {self._order[name]}" for name in names]
            raise AnchorError(
                "cannot go on with this data from that state:"
                f" {', '.join(wrong) or 'it has no next_batch'}"
            )
        self.close()
        self._next = state["next_batch"]

    def close(self) -> None:
        """End worker processes and threads; the next batch starts them again."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> dict[str, np.ndarray]:
        try:
            return next(self._running)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise worker_ended("run the same command again, with fewer --workers") from None

    def _start(self):
        import grain

        threads = _num_threads(self._workers)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + READY)
        loader = self._batches[self._next :].to_iter_dataset(options)
        if self._workers:
            _parse_flags()
            options = grain.MultiprocessingOptions(num_workers=self._workers)
            loader = loader.mp_prefetch(options, _begin)
        return iter(loader)


def _begin(worker: int, count: int) -> None:
    """Set up a worker process. It ignores SIGINT and SIGTERM, so a batch is never cut short."""
    begin_worker(*SIGNALS)


def clip_spans(dataset: Dataset, start: float = 0.0, end: float = 1.0) -> tuple[Span, ...]:
    """Select the same part of every clip, from fraction `start` to fraction `end` of its frames.

    Returns:
        (first, end) for each clip, frame numbers in the data set.
    """
    bounds = zip(dataset.starts, dataset.starts[1:], strict=False)
    return tuple(
        (first + round(start * (last - first)), first + round(end * (last - first)))
        for first, last in bounds
    )


def check_spans(dataset: Dataset, spans: Sequence[Span]) -> None:
    """Raise AnchorError where a span has fewer than two frames."""
    require(
        *(
            (
                end - start >= 2,
                f"clip {clip.name} of {dataset.path} has {end - start} frames to draw from:"
                " expected two, a target and a reference",
            )
            for clip, (start, end) in zip(dataset.clips, spans, strict=True)
        )
    )


class _Draw:
    """Draws what is random in an example: its reference, and whether it is mirrored."""

    def __init__(self, spans: Sequence[Span], flip: float):
        self.spans, self.flip = tuple(spans), flip
        self.starts = np.cumsum([0, *(end - start for start, end in spans)])

    def __call__(self, number: int, rng: np.random.Generator) -> tuple[int, int, bool]:
        span = int(np.searchsorted(self.starts, number, side="right")) - 1
        start, end = self.spans[span]
        index = start + int(number - self.starts[span])
        other = start + int(rng.integers(end - start - 1))
        return index, other + (other >= index), bool(rng.random() < self.flip)


class Load:
    """Reads and decodes the frames of an example."""

    def __init__(
        self,
        dataset: Dataset,
        pictures: Sequence[str] | None = None,
        more: Callable[[int, int], dict[str, np.ndarray]] | None = None,
    ):
        stored = dataset.pictures
        available = {name: name for name in stored}
        available |= {REFERENCES[name]: name for name in stored if name in REFERENCES}
        names = list(available) if pictures is None else list(pictures)
        if missing := [name for name in names if name not in available]:
            raise AnchorError(f"{dataset.path} has no {', '.join(missing)}: prepare it with them")
        others = set(REFERENCES.values())
        self.own = {name: available[name] for name in names if name not in others}
        self.others = {name: available[name] for name in names if name in others}
        self.source, self.more = dataset.source(), more

    def __call__(self, drawn: tuple[int, int, bool]) -> dict[str, Any]:
        index, other, mirrored = drawn
        example = {}
        for names, number in ((self.own, index), (self.others, other)):
            frame = self.source[number] if names else {}
            example |= {name: decode(stored, frame[stored]) for name, stored in names.items()}
        if mirrored:
            example = {name: np.ascontiguousarray(p[:, ::-1]) for name, p in example.items()}
        if self.more is not None:
            example |= self.more(index, other)
        return {**example, "index": np.int64(index), "reference_index": np.int64(other)}


def _check(
    dataset: Dataset,
    spans: Sequence[Span],
    batch_size: int,
    seed: int,
    num_epochs: int | None,
    flip: float,
    workers: int,
    process: tuple[int, int],
) -> None:
    index, count = process
    require(
        (batch_size >= 1, f"batch_size is {batch_size}: expected at least 1"),
        (0 <= seed < 1 << 32, f"seed is {seed}: expected 0 to {(1 << 32) - 1}"),
        ((num_epochs or 1) >= 1, f"num_epochs is {num_epochs}: expected at least 1"),
        (0 <= flip <= 1, f"flip is {flip}: expected 0 to 1"),
        (workers >= 0, f"workers is {workers}: expected at least 0"),
        (0 <= index < count, f"process is {index} of {count}: expected 0 to {count - 1}"),
    )
    check_spans(dataset, spans)


def _num_threads(num_workers: int) -> int:
    """Choose the number of threads in each process: about one thread for each core in all."""
    return max(1, min(MAX_THREADS, num_cores() // max(1, num_workers)))


def _parse_flags() -> None:
    """Mark absl's flags as parsed: grain passes them to workers, and fails where they are not."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
