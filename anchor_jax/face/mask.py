"""Chooses the region of a face crop that is repainted.

As published, the networks' mask is 0 on the face, which is repainted, and 1 on the pixels that are
kept: the opposite of usual inpainting. Face regions are bool and True on the face.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from anchor_jax.face.align import SIZE, warp
from anchor_jax.shapes import Images

# Of the 19 classes of CelebAMask-HQ, in the numbering of face parsers: background, neck, necklace,
# cloth, hair, hat.
_NOT_FACE = (0, 14, 15, 16, 17, 18)
NUM_CLASSES = 19
# The default region: an ellipse from chin to hairline in a crop, pixels.
_OVAL_CENTRE, _OVAL_RADII = (256.0, 290.0), (140.0, 185.0)


def from_parsing(parsing: UInt8[np.ndarray, "*n h w"]) -> Bool[np.ndarray, "*n h w"]:
    """The face region of parsing images, whose pixels are class numbers, 0 to 18.

    Classes of CelebAMask-HQ: Lee et al. 2020, https://arxiv.org/abs/1907.11922
    """
    return np.isin(parsing, _NOT_FACE, invert=True)


def from_renders(
    faces: Bool[np.ndarray, "n h w"], transforms: Float[np.ndarray, "n 2 3"]
) -> Bool[np.ndarray, "n 512 512"]:
    """The face region of crops, from the face regions of whole frames (those of the renderer)."""
    levels = warp(faces.astype(np.uint8) * 255, transforms, (SIZE, SIZE))
    return levels > 127


def oval() -> Bool[np.ndarray, "512 512"]:
    """The default face region of a crop, an ellipse, for faces without a mask."""
    centre, radii = np.array(_OVAL_CENTRE), np.array(_OVAL_RADII)
    middles = np.arange(SIZE) + 0.5
    x, y = (middles - centre[0]) / radii[0], (middles - centre[1]) / radii[1]
    return x**2 + y[:, None] ** 2 <= 1


def repaint_mask(face: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w 1"]:
    """The networks' mask, float32: 0 on the face dilated by 3x3 pixels, 1 elsewhere."""
    wide = ndimage.binary_dilation(face, np.ones((1, 3, 3), bool))
    return np.logical_not(wide).astype(np.float32)[..., None]


def to_latents(mask: Float[np.ndarray, "n H W 1"], factor: int = 8) -> Float[np.ndarray, "n h w 1"]:
    """Reduce the mask to the latents' resolution: every `factor`-th pixel (nearest neighbour)."""
    return mask[:, ::factor, ::factor]


def masked_images(
    images: Images, mask: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, "n h w 3"]:
    """Convert images uint8 to float32 in [-1, 1], mid-grey (0) where they are repainted."""
    return (images.astype(np.float32) / 127.5 - 1) * (mask > 0.5)
