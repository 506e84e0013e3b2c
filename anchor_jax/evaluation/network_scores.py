"""The scores of frames by networks, as far as their weights are there: for studies and reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.evaluation import identity, people
from anchor_jax.evaluation.landmarks import PARTS, mean_distances, points_of, without_outliers
from anchor_jax.evaluation.people import Person, PersonFinder
from anchor_jax.evaluation.perceptual import PerceptualDistance
from anchor_jax.evaluation.regions import known_mean
from anchor_jax.evaluation.stlpips import load_stlpips
from anchor_jax.shapes import Images, Params


class NetworkScores:
    """Landmark distances, identity and shift-tolerant LPIPS, those whose weights are there.

    Args:
        folder: of the weights; None: the cache folder.

    Attributes:
        notes: what cannot be measured, and how to get the weights.
    """

    def __init__(self, folder: Path | None = None):
        self.notes: list[str] = []
        self._finder: PersonFinder | None = None
        self._descriptor: Params | None = None
        self._stlpips: PerceptualDistance | None = None
        self._truth: tuple[Images, list[Person]] | None = None  # the last one
        with self._noting("landmark distances and identity"):
            (self._finder,), _ = people.load_finders(folder, 1)
        with self._noting("identity"):
            self._descriptor = identity.load_descriptor(folder)[0]
        with self._noting("ST-LPIPS"):
            self._stlpips = load_stlpips(folder)[0]

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except AnchorError as error:
            self.notes.append(f"not measured: {what}: {error}")

    def measure(self, images: Images, truth: Images) -> dict[str, float]:
        """Compare frames with their truth.

        Args:
            images: uint8 (n, h, w, 3).
            truth: the same shape. The people in it are kept for the next call.

        Returns:
            Means over the frames: "lmd_body", "lmd_face", "lmd_hands" (pixels, outliers of the
            hands left out), "identity", "stlpips". NaN where nobody is found.
        """
        scores = {}
        if self._finder is not None:
            if self._truth is None or self._truth[0] is not truth:
                self._truth = truth, [self._finder.find(frame) for frame in truth]
            both = [self._finder.find(frame) for frame in images], self._truth[1]
            points, expected = map(points_of, both)
            for part in PARTS:
                distances = mean_distances(points[part], expected[part])
                kept = without_outliers(distances)[0] if part == "hands" else distances
                scores[f"lmd_{part}"] = known_mean(kept)
            if self._descriptor is not None:
                faces = [[person.five for person in found] for found in both]
                distances = identity.face_distances(self._descriptor, (images, truth), faces)
                scores["identity"] = known_mean(distances)
        if self._stlpips is not None:
            scores["stlpips"] = float(np.mean(self._stlpips(images, truth)))
        return scores
