"""Reads the inputs of the face stage that belong to pose images: face landmarks and face masks.

`read_face` is for generation. It reads the conditions folder of `anchor-jax render`, files of the
user, or runs a face detector. For training data sets, use `face_crops.find_faces`.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from anchor_jax.data import video
from anchor_jax.data.pictures import IMAGE_SUFFIXES, list_images, open_picture
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.face import detect, mask
from anchor_jax.face.landmarks import Track, follow, reach
from anchor_jax.poses.pose_images import (
    EXPECTED_LANDMARKS,
    MAX_ARRAY_BYTES,
    TABLE,
    LandmarkTable,
    conditions_beside,
    read_table,
)
from anchor_jax.progress import bars
from anchor_jax.shapes import Images, Size


def read_face(
    poses: Path,
    frames: Images,
    landmarks: Path | None = None,
    masks: Path | None = None,
    detector: Path | None = None,
    smoothing: float = 0.0,
    progress: bool = False,
) -> tuple[Track, Bool[np.ndarray, "n h w"] | None]:
    """Read or detect the face landmarks of pose images, and read their face masks.

    Landmarks come from the first of these: `landmarks`; the models in `detector`; the conditions
    folder beside `poses`; the detector models in the cache folder (see `face.detect`).

    Args:
        poses: folder or video of the pose images.
        frames: the pose images in it, uint8 (n, h, w, 3), at the size at which they are used.
        landmarks: landmark file (.npz or .json) or conditions folder.
        masks: folder of face masks; by default `face/` in the folder of the landmarks.
        detector: folder with the two model files of the face detector.
        smoothing: standard deviation, in frames, of a Gaussian over time; 0 is none.
        progress: show a progress bar during detection.

    Returns:
        The landmarks as a `Track`, and the face region of each frame, bool (n, h, w), or None if
        there are no masks.

    Raises:
        AnchorError: landmarks or masks are missing, not readable, or for another number of
            frames, or fewer than half of the frames have a usable face.
    """
    files = FaceFiles.find(poses, landmarks, masks, detector)
    track, regions = read_track(files, frames, frames.shape[:3], smoothing, progress)
    return track, None if regions is None else regions[np.arange(len(frames))]


@dataclass(frozen=True)
class FaceFiles:
    """Where the faces of pose images come from.

    Attributes:
        poses: folder or video of the pose images.
        landmarks: landmark file or conditions folder; None: they are detected.
        masks: folder of face masks, or None.
        detector: folder with the models of the face detector, where landmarks are detected.
    """

    poses: Path
    landmarks: Path | None
    masks: Path | None
    detector: Path | None = None

    @classmethod
    def find(
        cls,
        poses: Path,
        landmarks: Path | None = None,
        masks: Path | None = None,
        detector: Path | None = None,
    ) -> "FaceFiles":
        """Choose the files; arguments and errors as for `read_face`."""
        source = landmarks or conditions_beside(poses)
        if landmarks is not None or (detector is None and (source / TABLE).is_file()):
            if masks is None and (source / "face").is_dir():
                masks = source / "face"
            return cls(poses, source, masks)
        models = detect.find_models(detector)
        if models is None:
            raise AnchorError(
                f"no face landmarks for {poses}: there is no {source / TABLE}; name a file with "
                "--face-landmarks, switch faces off (--no-face), or get "
                f"the detector: {detect.how_to_get()}"
            )
        return cls(poses, None, masks, models)

    @classmethod
    def of_growing(cls, poses: Path, detector: Path | None = None) -> "FaceFiles":
        """Choose the detector, which alone finds faces in pose images that are still being written.

        Raises:
            AnchorError: there is none.
        """
        models = detect.find_models(detector)
        if models is None:
            raise AnchorError(
                f"faces in {poses} must be detected, since its pose images are still being written:"
                f" switch faces off (--no-face), or get the detector: {detect.how_to_get()}"
            )
        return cls(poses, None, None, models)


def read_track(
    files: FaceFiles,
    frames: Iterable[Images],
    shape: tuple[int, int, int],
    smoothing: float = 0.0,
    progress: bool = False,
) -> tuple[Track, "MaskFolder | None"]:
    """Read or detect the face landmarks of pose images, as `read_face`, without keeping frames.

    Args:
        files: where the faces come from.
        frames: the pose images one by one; only read if landmarks are detected.
        shape: number, height and width of the frames.
        smoothing: as for `read_face`.
        progress: as for `read_face`.

    Returns:
        The landmarks, and the face regions, or None.

    Raises:
        AnchorError: as `read_face`.
    """
    n, height, width = shape
    if files.landmarks is not None:
        own_size = lambda: _own_size(files.poses)
        table = read_landmarks(files.landmarks, shape, own_size)
        points, visible = table.points, table.visible
    else:
        assert files.detector is not None
        find, visible, points = detect.Detector(files.detector).find, None, np.empty((n, 5, 2))
        with bars(progress)("finding faces", n, "frame") as advance:
            for index, frame in enumerate(frames):
                points[index] = find(frame)
                advance(1)
    if files.masks is None:
        return follow(points, (width, height), visible, smoothing), None
    regions = MaskFolder(files.masks, shape)
    seen = np.repeat(regions.any()[:, None], 5, 1)
    visible = seen if visible is None else visible & seen
    return follow(points, (width, height), visible, smoothing), regions


def detect_as_read(
    files: FaceFiles, frames: Iterator[Images], start: int = 0, smoothing: float = 0.0
) -> Iterator[tuple[Images, Float[np.ndarray, "2 3"]]]:
    """Detect the faces of pose images as they are read, some frames ahead.

    Args:
        files: where the detector is.
        frames: pose images, uint8 (h, w, 3), from `max(0, start - reach(smoothing))` on.
        start: the first frame that is wanted, from 0.
        smoothing: as for `read_face`.

    Yields:
        Each pose image from `start` on, and the transform to the crop of its face: NaN if it is not
        usable. Unlike `read_face`, any number of frames may be without a face.
    """
    assert files.detector is not None
    find, ahead = detect.Detector(files.detector).find, reach(smoothing)
    number = max(0, start - ahead)
    images: deque[Images] = deque()  # frames that are not yielded yet
    points: list[np.ndarray] = []  # of these, and of `before` frames before them
    before = 0

    def chunk(last: bool) -> Iterator[tuple[Images, np.ndarray]]:
        nonlocal before, number
        height, width, _ = images[0].shape
        transforms = follow(
            np.stack(points), (width, height), None, smoothing, most_lost=1.0
        ).transforms()
        for _ in range(len(images) if last else len(images) - ahead):
            if number >= start:
                yield images[0], transforms[before]
            images.popleft()
            number, before = number + 1, before + 1
        del points[: max(0, before - ahead)]
        before = min(before, ahead)

    for image in frames:
        images.append(image)
        points.append(find(image))
        if len(images) > 2 * ahead:
            yield from chunk(last=False)
    if images:
        yield from chunk(last=True)


def read_landmarks(
    path: Path, shape: tuple[int, int, int], own_size: Callable[[], Size]
) -> LandmarkTable:
    """Read a landmark file.

    Args:
        path: `.npz` with "landmarks" (n, 5, 2), optionally "visible" (n, 5) and "size" (width,
            height), as written by `render`; a folder with such a `conditions.npz`; or `.json`: a
            list of frames, each five pairs or null, or an object with "landmarks" and "size".
        shape: number, height and width of the frames as they are used.
        own_size: gives the width and height that landmarks refer to, if the file does not say.

    Returns:
        The table, with landmarks and joints in pixels of the frames as they are used.

    Raises:
        AnchorError: the file is not readable, has another content, or another number of frames.
    """
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise AnchorError(f"{path} does not exist; expected face landmarks (.npz or .json)")
    if path.suffix.lower() == ".json":
        table = _read_json(path)
    elif path.suffix.lower() == ".npz":
        table = read_table(path)
    else:
        raise AnchorError(f"{path}: expected face landmarks in an .npz or .json file")
    if len(table.points) != shape[0]:
        raise AnchorError(
            f"{path} has landmarks of {len(table.points)} frames; expected {shape[0]}, the number "
            "of pose images"
        )
    width, height = own_size() if table.size is None else table.size
    scale = np.array([shape[2] / width, shape[1] / height])
    joints = None if table.joints is None else table.joints * scale
    return replace(table, points=table.points * scale, joints=joints)


class MaskFolder:
    """The face region of every frame, read from a folder of grey images as it is needed.

    Images are white on the face, or hold the class numbers of a face parser (CelebAMask-HQ, 0 to
    18). They are resized to the frames (nearest neighbour).

    Args:
        folder: the images, in the order of the numbers in their names.
        shape: number, height and width of the frames.

    Raises:
        AnchorError: the folder is missing, or the number of images differs.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]):
        if not folder.is_dir():
            raise AnchorError(f"{folder} does not exist; expected a folder of face masks")
        self._paths, self.shape = list_images(folder), shape
        if len(self._paths) != shape[0]:
            raise AnchorError(
                f"{folder} holds {len(self._paths)} face masks; expected {shape[0]}, the number of"
                " pose images"
            )

    def __getitem__(self, numbers: np.ndarray) -> Bool[np.ndarray, "k h w"]:
        """Return the regions of frames with these numbers, from 0.

        Raises:
            AnchorError: an image is not readable.
        """
        size = self.shape[2], self.shape[1]
        return np.stack([_read_mask(self._paths[number], size) for number in numbers])

    def any(self) -> Bool[np.ndarray, " n"]:
        """Return which frames have a region; reads all images.

        Raises:
            AnchorError: an image is not readable.
        """
        return np.array([self[np.array([number])].any() for number in range(len(self._paths))])


def _own_size(poses: Path) -> Size:
    """Width and height of the pose images as stored."""
    if poses.is_dir() or poses.suffix.lower() in IMAGE_SUFFIXES:
        with open_picture(list_images(poses)[0] if poses.is_dir() else poses) as image:
            return image.size
    height, width, _ = next(video.iter_video(poses))[1].shape
    return width, height


def _read_json(path: Path) -> LandmarkTable:
    try:
        if path.stat().st_size > MAX_ARRAY_BYTES:
            raise ValueError(f"larger than {MAX_ARRAY_BYTES} bytes")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}: not a readable JSON file: {first_line(error)}") from None
    size, frames = None, content
    if isinstance(content, dict):
        frames = content.get("landmarks")
        size = _numbers(path, content["size"]) if "size" in content else None
    if not isinstance(frames, list):
        raise AnchorError(f"{path}: no list of frames; {EXPECTED_LANDMARKS}")
    points = np.full((len(frames), 5, 2), np.nan)
    for index, frame in enumerate(frames):
        if frame is None:
            continue
        numbers = _numbers(path, frame)
        if numbers.shape != (5, 2):
            raise AnchorError(
                f"{path}: frame {index + 1} is of shape {numbers.shape}; {EXPECTED_LANDMARKS}"
            )
        points[index] = numbers
    return LandmarkTable(path, points, size=size)


def _numbers(path: Path, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise ValueError
        return array.astype(np.float64)
    except (ValueError, OverflowError):
        raise AnchorError(
            f"{path} holds values that are not numbers; {EXPECTED_LANDMARKS}"
        ) from None


def _read_mask(path: Path, size: Size) -> np.ndarray:
    from PIL import Image

    with open_picture(path) as image:
        if image.mode not in (
            "L",
            "P",
            "1",
        ):  # in a palette image, pixel values are a parser's classes
            image = image.convert("L")
        pixels = np.asarray(image.resize(size, Image.Resampling.NEAREST), np.uint8)
    if pixels.max() < mask.NUM_CLASSES and image.mode != "1":
        return mask.from_parsing(pixels)
    return pixels > (0 if image.mode == "1" else 127)
