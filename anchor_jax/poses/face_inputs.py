"""What the face stage is told beside the poses: where the face is, and which pixels are its.

Both come from what `anchor-jax render` wrote beside the pose images, from files of the user, or the
landmarks from a detector.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from anchor_jax.data import video
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.face import detect, mask
from anchor_jax.face.landmarks import Size, Track, follow
from anchor_jax.poses.pose_images import (
    EXPECTED,
    LARGEST_ARRAY,
    TABLE,
    LandmarkTable,
    conditions_beside,
    read_table,
)
from anchor_jax.progress import bars
from anchor_jax.shapes import Images


def read_face(
    poses: Path,
    frames: Images,
    landmarks: Path | None = None,
    masks: Path | None = None,
    detector: Path | None = None,
    smoothing: float = 0.0,
    progress: bool = False,
) -> tuple[Track, Bool[np.ndarray, "n h w"] | None]:
    """The face in every pose image, and its region where one is known.

    Args:
        poses: folder or video of the pose images.
        frames: the pose images in it, uint8 (n, h, w, 3), as they are used, resized or not.
        landmarks: a file or conditions folder to read instead of the one beside `poses`.
        masks: a folder to read instead of the one beside the landmarks.
        detector: a folder with a detector's models, to find landmarks where none can be read; by
            default the cache folder's, see `face.detect`.
        smoothing: see `face.landmarks.follow`.
        progress: show a bar while landmarks are found.

    Raises:
        AnchorError: nothing there, not readable, not of these poses, or too few usable faces.
    """
    n, height, width, _ = frames.shape
    source = landmarks or conditions_beside(poses)
    if landmarks is not None or (detector is None and (source / TABLE).is_file()):
        points, visible = read_landmarks(source, (n, height, width), own_size(poses))
        if masks is None and (source / "face").is_dir():
            masks = source / "face"
    else:
        models = detect.find_models(detector)
        if models is None:
            raise AnchorError(
                f"no face landmarks for {poses}: there is no {source / TABLE}; name a file with "
                "--face-landmarks, leave faces as the body model makes them (--no-face), or get "
                f"the detector: {detect.how_to_get()}"
            )
        find = detect.Detector(models).find
        found = []
        with bars(progress)("finding faces", n, "frame") as advance:
            for frame in frames:
                found.append(find(frame))
                advance(1)
        points, visible = np.stack(found), None
    regions = None if masks is None else read_masks(masks, (n, height, width))
    if regions is not None:
        seen = np.repeat(regions.reshape(n, -1).any(1, keepdims=True), 5, 1)
        visible = seen if visible is None else visible & seen
    return follow(points, (width, height), visible, smoothing), regions


def read_landmarks(
    path: Path, shape: tuple[int, int, int], size: Size
) -> tuple[Float[np.ndarray, "n 5 2"], Bool[np.ndarray, "n 5"] | None]:
    """The landmarks in a file, in pixels of the frames as they are used; NaN where missing.

    Args:
        path: `.npz` with "landmarks" (n, 5, 2), perhaps "visible" (n, 5) and "size" (width,
            height), as `render` writes it or a folder with such a `conditions.npz`; or `.json`, a
            list of frames, each five pairs or null, alone or as "landmarks" beside a "size".
        shape: number, height and width of the frames.
        size: width and height that the landmarks are for, where the file does not say.

    Raises:
        AnchorError: not readable, of another number of frames, or not such arrays.
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
            f"{path} has landmarks of {len(table.points)} frames, but there are {shape[0]} pose "
            "images; expected as many"
        )
    width, height = size if table.size is None else table.size
    return table.points * np.array([shape[2] / width, shape[1] / height]), table.visible


def read_masks(folder: Path, shape: tuple[int, int, int]) -> Bool[np.ndarray, "n h w"]:
    """The face's region in every frame, of a folder of grey images: white on the face, or the class
    numbers of a face parser (CelebAMask-HQ, 0 to 18). Resized to the frames, nearest pixel.

    Raises:
        AnchorError: not there, not readable, or of another number of frames.
    """
    if not folder.is_dir():
        raise AnchorError(f"{folder} does not exist; expected a folder of face masks")
    paths = video.list_images(folder)
    if len(paths) != shape[0]:
        raise AnchorError(
            f"{folder} holds {len(paths)} face masks, but there are {shape[0]} pose images; "
            "expected as many"
        )
    regions = np.empty(shape, bool)
    for region, path in zip(regions, paths, strict=True):
        region[...] = _read_mask(path, (shape[2], shape[1]))
    return regions


def own_size(poses: Path) -> Size:
    """Width and height of the pose images on disk."""
    if poses.is_dir() or poses.suffix.lower() in video.IMAGE_SUFFIXES:
        with video.open_picture(video.list_images(poses)[0] if poses.is_dir() else poses) as image:
            return image.size
    height, width, _ = next(video.iter_video(poses))[1].shape
    return width, height


def _read_json(path: Path) -> LandmarkTable:
    try:
        if path.stat().st_size > LARGEST_ARRAY:
            raise ValueError(f"larger than {LARGEST_ARRAY} bytes")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}: not a readable JSON file: {first_line(error)}") from None
    size, frames = None, content
    if isinstance(content, dict):
        frames = content.get("landmarks")
        size = _numbers(path, content["size"]) if "size" in content else None
    if not isinstance(frames, list):
        raise AnchorError(f"{path}: no list of frames; {EXPECTED}")
    points = np.full((len(frames), 5, 2), np.nan)
    for index, frame in enumerate(frames):
        if frame is None:
            continue
        numbers = _numbers(path, frame)
        if numbers.shape != (5, 2):
            raise AnchorError(f"{path}: frame {index + 1} is of shape {numbers.shape}; {EXPECTED}")
        points[index] = numbers
    return LandmarkTable(path, points, size=size)


def _numbers(path: Path, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise ValueError
        return array.astype(np.float64)
    except (ValueError, OverflowError):
        raise AnchorError(f"{path} holds something else than numbers; {EXPECTED}") from None


def _read_mask(path: Path, size: Size) -> np.ndarray:
    from PIL import Image

    with video.open_picture(path) as image:
        if image.mode not in ("L", "P", "1"):  # the numbers of a palette are a parser's classes
            image = image.convert("L")
        pixels = np.asarray(image.resize(size, Image.Resampling.NEAREST), np.uint8)
    if pixels.max() < mask.NUM_CLASSES and image.mode != "1":
        return mask.from_parsing(pixels)
    return pixels > (0 if image.mode == "1" else 127)
