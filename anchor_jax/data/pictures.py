"""Pictures from files, RGB, uint8 (h, w, 3)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anchor_jax.errors import AnchorError, first_line
from anchor_jax.shapes import Images, Size, show_size

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
MULTIPLE = 8  # the autoencoder halves a picture three times


def read_image(path: Path) -> np.ndarray:
    """Read a picture as uint8 (h, w, 3), turned upright where its EXIF data says so.

    As in the published system, an alpha channel is dropped, not blended. Unlike there, 16-bit greys
    are scaled to 8 bits; the published system clips them to white.

    Raises:
        AnchorError: not there or not a readable picture.
    """
    return np.asarray(_open_rgb(path, on_black=False))


def read_images(paths: list[Path], size: Size | None) -> Images:
    """Read pictures as uint8 (n, h, w, 3), resized to `size` where it is given. Transparent pixels
    are blended with black, the background of pose images.

    Raises:
        AnchorError: one that cannot be read, or pictures of different sizes.
    """
    first = None
    frames = []
    for path in paths:
        image = _open_rgb(path, on_black=True)
        first = first or image.size
        if image.size != first:
            raise AnchorError(
                f"the images in {path.parent} differ in size: {paths[0].name} is"
                f" {show_size(first)} and {path.name} is {show_size(image.size)}; expected one size"
            )
        frames.append(resize(np.asarray(image), size or first))
    return np.stack(frames)


def list_images(folder: Path) -> list[Path]:
    """List the PNG and JPEG files in a folder, ordered by the numbers in their names. Hidden files
    are left out.

    Raises:
        AnchorError: there are none.
    """
    paths = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        ),
        key=lambda path: natural(path.name),
    )
    if not paths:
        raise AnchorError(f"{folder} holds no images; expected .png or .jpg files")
    return paths


@contextmanager
def open_picture(path: Path) -> Iterator["Picture"]:
    """Open a picture, turned upright, 8 bits a channel.

    Raises:
        AnchorError: it cannot be read, or an error of reading it inside the block.
    """
    from PIL import Image, ImageOps

    with _named_picture(path), Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey: keep the high byte
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        yield image


def read_size(path: Path) -> Size:
    """Read the width and height of a picture, turned upright, from the head of its file.

    Raises:
        AnchorError: not there or not a readable picture.
    """
    from PIL import ExifTags, Image

    with _named_picture(path), Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        width, height = image.size
        return (height, width) if turned else (width, height)


@contextmanager
def _named_picture(path: Path) -> Iterator[None]:
    """Raise the errors of reading the picture `path` as AnchorError."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnchorError(f"cannot read {path} as a picture: {first_line(error)}") from error


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize a picture, uint8 (h, w, 3) or (h, w), by Lanczos filtering as published."""
    from PIL import Image

    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def round_size(size: Size) -> Size:
    """Round a size down to multiples of 8, as the published system does.

    Raises:
        AnchorError: a side is shorter than 8 pixels.
    """
    width, height = (side - side % MULTIPLE for side in size)
    if width <= 0 or height <= 0:
        raise AnchorError(
            f"a size of {show_size(size)} is too small: each side needs {MULTIPLE} pixels"
        )
    return width, height


def _open_rgb(path: Path, on_black: bool) -> "Picture":
    """Read a picture as RGB. Transparent pixels are blended with black, or become opaque."""
    with open_picture(path) as image:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if on_black:
                return lay_on_black(image)
        return image.convert("RGB")


def lay_on_black(image: "Picture") -> "Picture":
    """Blend an RGBA picture with black, to RGB."""
    from PIL import ImageChops

    return ImageChops.multiply(image.convert("RGB"), image.getchannel("A").convert("RGB"))


def natural(name: str) -> tuple[list[int], str]:
    """Make a sort key of a name that puts `2.png` before `10.png`."""
    return [int(digits) for digits in re.findall(r"\d+", name)], name
