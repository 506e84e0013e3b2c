"""The kernel distance between two sets of features (Bińkowski et al. 2018,
https://arxiv.org/abs/1801.01401), which is KID where the features are Inception's."""

import numpy as np

_BLOCK = 256  # vectors of each set in one estimate


class KernelDistance:
    """The squared maximum mean discrepancy of two sets of vectors that come in pairs of batches.

    The kernel is (x y / d + 1)^3. It is estimated, without bias, in blocks of 256 vectors of each
    set; the distance is the mean over the blocks. So memory does not grow. Unlike the Fréchet
    distance it does not fall with the number of vectors.
    """

    def __init__(self):
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = 0
        self._sum, self._weight = 0.0, 0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take vectors (k, d) of each set."""
        self._waiting.append((np.asarray(first, np.float64), np.asarray(second, np.float64)))
        self._count += len(first)
        if self._count >= _BLOCK:
            self._estimate()

    def state(self) -> dict[str, np.ndarray]:
        """Return what `restore` needs to go on."""
        sides = list(zip(*self._waiting, strict=True)) or [[np.zeros((0, 0))]] * 2
        first, second = map(np.concatenate, sides)
        done = np.array([self._sum, self._weight])
        return {"first": first, "second": second, "done": done}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self._sum, self._weight = float(state["done"][0]), int(state["done"][1])
        self._count = len(state["first"])
        self._waiting = [(state["first"], state["second"])] if self._count else []

    def value(self) -> float:
        """Return the distance, which may be slightly negative; NaN of fewer than two vectors."""
        if self._count > 1 and (not self._weight or self._count >= _BLOCK // 2):
            self._estimate()
        return self._sum / self._weight if self._weight else float("nan")

    def _estimate(self) -> None:
        x, y = (np.concatenate(side) for side in zip(*self._waiting, strict=True))
        within = sum((_kernel(z, z).sum() - _kernel_with_itself(z)) for z in (x, y))
        n = len(x)
        self._sum += n * float(within / (n * (n - 1)) - 2 * _kernel(x, y).mean())
        self._weight += n
        self._waiting, self._count = [], 0


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_with_itself(x: np.ndarray) -> float:
    return float((((x * x).sum(1) / x.shape[1] + 1) ** 3).sum())
