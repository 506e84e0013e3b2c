"""Mattes from a green or blue screen, by the excess of the screen's colour in each pixel."""

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
    spread,
    to_bytes,
    unmix,
)
from anchor_jax.errors import AnchorError

_Colour = tuple[int, int, int]  # RGB, 0-255

CHANNELS = {"green": 1, "blue": 2}
EXCESS = 24  # grey levels of the screen's channel above the other two, in the darkest corner
LEAST = 0.4  # a pixel is inside if the person covers a larger share of it
COVERED = 0.4  # a screen fills at least this share of the frames' border


def green_screen(video: Path, key: _Colour | None = None) -> Matting:
    """Make a function that computes mattes of a video before a green or blue screen.

    The light may be uneven: the screen's colour behind the person is interpolated from around it.
    In the foreground, the screen's part of mixed pixels is subtracted, and the screen's channel is
    limited to the stronger of the other two, which removes the light that the screen throws on the
    person. Green clothes turn grey and may get holes.

    Args:
        video: the video; the screen's channel is found at the border of some of its frames.
        key: a colour of the screen, RGB 0-255, which says only whether it is green or blue; the
            shade is measured in each frame. Default: found in the video.

    Raises:
        AnchorError: no such screen surrounds the person, or the key is neither green nor blue.
    """
    channel = _screen_channel(key) if key else _find_screen(sample_frames(video, 16), str(video))
    return lambda frame: _key_out(frame, channel)


def _screen_channel(key: _Colour) -> int:
    """Return the channel, green or blue, of a screen of this colour."""
    for channel in CHANNELS.values():
        if _excess(np.array([key], np.float32), channel)[0] >= EXCESS:
            return channel
    raise AnchorError(
        f"the key {','.join(map(str, key))} is neither green nor blue; expected red,green,blue "
        f"with green or blue at least {EXCESS} over the other two, such as 0,177,64"
    )


def _find_screen(frames: np.ndarray, where: str) -> int:
    """Find the channel of the screen at the border of frames, uint8 (n, h, w, 3)."""
    edge = frames[:, border(*frames.shape[1:3])].astype(np.float32)
    shares = {
        name: float((_excess(edge, channel) >= EXCESS).mean()) for name, channel in CHANNELS.items()
    }
    name = max(shares, key=shares.__getitem__)
    if shares[name] < COVERED:
        raise AnchorError(
            f"no green or blue screen in {where}: {shares[name]:.0%} of the border is {name}, "
            f"expected at least {COVERED:.0%}; crop the video to the screen, give the key colour, "
            "or use mattes of another source"
        )
    return CHANNELS[name]


def _excess(pixels: np.ndarray, channel: int) -> np.ndarray:
    """Compute how far a channel is above the stronger of the other two."""
    others = [c for c in range(3) if c != channel]
    return pixels[..., channel] - np.maximum(pixels[..., others[0]], pixels[..., others[1]])


def _key_out(frame: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the matte, uint8 (h, w), and foreground, uint8 (h, w, 3), of a frame."""
    from scipy import ndimage

    pixels = frame.astype(np.float32)
    excess = _excess(ndimage.gaussian_filter(pixels, (0.7, 0.7, 0)), channel)
    full = np.quantile(excess, 0.9)  # roughly the excess of the screen
    screen = excess > max(0.6 * full, EXCESS)
    reach = edge_reach(*screen.shape)
    plain = ndimage.binary_erosion(screen, iterations=max(1, reach // 2), border_value=1)
    background = spread(pixels, plain, 4 * reach)
    screen_excess = _excess(background, channel)
    inside = 1 - excess / np.maximum(screen_excess, 1) > LEAST
    near, sizes = find_places(ndimage.binary_dilation(inside, iterations=2 * reach))
    sizes[0] = 0  # the screen is no island
    inside &= (sizes > ISLAND * sizes.max())[near]
    by_colour = soften(pixels, background, inside)
    by_excess = soften(_excess(pixels, channel)[..., None], screen_excess[..., None], inside)
    matte = np.maximum(by_colour, by_excess)
    person = unmix(pixels, background, matte)
    person[..., channel] -= np.maximum(_excess(person, channel), 0)  # remove the spill
    return to_bytes(matte * 255), to_bytes(person)
