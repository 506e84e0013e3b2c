"""The Fréchet distance between two sets of features, as in FID and FVD
(Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6)."""

import numpy as np

from anchor_jax.errors import AnchorError


class Gaussian:
    """Mean and covariance of feature vectors that come in batches, in a fixed amount of memory.

    Args:
        size: d.
        features: the first batch (k, d).

    Attributes:
        count: number of vectors so far.
        mean: float64 (d,).
    """

    def __init__(self, size: int, features: np.ndarray | None = None):
        self.count = 0
        self.mean = np.zeros(size)
        self._scatter = np.zeros((size, size))  # sum of (x - mean) (x - mean)^T
        if features is not None:
            self.add(features)

    def add(self, features: np.ndarray) -> None:
        """Take vectors (k, d). Sums around the present mean lose no digits (Chan et al. 1983,
        https://doi.org/10.1080/00031305.1983.10483115)."""
        features = np.asarray(features, np.float64)
        if not len(features):
            return
        mean = features.mean(0)
        centred, shift = features - mean, mean - self.mean
        total = self.count + len(features)
        self._scatter += centred.T @ centred
        self._scatter += np.outer(shift, shift) * (self.count * len(features) / total)
        self.mean = self.mean + shift * (len(features) / total)
        self.count = total

    def state(self) -> dict[str, np.ndarray]:
        """Return what `restore` needs to go on."""
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self._scatter}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self.count = int(state["count"])
        self.mean, self._scatter = state["mean"], state["scatter"].copy()

    def covariance(self) -> np.ndarray:
        """Return the covariance of the sample, float64 (d, d), with the divisor n - 1.

        Raises:
            AnchorError: there are fewer than two vectors.
        """
        if self.count < 2:
            raise AnchorError(f"{self.count} feature vectors have no covariance: expected 2")
        return self._scatter / (self.count - 1)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Compute |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).

    The last trace is the sum of the roots of the eigenvalues of C_1^(1/2) C_2 C_1^(1/2), which is
    symmetric. Unlike a root of the product itself it is exact for covariances without full rank,
    as those of fewer vectors than dimensions are.

    Raises:
        AnchorError: one of them has fewer than two vectors.
    """
    covariances = first.covariance(), second.covariance()
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0))
    shift = first.mean - second.mean
    distance = float(shift @ shift + sum(map(np.trace, covariances)) - 2 * roots.sum())
    return max(distance, 0.0)  # it is below zero by rounding alone
