"""Cut faces out of frames and paste them back, with threads; see `face.align` and `face.blend`."""

from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image
from scipy import ndimage

from anchor_jax.face import align, blend, mask
from anchor_jax.shapes import Images
from anchor_jax.threads import map_rows

_LANCZOS = Image.Resampling.LANCZOS


@runtime_checkable
class Masks(Protocol):
    """The face regions of frames: an array, or a folder that is read as it is needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number, height and width of the frames."""
        ...

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        """Return the regions of frames (from 0): bool (k, h, w), True on the face."""
        ...


def paste_faces(
    frames: Images, crops: Images, transforms: np.ndarray, inside: np.ndarray | None = None
) -> Images:
    """Paste square crops (k, size, size, 3) of any size into frames, with threads.

    Args:
        frames: uint8 (k, h, w, 3).
        crops: repainted faces, uint8.
        transforms: from frames to crops, (k, 2, 3).
        inside: the region of each crop that is pasted, bool (k, 512, 512); None: the whole crop.
    """

    def one(row: tuple[np.ndarray, ...]) -> np.ndarray:
        frame, crop, transform, *region = row
        return blend.paste(frame, resize_squares(crop, align.SIZE), transform, *region)[0]

    columns = [frames, crops, transforms] if inside is None else [frames, crops, transforms, inside]
    return np.stack(map_rows(one, zip(*(x[:, None] for x in columns), strict=True)))


def face_regions(masks: Masks | None, numbers: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Return the face region in the crops of frames with these numbers, bool (k, 512, 512)."""
    if masks is None:
        return np.broadcast_to(mask.oval(), (len(numbers), align.SIZE, align.SIZE))
    return mask.from_renders(masks[numbers], transforms)


def resize_squares(images: Images, size: int) -> Images:
    """Resize square images (k, h, h, 3) to `size`: Lanczos to shrink, bilinear to enlarge."""
    side = images.shape[1]
    if side == size:
        return images
    if size < side:
        pictures = [Image.fromarray(i).resize((size, size), _LANCZOS) for i in images]
        return np.stack([np.asarray(picture) for picture in pictures])
    return np.stack([squash(image, size) for image in images])


def squash(image: Images, size: int) -> Images:
    """Resize a picture to a square without keeping its proportions.

    The result equals OpenCV's bilinear interpolation: two neighbours in each direction, without
    antialiasing, rounded once at the end. Pillow's result differs.

    Args:
        image: uint8 (h, w, 3).
        size: side of the square in pixels.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    factors = size / height, size / width, 1
    values = ndimage.zoom(
        image.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True
    )
    return np.floor(np.asarray(values) + 0.5).astype(np.uint8)


def shrink(masks: np.ndarray, size: int) -> np.ndarray:
    """Resize square masks (k, h, h, 1) to `size` by the nearest pixel."""
    indices = np.arange(size) * masks.shape[1] // size
    return masks[:, indices[:, None], indices]
