"""The upright crop of a face: from five landmarks to a similarity transform and its pixels.

Points here are x, y in pixels counted from the middle of the first pixel, as OpenCV counts.
"""

import numpy as np
from jaxtyping import Float, Num

from anchor_jax.shapes import Images

SIZE = 512  # of the published crop, pixels
# Where left eye, right eye, nose, left and right mouth corner (image-left first) come to lie.
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
FRACTION_BITS = 5  # OpenCV looks between pixels in steps of 1/32
COEFFICIENT_BITS = 10


def template(size: int = SIZE) -> Float[np.ndarray, "5 2"]:
    """The landmarks' places in a crop of `size` pixels: those of the 512 crop, resized."""
    return (TEMPLATE + 0.5) * (size / SIZE) - 0.5


def estimate_transforms(
    landmarks: Num[np.ndarray, "n 5 2"], size: int = SIZE
) -> Float[np.ndarray, "n 2 3"]:
    """The similarity transforms that bring landmarks closest to the template, in the sense of least
    squares (Umeyama 1991, equations 40 to 42).

    In the plane, with points as complex numbers, Umeyama's rotation and scale are the one complex
    factor sum(conj(p) q) / sum(|p|^2) of the centred points p and template q.

    Args:
        landmarks: x, y of left eye, right eye, nose, left and right mouth corner, image-left first.
        size: side of the crop, pixels.

    Returns:
        float64 [rotation and scale | translation]: crop = transform @ (x, y, 1). NaN where the
        landmarks are, or are all one point.
    """
    points = np.asarray(landmarks, np.float64) @ (1, 1j)
    target = template(size) @ np.array([1, 1j])
    centre, target_centre = points.mean(1, keepdims=True), target.mean()
    p, q = points - centre, target - target_centre
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (p.conj() * q).sum(1) / (abs(p) ** 2).sum(1)
        shift = target_centre - factor * centre[:, 0]
    rows = [factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]
    return np.moveaxis(np.array(rows), 2, 0)


def invert(transforms: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, "n 2 3"]:
    """The transforms from crop pixels back to image pixels."""
    matrices = np.linalg.inv(transforms[:, :, :2])
    return np.concatenate([matrices, -matrices @ transforms[:, :, 2:]], 2)


def scales(transforms: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, " n"]:
    """How many pixels of the crop one pixel of the image becomes, along a side."""
    return np.hypot(transforms[:, 0, 0], transforms[:, 1, 0])


def crop(images: Images, transforms: Float[np.ndarray, "n 2 3"], size: int = SIZE) -> Images:
    """Crops uint8 (n, size, size, c) of images uint8 (n, h, w, c): bilinear, black outside."""
    return warp(images, transforms, (size, size))


def warp(
    images: np.ndarray, transforms: Float[np.ndarray, "n 2 3"], size: tuple[int, int]
) -> np.ndarray:
    """Images seen through transforms, bilinear, zero outside: OpenCV's `warpAffine`.

    It computes as OpenCV 4 does, in fixed point and to 1/32 of a pixel, so that uint8 results are
    equal to the published ones.

    Args:
        images: uint8 or float32 (n, h, w) or (n, h, w, c).
        transforms: from pixels of the image to pixels of the result.
        size: width and height of the result.

    Returns:
        (n, size[1], size[0], ...) of the images' type.
    """
    shape = len(images), size[1], size[0], *images.shape[3:]
    out = np.empty(shape, images.dtype)
    for image, back, result in zip(images, invert(transforms), out, strict=True):
        _warp(image, back, result)
    return out


def _warp(image: np.ndarray, back: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (h', w', ...) through `back`, which leads from its pixels to those of `image`."""
    height, width = out.shape[:2]
    x, fraction_x = _places(back[0], height, width)
    y, fraction_y = _places(back[1], height, width)
    image = np.pad(image, [(2, 2), (2, 2), *[(0, 0)] * (image.ndim - 2)])
    x = np.clip(x + 2, 0, image.shape[1] - 2)
    y = np.clip(y + 2, 0, image.shape[0] - 2)
    one = 1 << FRACTION_BITS
    total = np.zeros(out.shape, np.int32 if out.dtype == np.uint8 else np.float32)
    for dy, weight_y in ((0, one - fraction_y), (1, fraction_y)):
        for dx, weight_x in ((0, one - fraction_x), (1, fraction_x)):
            weight = (weight_x * weight_y).reshape(height, width, *[1] * (out.ndim - 2))
            total += image[y + dy, x + dx] * weight.astype(total.dtype)
    if out.dtype == np.uint8:
        out[...] = (total + one * one // 2) // (one * one)
    else:
        out[...] = total / (one * one)


def _places(row: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One coordinate in the image of every pixel (height, width) of the result: whole pixels, and
    32nds of one. Rounded as OpenCV does, for columns and rows apart."""
    unit = 1 << COEFFICIENT_BITS
    columns = np.rint(row[0] * np.arange(width) * unit).astype(np.int64)
    rows = np.rint((row[1] * np.arange(height) + row[2]) * unit).astype(np.int64)
    shift = COEFFICIENT_BITS - FRACTION_BITS
    places = (columns + rows[:, None] + (1 << shift - 1)) >> shift
    return places >> FRACTION_BITS, (places & (1 << FRACTION_BITS) - 1).astype(np.int32)
