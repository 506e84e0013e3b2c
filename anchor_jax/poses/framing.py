"""Where pose images show the person: measured from the silhouettes, compared and reproduced.

An anchor generates well where its training had the person, so training stores a `Framing`.
"""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields, replace

import numpy as np

from anchor_jax.body.motion import Motion
from anchor_jax.body.parallel import Body, draw_clip
from anchor_jax.body.view import View
from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size

_LIT = 24  # levels above which a channel differs from the background: video codecs blur edges
_VALLEY = 0.08  # depth of the neck, as a share of the head's width
_SEEN = 0.3  # share of the frames in which a head must be found
_PERCENTILES = 5, 95
SAMPLE = 200  # frames that are measured, at most
_MEASURED = 256  # pixels of height at which a camera is fitted, at least half of it
_FITTED = 24  # frames of a motion to which a camera is fitted
_PASSES = 5  # at most: a head that is cut off at first is measured wrong
_CLOSE = 0.02  # relative change of a camera after which no further pass is needed
_SIZE = 1.2  # tolerance of sizes, a factor
_PLACE = 0.5  # tolerance of places, in widths of the head


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


def on_black(image: np.ndarray) -> bool:
    """Return whether the background of a picture, uint8 (h, w, 3), is black, as in pose images."""
    return measure(image).background <= _LIT


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


def fit(view: View, seen: Place, wanted: Place) -> View:
    """Move and zoom a camera so that it shows the person's head in another place and size.

    Pixels p become s p + t, where s and t minimise the squared error of crown, neck, and left and
    right edge of the head.

    Args:
        view: the camera.
        seen: where its images show the person.
        wanted: where they shall.
    """
    width, height = view.size
    (middle, reach), (goal, extent) = (
        (
            np.array([width / 2 + place.column * height, (place.crown + place.neck) * height / 2]),
            np.array([place.head, place.neck - place.crown]),
        )
        for place in (seen, wanted)
    )
    scale = float(reach @ extent / (reach @ reach))
    return view.zoomed(scale, middle, goal)


def reproduce(
    framing: Framing, view: View, body: Body, motion: Motion, processes: int | None = None
) -> View:
    """Move and zoom a camera so that it shows a motion where a training had the person, and as
    large, on average over the motion.

    Args:
        framing: of the training.
        view: the camera to start from, by `view.make_view`.
        body: what is drawn.
        motion: the whole clip; some of its frames are drawn and measured.
        processes: how many draw at once; by default one a core.

    Raises:
        AnchorError: too few of these frames show head and neck, or as `draw_clip`.
    """
    sample = motion[np.array(spread(len(motion.poses), _FITTED))]
    for _ in range(_PASSES):
        large = _enlarge(view, max(1, _MEASURED // view.size[1]))
        with closing(draw_clip(body, sample, large, processes)) as images:
            seen = summarise(image.pixels for image in images)
        if seen is None:
            raise AnchorError(
                "the motion cannot be drawn where training had the person: too few frames show head"
                " and neck; leave out --framing"
            )
        before, view = view, fit(view, seen.middle, framing.middle)
        shift = np.subtract(view.center, before.center) / view.size[1]
        zoom = view.focal_length / before.focal_length - 1
        if max(abs(zoom), *np.abs(shift)) < _CLOSE:
            break
    return view


def _enlarge(view: View, factor: int) -> View:
    """Return a camera whose images are larger by a whole factor and show the same."""
    corner = np.zeros(2)
    size = factor * view.size[0], factor * view.size[1]
    return replace(view.zoomed(float(factor), corner, corner), size=size)


def compare(seen: Framing | None, trained: Framing) -> list[str]:
    """Say how the poses of a video differ from those of a training, by more than the frames of the
    training differ from each other and a tolerance.

    Args:
        seen: framing of the video; None if its poses have none.
        trained: framing of the training.

    Returns:
        Phrases such as "the person is 0.45 times as large"; none if the poses are alike.
    """
    if seen is None:
        return ["they show no head and neck"]
    ours, low, middle, high = seen.middle, trained.low, trained.middle, trained.high
    phrases = []
    if not low.head / _SIZE <= ours.head <= high.head * _SIZE:
        phrases.append(f"the person is {ours.head / middle.head:.2f} times as large")
    room = _PLACE * middle.head
    for name, less, more in (
        ("crown", "higher", "lower"),
        ("column", "to the left", "to the right"),
    ):
        value = getattr(ours, name)
        if not getattr(low, name) - room <= value <= getattr(high, name) + room:
            shift = value - getattr(middle, name)
            where = more if shift > 0 else less
            phrases.append(f"the head is {abs(shift):.2f} of the image's height {where}")
    if abs(ours.background - middle.background) > _LIT:
        phrases.append(
            f"the background has grey level {ours.background:.0f}, not {middle.background:.0f}"
        )
    return phrases


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
