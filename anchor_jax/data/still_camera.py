"""Mattes from a still camera, by the difference to the scene without the person."""

from pathlib import Path

import numpy as np

from anchor_jax.data.mattes import (
    ISLAND,
    Matting,
    border,
    edge_reach,
    find_places,
    sample_frames,
    soften,
    to_bytes,
    unmix,
)
from anchor_jax.data.pictures import IMAGE_SUFFIXES, read_image
from anchor_jax.errors import AnchorError

MOVED = 12  # grey levels by which a pixel of the border may vary
MOVING = 0.3  # the camera moves if more than this share of the border varies
SHADOW = 0.75  # a pixel with less than this share of the light is no shadow, but the person
# Differences in units of the noise. A region of the person is above LIKELY, and has a pixel above
# SURE.
SURE, LIKELY = 12.0, 6.0
QUIET = 3.0  # grey levels: the least noise assumed; compression adds to what is measured
SMALL = 1 / 500  # islands below this share of the frame are removed, and such holes filled
PRESENT = 0.12  # a person fills at least this share of the frame


def still_camera(video: Path, plate: Path | None = None) -> Matting:
    """Make a function that computes mattes of a video from a camera that does not move.

    Changes of the light of the whole picture are compensated. A pixel that is darker than the
    background but has the same colour is taken for a shadow.

    Args:
        video: the video.
        plate: a picture or video of the scene without the person. Default: the median of the video,
            which is much worse and is the background only where the person is absent for most of
            the time.

    Raises:
        AnchorError: the camera moves, the plate has another size, or the median shows the person.
    """
    scene = median_plate(plate or video)
    samples = sample_frames(video, 16)
    if samples.shape[1:] != scene.shape:
        raise AnchorError(
            f"the plate {plate} is {scene.shape[1]}x{scene.shape[0]} and {video} "
            f"{samples.shape[2]}x{samples.shape[1]}; expected one size"
        )
    _check_still(samples, scene, video, plate)
    if plate is None:
        _check_empty(samples, scene, video)
    return lambda frame: _cut_out(frame, scene)


def still_background(frames: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Compute mattes, uint8 (n, h, w), of frames before a known background.

    Flicker, a change of the light of the whole picture, is compensated. A pixel that is darker than
    the background but has the same colour is taken for a shadow.

    Args:
        frames: uint8 (n, h, w, 3).
        plate: the scene without the person, uint8 (h, w, 3).
    """
    return np.stack([_cut_out(frame, plate)[0] for frame in frames])


def median_plate(path: Path) -> np.ndarray:
    """Read a picture, or compute the median of sampled frames of a video: uint8 (h, w, 3).

    Raises:
        AnchorError: it cannot be read.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)
    frames = sample_frames(path)
    rows = (np.median(frames[:, row : row + 32], axis=0) for row in range(0, frames.shape[1], 32))
    return to_bytes(np.concatenate(list(rows)))


def _check_still(samples: np.ndarray, scene: np.ndarray, video: Path, plate: Path | None) -> None:
    """Refuse a camera that moves: then the border of the frames differs from the background."""
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
            f"the background of {video} moves: {moving:.0%} of the border differs "
            f"from {plate or 'its median'}, expected at most {MOVING:.0%}; a camera that moves "
            "needs mattes made by another tool (--mattes)"
        )


def _check_empty(samples: np.ndarray, scene: np.ndarray, video: Path) -> None:
    """Refuse a background that shows the person: then little of each frame differs from it."""
    shares = np.array([(matte > 127).mean() for matte in still_background(samples, scene)])
    share = float(np.median(shares[shares > 0])) if shares.any() else 0.0
    if share < PRESENT:
        raise AnchorError(
            f"the median of {video} shows the person, who hardly leaves their place: only "
            f"{share:.0%} of a frame differs from it, expected at least {PRESENT:.0%}; film the "
            "scene without the person and give that (--plate), or make mattes with another tool "
            "(--mattes)"
        )


def _relit(scene: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Adapt the background to the light of one frame: scale each channel so that borders match."""
    edge = border(*scene.shape[:2])
    ratio = np.maximum(pixels[edge], 1) / np.maximum(scene[edge], 1)
    gain = np.median(ratio, axis=0)
    near = np.abs(ratio - gain) < 0.1
    gain = np.array([np.median(ratio[near[:, c], c]) if near[:, c].any() else 1 for c in range(3)])
    return scene * np.clip(gain, 0.5, 2).astype(np.float32)


def _differences(pixels: np.ndarray, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the difference of each pixel to the background in units of the noise: once with
    shadows ignored, and once with shadows counted."""
    from scipy import ndimage

    sigma = edge_reach(*scene.shape[:2]) / 3
    pixels, scene = (ndimage.gaussian_filter(p, (sigma, sigma, 0)) for p in (pixels, scene))
    power = np.maximum(np.square(scene).sum(-1), 1)
    light = (pixels * scene).sum(-1) / power
    colour = np.linalg.norm(pixels - light[..., None] * scene, axis=-1)
    beyond = np.maximum(light - 1, np.maximum(SHADOW - light, 0)) * np.sqrt(power)
    away = np.hypot(colour, beyond)
    plain = np.linalg.norm(pixels - scene, axis=-1)
    noise = max(float(np.quantile(plain, 0.2)), QUIET)
    return away / noise, plain / noise


def _cut_out(frame: np.ndarray, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the matte, uint8 (h, w), and foreground, uint8 (h, w, 3), of a frame."""
    pixels = frame.astype(np.float32)
    scene = _relit(plate.astype(np.float32), pixels)
    matte = soften(pixels, scene, _person(*_differences(pixels, scene)))
    return to_bytes(matte * 255), to_bytes(unmix(pixels, scene, matte))


def _person(difference: np.ndarray, unforgiven: np.ndarray) -> np.ndarray:
    """Find the person, bool (h, w): large connected regions with at least one pixel above `SURE`.
    Holes belong to the person, unless they show the background in full light, as between the arms.
    """
    from scipy import ndimage

    reach = edge_reach(*difference.shape)
    width = max(1, reach // 3)
    likely = _opened(~_opened(difference <= LIKELY, width), width)
    labels, sizes = find_places(likely)
    if len(sizes) < 2:
        return likely
    sizes[0] = 0  # the background: all pixels that are not above `LIKELY`
    strongest = ndimage.maximum(difference, labels, np.arange(len(sizes)))
    least = max(SMALL * difference.size, ISLAND * sizes.max())
    person = ((sizes > least) & (strongest > SURE))[labels]
    holes, sizes = find_places(~person)
    away = ndimage.median(unforgiven, holes, np.arange(len(sizes)))
    touching = np.zeros(len(sizes), bool)
    touching[np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]])] = True
    background = touching | ((sizes > SMALL * difference.size) & (away < LIKELY))
    return person | ~background[holes]


def _opened(mask: np.ndarray, size: int) -> np.ndarray:
    """Remove parts of a mask that are thinner than twice `size`. The mask is assumed to continue
    outside the frame."""
    from scipy import ndimage

    kept = ndimage.binary_erosion(mask, iterations=size, border_value=1)
    return np.asarray(ndimage.binary_dilation(kept, iterations=size, mask=mask), bool)
