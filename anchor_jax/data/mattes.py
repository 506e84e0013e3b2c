"""Mattes: where the person is in each frame, 255 on the person, soft at the edges.

Three sources: mattes that the user made elsewhere, a green (or blue) screen, and a still camera
before a background that the person uncovers or that was filmed without them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Matting = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From a frame, uint8 (h, w, 3), to its matte, uint8 (h, w), and foreground, uint8 (h, w, 3)."""


def read_mattes(path: Path) -> Iterator[np.ndarray]:
    """The mattes in a folder of images or a video, one by one, uint8 (h, w).

    A picture with transparency gives its alpha channel, any other its brightness.

    Raises:
        AnchorError: nothing there, not readable, or of different sizes.
    """
    raise NotImplementedError


def green_screen(video: Path, key: tuple[int, int, int] | None = None) -> Matting:
    """What makes mattes of a video before a green or blue screen.

    Args:
        video: the frames to find the colour in, at the border of some of them.
        key: the screen's colour, RGB 0-255; by default found.

    Raises:
        AnchorError: no such screen around the person, or a key that is neither green nor blue.
    """
    raise NotImplementedError


def still_camera(video: Path, plate: Path | None = None) -> Matting:
    """What makes mattes of a video from a camera that does not move.

    Args:
        video: the frames to find the background in.
        plate: a picture or video of the scene without the person, which is much better; by
            default the median of the video, right where the person leaves a place for most
            of the time.

    Raises:
        AnchorError: the camera moves, or the plate has another size.
    """
    raise NotImplementedError


def chroma_key(
    frames: np.ndarray, key: tuple[int, int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mattes, uint8 (n, h, w), and foreground, uint8 (n, h, w, 3), of frames before a screen.

    Raises:
        AnchorError: as `green_screen`.
    """
    raise NotImplementedError


def still_background(frames: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Mattes, uint8 (n, h, w), of frames (n, h, w, 3) before the background `plate` (h, w, 3)."""
    raise NotImplementedError


def median_plate(path: Path) -> np.ndarray:
    """The median of a sample of a video's frames, or a picture: uint8 (h, w, 3).

    Raises:
        AnchorError: not readable, or the camera moves.
    """
    raise NotImplementedError


def apply_matte(frames: np.ndarray, mattes: np.ndarray, background: int = 0) -> np.ndarray:
    """Frames, uint8 (n, h, w, 3), with one grey level, 0-255, where the mattes (n, h, w) are 0."""
    alpha = mattes[..., None].astype(np.uint16)
    return ((frames * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)
