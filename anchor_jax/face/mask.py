"""What of a face crop is repainted.

As published the mask is inverted against usual inpainting: 0 on the face, which is to be repainted,
and 1 on what is kept. Regions (`face`) are the other way round: True on the face.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from anchor_jax.face.align import SIZE, warp
from anchor_jax.shapes import Images

# Of the 19 classes of CelebAMask-HQ as face parsers number them: background, neck, necklace,
# cloth, hair, hat.
NOT_FACE = (0, 14, 15, 16, 17, 18)
NUM_CLASSES = 19
# Where nothing better is known: an ellipse in the 512 crop, from chin to hairline, pixels.
OVAL_CENTRE, OVAL_RADII = (256.0, 290.0), (140.0, 185.0)


def from_parsing(parsing: UInt8[np.ndarray, "*n h w"]) -> Bool[np.ndarray, "*n h w"]:
    """The face in parsing images, whose pixels are class numbers 0 to 18."""
    return np.isin(parsing, NOT_FACE, invert=True)


def from_renders(
    faces: Bool[np.ndarray, "n h w"], transforms: Float[np.ndarray, "n 2 3"], size: int = SIZE
) -> Bool[np.ndarray, "n size size"]:
    """The face in crops, of face regions in whole frames, as the renderer writes them."""
    levels = warp(faces.astype(np.uint8) * 255, transforms, (size, size))
    return levels > 127


def oval(size: int = SIZE) -> Bool[np.ndarray, "size size"]:
    """A face-shaped region of an upright crop: what is repainted where no mask is given."""
    centre, radii = np.array(OVAL_CENTRE), np.array(OVAL_RADII)
    middles = (np.arange(size) + 0.5) * (SIZE / size)
    x, y = (middles - centre[0]) / radii[0], (middles - centre[1]) / radii[1]
    return x**2 + y[:, None] ** 2 <= 1


def repaint_mask(face: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h w 1"]:
    """The networks' mask, float32: 0 on the face widened by a pixel (dilated 3x3), 1 elsewhere."""
    wide = ndimage.binary_dilation(face, np.ones((1, 3, 3), bool))
    return np.logical_not(wide).astype(np.float32)[..., None]


def to_latents(mask: Float[np.ndarray, "n H W 1"], factor: int = 8) -> Float[np.ndarray, "n h w 1"]:
    """The mask at the resolution of the latents: the nearest pixel, that is every `factor`-th."""
    return mask[:, ::factor, ::factor]


def masked_images(
    images: Images, mask: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, "n h w 3"]:
    """Images uint8 as float32 in [-1, 1], with mid-grey (0) where they are to be repainted."""
    return (images.astype(np.float32) / 127.5 - 1) * (mask > 0.5)
