"""Batches for training from a data set: grain over its frames, in an order that a seed decides."""

import atexit
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from anchor_jax.data.dataset import Dataset, decode
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.processes import begin_worker, blocked, num_cores, worker_ended

Span = tuple[int, int]

REFERENCES = {"target": "reference", "matte": "reference_matte", "face": "face_reference"}
MAX_THREADS = 16
SIGNALS = signal.SIGINT, signal.SIGTERM  # a terminal and a cluster send them to all processes
READY = 2  # batches, besides those that threads are at; grain keeps 500, that is gigabytes

_open: "weakref.WeakSet[Batches]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Grain's threads and processes do not survive the modules they use."""
    for batches in list(_open):
        batches.close()


class Batches(Iterator[dict[str, np.ndarray]]):
    """Batches in an order that only the seed decides: batch k is the same however one gets to it.

    Each frame comes once an epoch with a reference: another frame of its clip, drawn anew each time
    as the paper says. Pictures are uint8 (b, h, w, 3), mattes and masks (b, h, w): `target`,
    `pose`, `matte`, `face`, `face_pose` and `face_mask` as far as the data set has them, and of
    the other frame `reference`, `reference_matte` and `face_reference`. `index` and
    `reference_index`, int64 (b,), are the frames' numbers in the data set; `position`, int32 (b,),
    are the examples' places in the batch of all processes together.

    Batches run across epochs; frames that fill no whole batch at the very end are left out. Use it
    in a `with`, or call `close`: worker processes end then. A program that has workers needs
    the usual `if __name__ == "__main__":`.

    Args:
        dataset: from `dataset.load`.
        batch_size: examples a batch, in each process.
        seed: of order, references and mirroring, 0 to 2^32 - 1.
        num_epochs: None goes on for ever.
        flip: how often all pictures of an example are mirrored together, 0 to 1. Published: 0;
            text, a parting and the lights of the pose images change sides.
        workers: processes that read and decode; 0 does it in threads of this one.
        process: this process's index and how many share the data; together they get the batches
            that one process with their common batch size would get.
        spans: the frames to draw from, a (first, end) for each clip; default: all. References come
            from the same span.
        pictures: the names to read and decode, of those above; default: all there are.
        more: called with the numbers of a frame and its reference, gives further arrays of the
            example. Worker processes get a copy.

    Raises:
        AnchorError: a clip of one frame, which has no reference, or less than one batch.
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
        drawn = frames.seed(seed).shuffle().repeat(num_epochs).random_map(Draw(spans, flip))
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
        if self._workers:  # their memory goes when they end
            batch = {name: np.array(values) for name, values in batch.items()}
        return {**batch, "position": self._positions}

    def get_state(self) -> dict[str, Any]:
        """Where it is, as JSON has it. It does not depend on the number of workers or processes."""
        return {"next_batch": self._next, **self._order}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to where `get_state` was called: what follows is the same bit for bit.

        Raises:
            AnchorError: the state of another order: another data set, seed, batch size, ...
        """
        order = {name: state.get(name) for name in self._order}
        if order != self._order or not isinstance(state.get("next_batch"), int):
            names = [name for name in order if order[name] != self._order[name]]
            told = [f"{name} {order[name]} instead of {self._order[name]}" for name in names]
            raise AnchorError(
                f"cannot go on with this data from that state: {', '.join(told) or 'no next_batch'}"
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
    """The same part of every clip, from share `start` to share `end` of its frames: (first, end)
    as numbers in the data set."""
    bounds = zip(dataset.starts, dataset.starts[1:], strict=False)
    return tuple(
        (first + round(start * (last - first)), first + round(end * (last - first)))
        for first, last in bounds
    )


def check_spans(dataset: Dataset, spans: Sequence[Span]) -> None:
    """Raise AnchorError where a clip has no two frames to draw from."""
    wrong = [
        f"clip {clip.name} of {dataset.path} has {end - start} frames to draw from: expected two,"
        " a target and a reference"
        for clip, (start, end) in zip(dataset.clips, spans, strict=True)
        if end - start < 2
    ]
    if wrong:
        raise AnchorError(shorten(wrong, separator="; "))


class Draw:
    """Draws all that is random in an example: its reference and whether it is mirrored."""

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
        there = {name: name for name in stored}
        there |= {REFERENCES[name]: name for name in stored if name in REFERENCES}
        names = list(there) if pictures is None else list(pictures)
        if missing := [name for name in names if name not in there]:
            raise AnchorError(f"{dataset.path} has no {', '.join(missing)}: prepare it with them")
        others = set(REFERENCES.values())
        self.own = {name: there[name] for name in names if name not in others}
        self.others = {name: there[name] for name in names if name in others}
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
    wrong = [
        told
        for told, good in (
            (f"batch_size is {batch_size}: expected at least 1", batch_size >= 1),
            (f"seed is {seed}: expected 0 to {(1 << 32) - 1}", 0 <= seed < 1 << 32),
            (f"num_epochs is {num_epochs}: expected at least 1", (num_epochs or 1) >= 1),
            (f"flip is {flip}: expected 0 to 1", 0 <= flip <= 1),
            (f"workers is {workers}: expected at least 0", workers >= 0),
            (f"process is {index} of {count}: expected 0 to {count - 1}", 0 <= index < count),
        )
        if not good
    ]
    if wrong:
        raise AnchorError(shorten(wrong, separator="; "))
    check_spans(dataset, spans)


def _num_threads(num_workers: int) -> int:
    """Threads of each process, so that all together are one a core."""
    return max(1, min(MAX_THREADS, num_cores() // max(1, num_workers)))


def _parse_flags() -> None:
    """Grain's workers are told absl's flags, which a program that has none never parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
