"""Where pose images show the person: measured from the silhouettes, compared and reproduced.

An anchor generates well where its training had the person, so training stores a `Framing`.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from anchor_jax.shapes import Size

_LIT = 24  # levels above which a channel differs from the background: video codecs blur edges
_VALLEY = 0.08  # depth of the neck, as a share of the head's width
_SEEN = 0.3  # share of the frames in which a head must be found
_PERCENTILES = 5, 95
SAMPLE = 200  # frames that are measured, at most


@dataclass(frozen=True)
class Place:
    """Where an image shows the person: fractions of the image's height, NaN if not found.

    Attributes:
        crown: row of the top of the head, from the upper edge.
        neck: row where the silhouette is narrowest between head and shoulders.
        column: middle of the head, from the middle of the image, positive to the right.
        head: largest width between crown and neck.
        shoulders: width half a head below the neck.
        bottom: row below the lowest pixel of the person; 1 where the image cuts the person.
        background: grey level behind the person, 0 to 255.
    """

    crown: float = np.nan
    neck: float = np.nan
    column: float = np.nan
    head: float = np.nan
    shoulders: float = np.nan
    bottom: float = np.nan
    background: float = np.nan


@dataclass(frozen=True)
class Framing:
    """Where the pose images of a training had the person.

    Attributes:
        size: width and height of the images, pixels.
        low, middle, high: 5th percentile, mean of the middle half, and 95th percentile over the
            frames, each value for itself.
        shape: named values of the free body's shape with which `render` draws this person; empty
            for the body's default.
    """

    size: Size
    low: Place
    middle: Place
    high: Place
    shape: Mapping[str, float] = field(default_factory=dict)


def measure(image: np.ndarray) -> Place:
    """Measure where a pose image, uint8 (h, w, 3), shows the person.

    The background is the median of the image's border; the person is what differs from it. The
    silhouette is followed upwards, which leaves raised hands aside.
    """
    height, width = image.shape[:2]
    half = (height + 1) // 2
    border = np.concatenate([image[0], image[:half, 0], image[:half, -1]])
    level = np.median(border, axis=0)
    lit = np.any(np.abs(image - level) > _LIT, axis=-1)
    top, spans = _follow_up(lit)
    if not len(spans):
        return Place(background=float(level.mean()))
    found = {"crown": top, "bottom": top + len(spans)}
    widths = spans[:, 1] - spans[:, 0]
    if neck := _find_neck(widths):
        widest = spans[:neck][widths[:neck] >= 0.8 * widths[:neck].max()]
        found |= {"neck": top + neck, "head": widths[:neck].max()}
        found["column"] = widest.mean() - width / 2
        if neck + neck // 2 < len(widths):
            found["shoulders"] = widths[neck + neck // 2]
    return Place(
        background=float(level.mean()),
        **{name: float(value) / height for name, value in found.items()},
    )


def summarise(images: Iterable[np.ndarray]) -> Framing | None:
    """Measure pose images, uint8 (h, w, 3) of one size, and summarise where they have the person.

    Returns:
        None if too few of them show a person with head and neck, or there are none.
    """
    places, size = [], (0, 0)
    for image in images:
        places.append(measure(image))
        size = image.shape[1], image.shape[0]
    heads = [place.head for place in places]
    if not heads or np.isfinite(heads).mean() < _SEEN:
        return None
    parts: dict[str, dict[str, float]] = {"low": {}, "middle": {}, "high": {}}
    for name in (item.name for item in fields(Place)):
        values = np.sort([getattr(place, name) for place in places])
        values = values[np.isfinite(values)]
        if len(values):
            cut = len(values) // 4
            low, high = np.percentile(values, _PERCENTILES)
            middle = values[cut : len(values) - cut].mean()
            for part, value in zip(parts.values(), (low, middle, high), strict=True):
                part[name] = round(float(value), 5)
    low, middle, high = (Place(**values) for values in parts.values())
    return Framing(size, low, middle, high)


def spread(count: int, most: int = SAMPLE) -> list[int]:
    """Choose at most `most` of `count` frames, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _follow_up(lit: np.ndarray) -> tuple[int, np.ndarray]:
    """Follow a silhouette upwards from its lowest row.

    In each row the next run is the one, of those that touch the last run, whose middle is nearest
    to the last one's: above the shoulders it is the neck, not a raised hand.

    Args:
        lit: bool (h, w).

    Returns:
        The highest row that is reached, and first and last column + 1 of the runs from there
        downwards, int (k, 2); k is 0 for an empty image.
    """
    padded = np.pad(lit, ((0, 0), (1, 1))).astype(np.int8)
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    least = max(2, lit.shape[0] // 100)  # narrower runs are noise
    wide = ends - starts >= least
    rows, runs = rows[wide], np.stack([starts, ends], 1)[wide]
    if not len(rows):
        return 0, runs
    row = int(rows[-1])
    bottom = runs[rows == row]
    spans = [bottom[np.argmax(bottom[:, 1] - bottom[:, 0])]]
    bounds = np.searchsorted(rows, np.arange(row + 2))
    for above in range(row - 1, -1, -1):
        last = spans[-1]
        here = runs[bounds[above] : bounds[above + 1]]
        here = here[(here[:, 0] < last[1]) & (here[:, 1] > last[0])]
        if not len(here):
            break
        spans.append(here[np.argmin(np.abs(here.sum(1) - last.sum()))])
    return row + 1 - len(spans), np.array(spans[::-1])


def _find_neck(widths: np.ndarray) -> int | None:
    """Find the neck: the narrowest row before a silhouette first becomes wider than it was above,
    after it has become narrower. `widths`: (k,), from the crown. None if that is nowhere."""
    largest = np.maximum.accumulate(widths)
    records = np.flatnonzero(np.diff(largest, prepend=0))
    for record, wider in itertools.pairwise(records):
        between = widths[record:wider]
        if between.min() < (1 - _VALLEY) * widths[record]:
            return int(record + np.argmin(between))
    return None
