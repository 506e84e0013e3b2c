"""Reads the inputs of the face stage that belong to pose images: face landmarks and face masks.

`read_face` is for generation. It reads the conditions folder of `anchor-jax render`, files of the
user, or runs a face detector. For training data sets, use `face_crops.find_faces`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from anchor_jax.data import video
from anchor_jax.data.pictures import IMAGE_SUFFIXES, list_images, open_picture
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.face import detect, mask
from anchor_jax.face.landmarks import Track, follow
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
    n, height, width, _ = frames.shape
    source = landmarks or conditions_beside(poses)
    if landmarks is not None or (detector is None and (source / TABLE).is_file()):
        points, visible = _read_landmarks(source, (n, height, width), _own_size(poses))
        if masks is None and (source / "face").is_dir():
            masks = source / "face"
    else:
        models = detect.find_models(detector)
        if models is None:
            raise AnchorError(
                f"no face landmarks for {poses}: there is no {source / TABLE}; name a file with "
                "--face-landmarks, switch faces off (--no-face), or get "
                f"the detector: {detect.how_to_get()}"
            )
        find = detect.Detector(models).find
        found = []
        with bars(progress)("finding faces", n, "frame") as advance:
            for frame in frames:
                found.append(find(frame))
                advance(1)
        points, visible = np.stack(found), None
    regions = None if masks is None else _read_masks(masks, (n, height, width))
    if regions is not None:
        seen = np.repeat(regions.reshape(n, -1).any(1, keepdims=True), 5, 1)
        visible = seen if visible is None else visible & seen
    return follow(points, (width, height), visible, smoothing), regions


def _read_landmarks(
    path: Path, shape: tuple[int, int, int], size: Size
) -> tuple[Float[np.ndarray, "n 5 2"], Bool[np.ndarray, "n 5"] | None]:
    """Read a landmark file.

    Args:
        path: `.npz` with "landmarks" (n, 5, 2), optionally "visible" (n, 5) and "size" (width,
            height), as written by `render`; a folder with such a `conditions.npz`; or `.json`: a
            list of frames, each five pairs or null, or an object with "landmarks" and "size".
        shape: number, height and width of the frames as they are used.
        size: width and height that the landmarks refer to, if the file does not say.

    Returns:
        Landmarks in pixels of the frames as they are used, NaN if missing, and which are visible.

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
    width, height = size if table.size is None else table.size
    return table.points * np.array([shape[2] / width, shape[1] / height]), table.visible


def _read_masks(folder: Path, shape: tuple[int, int, int]) -> Bool[np.ndarray, "n h w"]:
    """Read the face region of every frame from a folder of grey images.

    Images are white on the face, or hold the class numbers of a face parser (CelebAMask-HQ, 0 to
    18). They are resized to the frames (nearest neighbour).

    Raises:
        AnchorError: the folder is missing, an image is not readable, or their number differs.
    """
    if not folder.is_dir():
        raise AnchorError(f"{folder} does not exist; expected a folder of face masks")
    paths = list_images(folder)
    if len(paths) != shape[0]:
        raise AnchorError(
            f"{folder} holds {len(paths)} face masks; expected {shape[0]}, the number of pose "
            "images"
        )
    regions = np.empty(shape, bool)
    for region, path in zip(regions, paths, strict=True):
        region[...] = _read_mask(path, (shape[2], shape[1]))
    return regions


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
