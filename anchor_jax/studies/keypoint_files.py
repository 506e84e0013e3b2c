"""Reads landmarks that others found in a video: OpenPose's or COCO-WholeBody's JSON files."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.data.pictures import natural
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.evaluation.people import Person

Landmarks = Callable[[int], Person]  # from the number of a frame, from 0

_MOST_BYTES = 1 << 28  # of a file
# Places of COCO's 17 points among those of OpenPose's models.
_BODY_25 = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
_BODY_18 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
# Confidence from which a point counts as seen: of body, face and hands, as OpenPose draws them.
_OPENPOSE = (0.05, 0.4, 0.2)
_COCO = 0.3  # as MMPose draws them; annotations by hand have 1 or 2
_WHOLE_BODY = 133  # points: 17 of the body, 6 of the feet, 68 of the face, 21 of each hand
EXPECTED = (
    "expected a folder of OpenPose's *_keypoints.json, a file for each frame, or a JSON file in the"
    " format of COCO-WholeBody"
)


def read_keypoints(path: Path, count: int) -> Landmarks:
    """Open the landmarks of a video. Of several people in a frame the one with the highest
    confidence is taken.

    Args:
        path: a folder of OpenPose's files, which are read as they are needed, or a file in the
            format of COCO-WholeBody's annotations or results.
        count: number of frames of the video.

    Returns:
        The landmarks by frame. Frames without anybody have none.

    Raises:
        AnchorError: it is not readable, or for another number of frames.
    """
    if path.is_dir():
        files = sorted(path.glob("*_keypoints.json"), key=lambda file: natural(file.name))
        if len(files) != count:
            raise AnchorError(
                f"{path} has {len(files)} files *_keypoints.json; expected {count}, one a frame"
            )
        return lambda number: _openpose(files[number])
    if not path.is_file():
        raise AnchorError(f"{path} does not exist; {EXPECTED}")
    frames = _coco(path, count)
    return lambda number: frames.get(number) or Person.nobody()


def _openpose(path: Path) -> Person:
    content = _read(path)
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list):
        raise AnchorError(f'{path}: no list "people"; {EXPECTED}')
    found = []
    for person in people:
        names = "pose", "face", "hand_left", "hand_right"
        body, face, *hands = (_points(path, person, f"{name}_keypoints_2d") for name in names)
        order = {25: _BODY_25, 18: _BODY_18}.get(len(body))
        if order is None:
            raise AnchorError(f"{path}: {len(body)} points of a body; expected 25 or 18")
        face = _length(path, face, 70)[:68]
        parts = [body[list(order)], face, *(_length(path, hand, 21) for hand in hands)]
        found.append(_person(parts, _OPENPOSE))
    return _best(found)


def _coco(path: Path, count: int) -> dict[int, Person]:
    content = _read(path)
    images: Any = []
    rows: Any = content
    if isinstance(content, dict):
        images, rows = content.get("images", []), content.get("annotations")
    if not (_is_table(images, "id") and _is_table(rows, "image_id")):
        raise AnchorError(f"{path}: no list of annotations with image ids; {EXPECTED}")
    numbers = _numbers_of_images(path, images, [row["image_id"] for row in rows], count)
    found = defaultdict(list)
    for row in rows:
        body = _points(path, row, "keypoints")
        if len(body) == _WHOLE_BODY:
            parts = [body[:17], body[23:91], body[91:112], body[112:]]
        else:
            names = "face_kpts", "lefthand_kpts", "righthand_kpts"
            parts = [body, *(_points(path, row, name) for name in names)]
        parts = [_length(path, x, k) for x, k in zip(parts, (17, 68, 21, 21), strict=True)]
        found[numbers[row["image_id"]]].append(_person(parts, (_COCO,) * 3))
    return {number: _best(people) for number, people in found.items()}


def _is_table(rows: Any, name: str) -> bool:
    """Return whether `rows` is a list of objects with an id, a number or text, under `name`."""
    return isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get(name), int | str) for row in rows
    )


def _numbers_of_images(
    path: Path, images: list[Any], ids: list[Any], count: int
) -> dict[int | str, int]:
    """Return the number of the frame of each image id: in the order of the file names of `images`,
    or as they are listed there; without images, from 0 or 1 as the ids say.

    Raises:
        AnchorError: ids that say neither, or of another number of frames.
    """
    if images:
        if all(isinstance(image.get("file_name"), str) for image in images):
            images = sorted(images, key=lambda image: natural(image["file_name"]))
        numbers = {image["id"]: number for number, image in enumerate(images)}
        if len(images) != count or len(numbers) != count or not set(ids) <= set(numbers):
            raise AnchorError(
                f"{path} has {len(images)} images with {len(numbers)} ids; expected {count}, one a"
                " frame, and no other image_id"
            )
        return numbers
    if not all(isinstance(x, int) and 0 <= x <= count for x in ids) or {0, count} <= set(ids):
        raise AnchorError(
            f"{path}: expected {count} frames, one a frame: an image_id from 0 or from 1 on, or a"
            " list of images"
        )
    if ids and not {0, count} & set(ids):
        raise AnchorError(
            f"{path}: image ids {min(ids)} to {max(ids)} do not say whether they count from 0 or 1;"
            " expected a list of images"
        )
    first = 1 if count in ids else 0
    return {first + number: number for number in range(count)}


def _person(parts: Sequence[np.ndarray], least: Sequence[float]) -> tuple[Person, float]:
    """Make a person from x, y and confidence of body, face, left and right hand; also return the
    sum of the body's confidence."""
    body, face, left, right = parts
    points = [
        np.where(x[..., 2:] > limit, x[..., :2], np.nan)
        for x, limit in zip((body, face, np.stack([left, right])), least, strict=True)
    ]
    return Person(points[0], points[1], points[2], np.full((5, 2), np.nan)), float(body[:, 2].sum())


def _best(people: list[tuple[Person, float]]) -> Person:
    return max(people, key=lambda x: x[1])[0] if people else Person.nobody()


def _points(path: Path, row: Any, name: str) -> np.ndarray:
    """Read rows of x, y and confidence, float64 (k, 3); k is 0 if there are none."""
    try:
        values = np.array(row.get(name) or [], np.float64).reshape(-1, 3)
        if not np.isfinite(values).all():
            raise ValueError
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise AnchorError(
            f"{path}: {name} is not a list of x, y and confidence; {EXPECTED}"
        ) from None
    return values


def _length(path: Path, points: np.ndarray, count: int) -> np.ndarray:
    """Check the number of points; none at all are as many unseen ones."""
    if not len(points):
        return np.zeros((count, 3))
    if len(points) != count:
        raise AnchorError(f"{path}: {len(points)} points; expected {count}")
    return points


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}: not a readable JSON file: {first_line(error)}") from None
