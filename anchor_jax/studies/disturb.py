"""Disturb a frame as compression and resizing do, to see how far a detector's answers move."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

_QUALITY = 75  # of JPEG


def disturb(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Make copies of a frame, uint8 (h, w, 3): compressed by JPEG, and resized to half its size and
    back."""
    picture = Image.fromarray(frame)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    yield np.asarray(Image.open(file).convert("RGB"))
    half = picture.resize([max(1, x // 2) for x in picture.size], Image.Resampling.LANCZOS)
    yield np.asarray(half.resize(picture.size, Image.Resampling.BICUBIC))
