"""How a player turns and mirrors the frames of a video."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anchor_jax.errors import AnchorError
from anchor_jax.shapes import Size

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

FIXED_POINT = 1 << 16  # what stands for 1 in a display matrix
INEXACT = 0.01  # by which entries of a display matrix may miss 0 and 1


@dataclass(frozen=True)
class Orientation:
    """How a player shows a picture: first transposed, then mirrored. These are the eight ways of
    turning by quarters and mirroring."""

    transposed: bool = False
    mirrored: bool = False  # left to right
    flipped: bool = False  # top to bottom

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn and mirror a stored picture (h, w, 3) as it is shown."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        shown = pixels[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]
        return np.ascontiguousarray(shown)

    def size_of(self, frame: "VideoFrame") -> Size:
        """Return the width and height at which a stored frame is shown."""
        return (frame.height, frame.width) if self.transposed else (frame.width, frame.height)


def read_orientation(frame: "VideoFrame", name: str) -> Orientation:
    """Read how a frame is shown from its display matrix (a, b, u, c, d, v, x, y, w), which shows
    the stored point (x, y) at (a x + c y, b x + d y). As in players, offsets and u, v, w are left
    out, and a matrix of zeros changes nothing.

    Raises:
        AnchorError: the matrix does more than turn by quarters and mirror.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = (float(x) / FIXED_POINT for x in np.frombuffer(bytes(matrix), np.int32))
    if not any((a, b, c, d)):
        return Orientation()
    transposed = abs(b) > abs(a)
    kept, left_out = ((c, b), (a, d)) if transposed else ((a, d), (b, c))
    if any(abs(abs(x) - 1) > INEXACT for x in kept) or any(abs(x) > INEXACT for x in left_out):
        raise AnchorError(
            f"{name} is shown by a display matrix ({a:.3g} {b:.3g}; {c:.3g} {d:.3g}) that does more"
            " than turn by quarters and mirror; convert it anew, for example with ffmpeg"
        )
    return Orientation(transposed, mirrored=kept[0] < 0, flipped=kept[1] < 0)
