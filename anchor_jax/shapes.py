"""Axis letters and array aliases, the same in every module.

    b  batch (with classifier-free guidance: the unconditional and the conditional half)
    f  frames in a window          n  frames in a video
    h  height    w  width          c  channels (always last)
    s  tokens (queries)            t  tokens (keys)
    m  attention heads             d  head width
    r  rows of latents: b, or one row that all b rows of the context share
    p  rows of pose images: as many as rows of latents, or one for all
    o  channels of the output      k  channels of the mask and the masked image

A module that uses a letter for something else says so.

Images are RGB. Callers of the library pass and receive uint8 in [0, 255]. Inside, pose images are
float in [0, 1], and the images of the autoencoder float in [-1, 1]. Latents are multiplied by the
scaling factor unless a docstring says otherwise.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

    Array = jax.Array

Images = np.ndarray  # uint8 (n, h, w, 3)
Params = dict  # nested: module name -> ... -> array
Size = tuple[int, int]  # width, height


def misfits(
    found: Mapping[tuple[str, ...], Any], wanted: Mapping[tuple[str, ...], Any]
) -> list[str]:
    """Compare the names and shapes of the arrays of a network, by their paths.

    Returns:
        A phrase for each array that is unknown, missing or of another shape.
    """
    problems = [f"{'/'.join(path)} is unknown" for path in found if path not in wanted]
    for path, leaf in wanted.items():
        shape = getattr(found.get(path), "shape", "missing")
        if shape != leaf.shape:
            problems.append(f"{'/'.join(path)} is {shape}, expected {leaf.shape}")
    return problems


def show_size(size: Size) -> str:
    """A size as messages show it: `512x256`."""
    return f"{size[0]}x{size[1]}"


def __getattr__(name: str) -> Any:
    """Import jax only for `Array`: processes that draw or read data start 2 s faster without it."""
    if name != "Array":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from jax import Array

    return Array
