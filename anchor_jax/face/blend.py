"""Pastes repainted crops back into their frames."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from anchor_jax.face.align import invert, warp
from anchor_jax.shapes import Images

_FRAME_SIDE = 512  # pixels; the published widths below are for frames of this size
_EROSION, _BLUR = 40, 41  # widths, pixels
_THRESHOLD = 20  # grey levels
_REGION_BLUR = 20.0  # standard deviation, pixels of a 512 crop


def paste(
    frames: Images,
    crops: Images,
    transforms: Float[np.ndarray, "n 2 3"],
    faces: Bool[np.ndarray, "n size size"] | None = None,
) -> Images:
    """Blend crops into the frames that they were cut from.

    As published: the crop and a white square are warped back by the inverse transform. The square,
    eroded and blurred, is the weight of the crop. The blended values are truncated, not rounded.
    Deviation: the published widths of erosion and blur are for frames of 512 pixels; here they are
    proportional to the shorter side of the frame.

    Args:
        frames: uint8 (n, h, w, 3).
        crops: uint8 (n, size, size, 3), repainted.
        transforms: from frame to crop.
        faces: if given, only this region of the crop is pasted, with a soft edge. This option is
            not in the published code.

    Returns:
        uint8 (n, h, w, 3).
    """
    if faces is None:
        return np.stack([_paste(*each) for each in zip(frames, crops, transforms, strict=True)])
    every = zip(frames, crops, transforms, faces, strict=True)
    return np.stack([_paste(*each) for each in every])


def _square_weight(
    transform: Float[np.ndarray, "2 3"], crop_size: int, frame_size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """The weight of a crop at each pixel of its frame, float32 in [0, 1].

    Args:
        transform: from frame to crop.
        crop_size: side of the crop, pixels.
        frame_size: width and height of the frame, pixels.
    """
    square = np.full((1, crop_size, crop_size), 255, np.float32)
    square = warp(square, invert(transform[None]), frame_size)[0]
    square[square > _THRESHOLD] = 255
    relative = min(frame_size) / _FRAME_SIDE
    # White outside the frame: the frame's border does not erode the square.
    erosion = max(round(_EROSION * relative), 1)
    eroded = ndimage.minimum_filter(square, erosion, mode="constant", cval=255)
    kernel = _gaussian(2 * round((_BLUR - 1) / 2 * relative) + 1)
    for axis in (0, 1):
        eroded = ndimage.correlate1d(eroded, kernel, axis, mode="mirror")
    return eroded / 255


def _gaussian(width: int) -> Float[np.ndarray, " k"]:
    """A Gaussian kernel of `width` taps with sum 1 and OpenCV's default standard deviation."""
    sigma = 0.3 * ((width - 1) * 0.5 - 1) + 0.8
    taps = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * sigma**2))
    return taps / taps.sum()


def _paste(
    frame: np.ndarray, crop: np.ndarray, transform: np.ndarray, face: np.ndarray | None = None
) -> np.ndarray:
    size = frame.shape[1], frame.shape[0]
    weight = _square_weight(transform, len(crop), size)
    back = invert(transform[None])
    if face is not None:
        soft = ndimage.gaussian_filter(face.astype(np.float32), _REGION_BLUR * len(face) / 512)
        weight = weight * warp(soft[None], back, size)[0]
    pasted = warp((crop.astype(np.float32) / 255)[None], back, size)[0]
    weight = weight[..., None]
    blended = weight * pasted + (1 - weight) * (frame.astype(np.float32) / 255)
    return (blended * 255).astype(np.uint8)
