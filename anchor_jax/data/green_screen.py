"""Mattes from a green or blue screen: how much more of the screen's colour a pixel has."""

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

Colour = tuple[int, int, int]

CHANNELS = {"green": 1, "blue": 2}
EXCESS = 24  # of the screen's channel over the other two, grey levels, in the darkest corner
LEAST = 0.4  # of a pixel that the person has to fill for an edge to be looked for there
COVERED = 0.4  # of the border of the frames that a screen has to fill


def green_screen(video: Path, key: Colour | None = None) -> Matting:
    """What makes mattes of a video before a green or blue screen.

    Args:
        video: the frames to find the colour in, at the border of some of them.
        key: a colour of the screen, RGB 0-255; it tells green from blue, the screen's shade is
            found in each frame. By default the border of the frames tells.

    Raises:
        AnchorError: no such screen around the person, or a key that is neither green nor blue.
    """
    channel = _check_key(key) if key else _find_screen(sample_frames(video, 16), str(video))
    return lambda frame: _key_out(frame, channel)


def chroma_key(frames: np.ndarray, key: Colour | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mattes and foregrounds of frames before a green or blue screen.

    The light may be uneven: what the screen looks like behind the person is carried in from
    around. In the foreground the screen's part of mixed pixels is taken out, and nowhere is the
    screen's channel stronger than the stronger of the other two: that removes the light that
    the screen throws on the person. Green clothes turn grey and may get holes.

    Args:
        frames: uint8 (n, h, w, 3).
        key: as for `green_screen`.

    Returns:
        mattes, uint8 (n, h, w), and foregrounds, uint8 (n, h, w, 3).

    Raises:
        AnchorError: as `green_screen`.
    """
    channel = _check_key(key) if key else _find_screen(frames, "the frames")
    mattes, foregrounds = zip(*(_key_out(frame, channel) for frame in frames), strict=True)
    return np.stack(mattes), np.stack(foregrounds)


def _check_key(key: Colour) -> int:
    """The channel of a screen of this colour."""
    for channel in CHANNELS.values():
        if _excess(np.array([key], np.float32), channel)[0] >= EXCESS:
            return channel
    raise AnchorError(
        f"the key {','.join(map(str, key))} is neither green nor blue; expected red,green,blue "
        f"with green or blue at least {EXCESS} over the other two, such as 0,177,64"
    )


def _find_screen(frames: np.ndarray, where: str) -> int:
    edge = frames[:, border(*frames.shape[1:3])].astype(np.float32)
    shares = {
        name: float((_excess(edge, channel) >= EXCESS).mean()) for name, channel in CHANNELS.items()
    }
    name = max(shares, key=shares.__getitem__)
    if shares[name] < COVERED:
        raise AnchorError(
            f"no green or blue screen in {where}: {shares[name]:.0%} of the border is {name}, "
            f"expected at least {COVERED:.0%}; crop the video to the screen, give the key colour, "
            "or use another source of mattes"
        )
    return CHANNELS[name]


def _excess(pixels: np.ndarray, channel: int) -> np.ndarray:
    others = [c for c in range(3) if c != channel]
    return pixels[..., channel] - np.maximum(pixels[..., others[0]], pixels[..., others[1]])


def _key_out(frame: np.ndarray, channel: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage

    pixels = frame.astype(np.float32)
    excess = _excess(ndimage.gaussian_filter(pixels, (0.7, 0.7, 0)), channel)
    full = np.quantile(excess, 0.9)  # the screen's own, roughly
    screen = excess > max(0.6 * full, EXCESS)
    reach = edge_reach(*screen.shape)
    plain = ndimage.binary_erosion(screen, iterations=max(1, reach // 2), border_value=1)
    background = spread(pixels, plain, 4 * reach)
    screen_excess = _excess(background, channel)
    inside = 1 - excess / np.maximum(screen_excess, 1) > LEAST
    near, sizes = find_places(ndimage.binary_dilation(inside, iterations=2 * reach))
    sizes[0] = 0  # the screen
    inside &= (sizes > ISLAND * sizes.max())[near]
    by_colour = soften(pixels, background, inside)
    by_excess = soften(_excess(pixels, channel)[..., None], screen_excess[..., None], inside)
    matte = np.maximum(by_colour, by_excess)
    person = unmix(pixels, background, matte)
    person[..., channel] -= np.maximum(_excess(person, channel), 0)  # the spill
    return to_bytes(matte * 255), to_bytes(person)
