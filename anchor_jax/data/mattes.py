"""Mattes: the share of the person in each pixel, from 0 to 255.

There are three sources: mattes that the user made elsewhere (`read_mattes`), a green or blue screen
(`green_screen`), and a still camera before a known background (`still_camera`). The latter two find
the region of the person in different ways, and both give it a soft edge with `soften`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from anchor_jax.data.pictures import list_images, open_picture
from anchor_jax.data.video import iter_video
from anchor_jax.errors import AnchorError

Matting = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Computes matte, uint8 (h, w), and foreground, uint8 (h, w, 3), of a frame, uint8 (h, w, 3)."""

SAMPLES = 32  # a background is computed from at most this many frames of a video
ISLAND = 0.03  # regions below this share of the largest are removed, such as people in the back
EDGE = 1 / 160  # half the width of a soft edge, as a share of the frame's shorter side
FLOOR, CEILING = 0.06, 0.94  # mattes below become 0 and above become 1: noise of the camera


def read_mattes(path: Path) -> Iterator[np.ndarray]:
    """Read the mattes in a folder of images or in a video one by one, uint8 (h, w).

    A matte is the alpha channel of an image that has one, else its brightness.

    Raises:
        AnchorError: the path does not exist or cannot be read, or sizes differ.
    """
    if not path.is_dir():
        for _, pixels in iter_video(path):
            yield to_bytes(pixels @ np.array([0.299, 0.587, 0.114], np.float32))
        return
    first = None
    for name in list_images(path):
        matte = _read_matte(name)
        first = first or matte.shape
        if matte.shape != first:
            raise AnchorError(
                f"the mattes in {path} differ in size: the first is {first[1]}x{first[0]} and "
                f"{name.name} is {matte.shape[1]}x{matte.shape[0]}; expected one size"
            )
        yield matte


def apply_matte(frames: np.ndarray, mattes: np.ndarray, background: int = 0) -> np.ndarray:
    """Blend frames, uint8 (n, h, w, 3), by mattes, uint8 (n, h, w), with one grey level, 0-255."""
    alpha = mattes[..., None].astype(np.uint16)
    return ((frames * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def sample_frames(video: Path, count: int = SAMPLES) -> np.ndarray:
    """Read `count` / 2 to `count` frames spread over a whole video; all frames of a short one."""
    kept, stride = [], 1
    for number, (_, pixels) in enumerate(iter_video(video)):
        if number % stride:
            continue
        if len(kept) == count:
            kept, stride = kept[::2], 2 * stride
            if number % stride:
                continue
        kept.append(pixels)
    return np.stack(kept)


def border(height: int, width: int) -> np.ndarray:
    """Mark the pixels that should show the background, bool (h, w): the top and the upper sides."""
    mask = np.zeros((height, width), bool)
    side = max(1, width // 16)
    mask[: max(1, height // 16)] = True
    mask[: height * 2 // 3, :side] = mask[: height * 2 // 3, -side:] = True
    return mask


def soften(frame: np.ndarray, background: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Compute a matte, float32 (h, w) in [0, 1], with a soft edge along the edge of `inside`.

    It is 1 deep inside and 0 far outside. In between, the pixel I is a mix of the background's
    colour B and the person's colour F, which is taken from the nearest pixels deep inside. There
    the matte is (I - B)(F - B) / |F - B|^2, or a smooth step where B and F are nearly equal.

    Args:
        frame: float32 (h, w, 3), 0-255.
        background: the scene without the person, like `frame`.
        inside: bool (h, w), the person.
    """
    from scipy import ndimage

    reach = edge_reach(*inside.shape)
    step = ndimage.gaussian_filter(inside.astype(np.float32), reach / 3)
    core = np.asarray(ndimage.binary_erosion(inside, iterations=reach, border_value=1), bool)
    band = np.asarray(ndimage.binary_dilation(inside, iterations=reach)) & ~core
    near = ndimage.binary_erosion(inside, iterations=max(1, reach // 2), border_value=1)
    person = spread(frame, near, 2 * reach)[band] - background[band]
    pixel = frame[band] - background[band]
    contrast = np.square(person).sum(-1)
    mix = (pixel * person).sum(-1) / np.maximum(contrast, 1)
    trust = contrast / (contrast + 30**2)
    matte = core.astype(np.float32)
    matte[band] = np.clip(trust * mix + (1 - trust) * step[band], 0, 1)
    return np.clip((matte - FLOOR) / (CEILING - FLOOR), 0, 1)


def unmix(frame: np.ndarray, background: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """Subtract the background from mixed pixels: the person's colours, float32 (h, w, 3).

    Where the matte is at most 0.1, the frame is kept.
    """
    alpha = matte[..., None]
    person = (frame - (1 - alpha) * background) / np.maximum(alpha, 0.1)
    return np.where(alpha > 0.1, person, frame).clip(0, 255)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Round to uint8."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def spread(picture: np.ndarray, where: np.ndarray, sigma: int) -> np.ndarray:
    """Blur the known pixels of a picture into all others: float32 (h, w, c).

    Args:
        picture: float32 (h, w, c).
        where: bool (h, w), the known pixels.
        sigma: of the Gaussian weights, pixels; far from all known pixels a wider one is used.
    """
    from PIL import Image
    from scipy import ndimage

    step = max(1, sigma // 2)
    (height, width), channels = where.shape, picture.shape[2]
    known = where[..., None].astype(np.float32)
    sums = _sum_blocks(np.concatenate([picture * known, known], -1), step)
    blurred = sums.mean((0, 1)) * 1e-6
    for wider, weight in ((1, 1), (4, 1e-2), (16, 1e-4)):
        sigmas = (wider * sigma / step, wider * sigma / step, 0)
        blurred = blurred + weight * ndimage.gaussian_filter(sums, sigmas)
    small = (blurred[..., :channels] / np.maximum(blurred[..., channels:], 1e-12)).astype("f4")
    box = (0, 0, width / step, height / step)
    planes = [
        Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BILINEAR, box)
        for c in range(channels)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def find_places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the connected regions of a mask, int (h, w), 0 outside, and count their pixels."""
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels, np.bincount(labels.ravel())


def edge_reach(height: int, width: int) -> int:
    """Return half the width of a soft edge in frames of this size, pixels."""
    return max(2, round(EDGE * min(height, width)))


def _sum_blocks(picture: np.ndarray, step: int) -> np.ndarray:
    """Sum the pixels of each block of `step` x `step`."""
    height, width = picture.shape[:2]
    rows = np.add.reduceat(picture, np.arange(0, height, step), axis=0)
    return np.add.reduceat(rows, np.arange(0, width, step), axis=1)


def _read_matte(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA").getchannel("A"))
        return np.asarray(image.convert("L"))
