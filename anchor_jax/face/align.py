"""Cuts out upright crops of faces: a similarity transform from five landmarks, and a warp.

Points in this file are x, y in OpenCV's pixel coordinates: (0, 0) is the centre of the first pixel.
"""

import numpy as np
from jaxtyping import Float, Num

from anchor_jax.shapes import Images

SIZE = 512  # side of a crop, pixels, as published
# Positions of left eye, right eye, nose, left and right mouth corner (image-left first) in a crop.
_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
_FRACTION_BITS = 5  # OpenCV interpolates in steps of 1/32 pixel
_COEFFICIENT_BITS = 10
_CHANNEL_BITS = 20  # of a channel in an integer of 64 bits, see `_mix_bytes`


def estimate_transforms(landmarks: Num[np.ndarray, "n 5 2"]) -> Float[np.ndarray, "n 2 3"]:
    """Fit the similarity transforms that map landmarks to their positions in a crop.

    Args:
        landmarks: x, y of left eye, right eye, nose, left and right mouth corner, image-left first.

    Returns:
        as `fit_similarities`: crop = transform @ (x, y, 1).

    >>> landmarks = np.array([[[96, 120], [159, 120], [128, 157], [101, 186], [157, 186]]])
    >>> scales(estimate_transforms(landmarks)).round(1)  # an upright face of half the size
    array([2.])
    """
    return fit_similarities(landmarks, _TEMPLATE)


def fit_similarities(
    points: Num[np.ndarray, "n k 2"], targets: Num[np.ndarray, "k 2"]
) -> Float[np.ndarray, "n 2 3"]:
    """Fit the similarity transforms that map each set of points to the targets.

    Least squares, Umeyama 1991, equations 40 to 42, https://doi.org/10.1109/34.88573. In the plane,
    with points as complex numbers, rotation and scale are the complex factor
    sum(conj(p) q) / sum(|p|^2) of the centred points p and targets q.

    Returns:
        float64 [rotation and scale | translation]: target = transform @ (x, y, 1). NaN if a point
        of the set is NaN or all are equal.
    """
    given = np.asarray(points, np.float64) @ (1, 1j)
    target = targets @ np.array([1, 1j])
    centre, target_centre = given.mean(1, keepdims=True), target.mean()
    p, q = given - centre, target - target_centre
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (p.conj() * q).sum(1) / (abs(p) ** 2).sum(1)
        shift = target_centre - factor * centre[:, 0]
    rows = [factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]
    return np.moveaxis(np.array(rows), 2, 0)


def square(
    centre: Float[np.ndarray, "2"], side: float, angle: float, size: int
) -> Float[np.ndarray, "2 3"]:
    """Make the transform from an image to a square crop of a turned square.

    Args:
        centre: x, y of the square.
        side: of the square, image pixels.
        angle: direction of the square's upper side, radians; positive turns x towards y.
        size: side of the crop, pixels.
    """
    factor = complex(np.exp(-1j * angle)) * size / side
    shift = (size - 1) / 2 * (1 + 1j) - factor * complex(*centre)
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )


def invert(transforms: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, "n 2 3"]:
    """Invert transforms, for example to map crop pixels back to image pixels."""
    matrices = np.linalg.inv(transforms[:, :, :2])
    return np.concatenate([matrices, -matrices @ transforms[:, :, 2:]], 2)


def scales(transforms: Float[np.ndarray, "n 2 3"]) -> Float[np.ndarray, " n"]:
    """Scale factors of the transforms: crop pixels per image pixel, along a side."""
    return np.hypot(transforms[:, 0, 0], transforms[:, 1, 0])


def crop(images: Images, transforms: Float[np.ndarray, "n 2 3"]) -> Images:
    """Cut crops uint8 (n, 512, 512, c) from images uint8 (n, h, w, c): bilinear, black outside."""
    return warp(images, transforms, (SIZE, SIZE))


def warp(
    images: np.ndarray, transforms: Float[np.ndarray, "n 2 3"], size: tuple[int, int]
) -> np.ndarray:
    """Warp images by affine transforms: bilinear, zero outside, like OpenCV's `warpAffine`.

    Uses the fixed-point arithmetic of OpenCV 4, with positions rounded to 1/32 pixel, so that uint8
    results equal the published ones.

    Args:
        images: uint8 or float32 (n, h, w) or (n, h, w, c).
        transforms: from image pixels to result pixels.
        size: width and height of the result, pixels.

    Returns:
        (n, size[1], size[0], ...) of the same dtype as `images`.
    """
    shape = len(images), size[1], size[0], *images.shape[3:]
    out = np.empty(shape, images.dtype)
    for image, back, result in zip(images, invert(transforms), out, strict=True):
        _warp(image, back, result)
    return out


def _warp(image: np.ndarray, back: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (h', w', ...). `back` (2, 3) maps its pixels to those of `image`."""
    height, width = out.shape[:2]
    x, fraction_x = _places(back[0], height, width)
    y, fraction_y = _places(back[1], height, width)
    image = np.pad(image, [(2, 2), (2, 2), *[(0, 0)] * (image.ndim - 2)])
    x = np.clip(x + 2, 0, image.shape[1] - 2)
    y = np.clip(y + 2, 0, image.shape[0] - 2)
    one = 1 << _FRACTION_BITS
    weights = [
        [weight_y * weight_x for weight_x in (one - fraction_x, fraction_x)]
        for weight_y in (one - fraction_y, fraction_y)
    ]
    channels = np.prod(out.shape[2:], dtype=int)
    if out.dtype == np.uint8 and channels * _CHANNEL_BITS <= 64:
        _mix_bytes(image.reshape(*image.shape[:2], -1), y, x, weights, out)
        return
    total = np.zeros(out.shape, np.int32 if out.dtype == np.uint8 else np.float32)
    for dy, dx in np.ndindex(2, 2):
        weight = weights[dy][dx].reshape(height, width, *[1] * (out.ndim - 2))
        total += image[y + dy, x + dx] * weight.astype(total.dtype)
    if out.dtype == np.uint8:
        out[...] = (total + one * one // 2) // (one * one)
    else:
        out[...] = total / (one * one)


def _mix_bytes(
    image: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    weights: list[list[np.ndarray]],
    out: np.ndarray,
) -> None:
    """Fill `out`, uint8, with the weighted mean of four neighbours. The sums of all channels of a
    pixel are computed at once, as the digits of one integer of 64 bits: each is below 2^18."""
    shifts = (np.arange(image.shape[2]) * _CHANNEL_BITS).astype(np.uint64)
    pixels = (image.astype(np.uint64) << shifts).sum(2, dtype=np.uint64).ravel()
    first = y * image.shape[1] + x
    bits = 2 * _FRACTION_BITS  # the weights of a pixel add up to 2^bits
    total = np.full(first.shape, (np.uint64(1 << bits - 1) << shifts).sum(dtype=np.uint64))
    for dy, dx in np.ndindex(2, 2):
        neighbours = pixels.take(first + (dy * image.shape[1] + dx))
        total += neighbours * weights[dy][dx].astype(np.uint64)
    levels = out.reshape(*out.shape[:2], -1)
    for channel, shift in enumerate(shifts):
        levels[..., channel] = (total >> (shift + np.uint64(bits))) & np.uint64(255)


def _places(row: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One image coordinate of every pixel (height, width) of the result: whole pixels, and the
    rest in 1/32 pixel. As in OpenCV, the terms of columns and rows are rounded separately."""
    unit = 1 << _COEFFICIENT_BITS
    columns = np.rint(row[0] * np.arange(width) * unit).astype(np.int64)
    rows = np.rint((row[1] * np.arange(height) + row[2]) * unit).astype(np.int64)
    shift = _COEFFICIENT_BITS - _FRACTION_BITS
    places = (columns + rows[:, None] + (1 << shift - 1)) >> shift
    return places >> _FRACTION_BITS, (places & (1 << _FRACTION_BITS) - 1).astype(np.int32)
