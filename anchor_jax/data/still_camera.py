"""Mattes from a camera that does not move: what differs from the scene without the person."""

from pathlib import Path

import numpy as np

from anchor_jax.data.mattes import Matting, border, edge_reach, sample_frames, soften
from anchor_jax.data.video import IMAGE_SUFFIXES, read_image
from anchor_jax.errors import AnchorError

MOVED = 12  # grey levels that the scene's border may vary by
MOVING = 0.3  # of the border's pixels that vary more: then the camera moves
SHADOW = 0.75  # of the light that is left in the darkest shadow, which belongs to the background
SURE, LIKELY = 9.0, 4.0  # differences in units of the noise: a person has some of the first
SMALL = 1 / 500  # of the frame: smaller islands and holes are removed


def still_camera(video: Path, plate: Path | None = None) -> Matting:
    """What makes mattes of a video from a camera that does not move.

    Args:
        video: the frames to find the background in.
        plate: a picture or video of the scene without the person, which is much better; by
            default the median of the video, right only where the person leaves a place for most
            of the time.

    Raises:
        AnchorError: the camera moves, or the plate has another size.
    """
    scene = median_plate(plate or video)
    samples = sample_frames(video, 16)
    if samples.shape[1:] != scene.shape:
        raise AnchorError(
            f"the plate {plate} is {scene.shape[1]}x{scene.shape[0]} and {video} "
            f"{samples.shape[2]}x{samples.shape[1]}; expected one size"
        )
    _check_still(samples, scene, video, plate)
    return lambda frame: (_matte(frame, scene), frame)


def still_background(frames: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Mattes, uint8 (n, h, w), of frames before a known background.

    Flicker (the light of the whole picture going up and down) is taken out, and where a pixel is
    darker than the background but has its colour, it is taken for a shadow.

    Args:
        frames: uint8 (n, h, w, 3).
        plate: the scene without the person, uint8 (h, w, 3).
    """
    return np.stack([_matte(frame, plate) for frame in frames])


def median_plate(path: Path) -> np.ndarray:
    """The median of a sample of a video's frames, or a picture: uint8 (h, w, 3).

    Raises:
        AnchorError: not readable.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)
    frames = sample_frames(path)
    rows = (np.median(frames[:, row : row + 32], axis=0) for row in range(0, frames.shape[1], 32))
    return np.rint(np.concatenate(list(rows))).astype(np.uint8)


def _check_still(samples: np.ndarray, scene: np.ndarray, video: Path, plate: Path | None) -> None:
    edge = border(*scene.shape[:2])
    away = np.stack(
        [
            np.abs(pixels[edge] - _relit(scene.astype(np.float32), pixels.astype(np.float32))[edge])
            for pixels in samples
        ]
    ).mean(-1)
    moving = float((np.median(away, axis=0) > MOVED).mean())
    if moving > MOVING:
        raise AnchorError(
            f"the background of {video} does not hold still: {moving:.0%} of the border differs "
            f"from {plate or 'its median'}, expected at most {MOVING:.0%}; a camera that moves "
            "needs mattes made by another tool"
        )


def _relit(scene: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The background under the light of one frame: each channel scaled by what its border says."""
    edge = border(*scene.shape[:2])
    ratio = np.maximum(pixels[edge], 1) / np.maximum(scene[edge], 1)
    gain = np.median(ratio, axis=0)
    near = np.abs(ratio - gain) < 0.1
    gain = np.array([np.median(ratio[near[:, c], c]) if near[:, c].any() else 1 for c in range(3)])
    return scene * np.clip(gain, 0.5, 2).astype(np.float32)


def _difference(pixels: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background, in units of the noise, shadows forgiven."""
    from scipy import ndimage

    sigma = edge_reach(*scene.shape[:2]) / 3
    pixels, scene = (ndimage.gaussian_filter(p, (sigma, sigma, 0)) for p in (pixels, scene))
    power = np.maximum(np.square(scene).sum(-1), 1)
    light = (pixels * scene).sum(-1) / power
    colour = np.linalg.norm(pixels - light[..., None] * scene, axis=-1)
    beyond = np.maximum(light - 1, np.maximum(SHADOW - light, 0)) * np.sqrt(power)
    away = np.hypot(colour, beyond)
    noise = np.quantile(np.linalg.norm(pixels - scene, axis=-1), 0.2)
    return away / max(noise, 1.5)


def _matte(frame: np.ndarray, plate: np.ndarray) -> np.ndarray:
    pixels = frame.astype(np.float32)
    scene = _relit(plate.astype(np.float32), pixels)
    matte = soften(pixels, scene, _person(_difference(pixels, scene)))
    return np.rint(matte * 255).astype(np.uint8)


def _person(difference: np.ndarray) -> np.ndarray:
    """Where the person is: large connected places with a sure core, gaps and small holes filled."""
    from scipy import ndimage

    reach = edge_reach(*difference.shape)
    likely = ndimage.binary_closing(difference > LIKELY, iterations=reach)
    likely = ndimage.binary_opening(likely, iterations=max(1, reach // 2))
    small = SMALL * difference.size
    labels, sizes = _places(likely)
    strongest = ndimage.maximum(difference, labels, np.arange(len(sizes)))
    person = ((sizes > small) & (strongest > SURE))[labels] & likely
    holes, sizes = _places(~person)
    return person | (sizes < small)[holes]


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected places of a mask, int (h, w), and the pixels in each, all others being 0."""
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels, np.bincount(labels.ravel())
