"""Landmarks found in pictures, for pose images that come without: one face a picture, the surest.

BlazeFace finds it (Bazarevsky et al. 2019), Face Mesh places 468 points on it (Kartynnik et al.
2019), of which five are kept. Both models are files of the mediapipe package (Apache-2.0), run by
ai-edge-litert.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from anchor_jax.errors import AnchorError, first_line
from anchor_jax.face.align import invert, warp
from anchor_jax.shapes import Images

FINDER, MESH = "face_detection_short_range.tflite", "face_landmark.tflite"
FINDER_SIDE, MESH_SIDE = 128, 192  # pixels of the models' inputs
# Cells along a side of the finder's two grids, and its anchors in each cell.
GRIDS = (16, 2), (8, 6)
MIN_LOGIT = 0.0  # of a face: a probability of one half
MARGIN = 1.5  # of the found box, that the mesh model wants to see
# Points of the mesh: both corners of image-left's and of image-right's eye, nose, mouth corners.
POINTS = (33, 133), (362, 263), (1,), (61,), (291,)


def find_models(folder: Path | None = None) -> Path | None:
    """The folder that holds both model files: the one given, the cache folder, or None."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home) / "anchor-jax" / "face"
    for place in [cache] if folder is None else [folder]:
        if all((place / name).is_file() for name in (FINDER, MESH)):
            return place
    if folder is not None:
        raise AnchorError(f"{folder} does not hold {FINDER} and {MESH}; {how_to_get(folder)}")
    return None


def how_to_get(folder: Path | None = None) -> str:
    """What a user types to have the detector."""
    place = "~/.cache/anchor-jax/face" if folder is None else folder
    return (
        "pip install 'anchor-jax[face]'; pip download --no-deps mediapipe==0.10.21; unzip -j "
        f"mediapipe-*.whl '*/{FINDER}' '*/{MESH}' -d {place}"
    )


class Detector:
    """Finds landmarks.

    Args:
        folder: with the two model files.

    Raises:
        AnchorError: ai-edge-litert is not installed, or the files are no such models.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("ai_edge_litert") is None:
            raise AnchorError("detecting faces needs more packages: pip install 'anchor-jax[face]'")
        self._finder = _Model(folder / FINDER, (1, FINDER_SIDE, FINDER_SIDE, 3))
        self._mesh = _Model(folder / MESH, (1, MESH_SIDE, MESH_SIDE, 3))
        self._anchors = _anchors()

    def find(self, picture: Images) -> Float[np.ndarray, "5 2"]:
        """Left eye, right eye, nose, left and right mouth corner, image-left first, in continuous
        pixels of a picture uint8 (h, w, 3); NaN where there is no face."""
        region = self._region(picture)
        if region is None:
            return np.full((5, 2), np.nan)
        cut = warp(picture[None], region[None], (MESH_SIDE, MESH_SIDE))[0]
        points, presence = self._mesh(cut[None].astype(np.float32) / 255)
        if presence.item() < MIN_LOGIT:
            return np.full((5, 2), np.nan)
        mesh = points.reshape(-1, 3)[:, :2]
        five = np.stack([mesh[list(indices)].mean(0) for indices in POINTS])
        back = invert(region[None])[0]
        return five @ back[:, :2].T + back[:, 2] + 0.5

    def _region(self, picture: np.ndarray) -> np.ndarray | None:
        """The transform to the mesh model's upright square around the surest face."""
        height, width, _ = picture.shape
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)
        square[:height, :width] = picture
        small = Image.fromarray(square).resize(
            (FINDER_SIDE, FINDER_SIDE), Image.Resampling.BILINEAR
        )
        boxes, scores = self._finder(np.asarray(small, np.float32)[None] / 127.5 - 1)
        best = int(scores.argmax())
        if scores.ravel()[best] < MIN_LOGIT:
            return None
        numbers = boxes[0, best] / FINDER_SIDE
        anchor = self._anchors[best]
        centre = (numbers[:2] + anchor) * side
        left_eye, right_eye = (numbers[4:8].reshape(2, 2) + anchor) * side
        across = right_eye - left_eye
        turn = np.exp(-1j * np.arctan2(across[1], across[0]))
        factor = turn * MESH_SIDE / (MARGIN * side * max(numbers[2:4]))
        shift = (MESH_SIDE - 1) / 2 * (1 + 1j) - factor * complex(*(centre - 0.5))
        return np.array(
            [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
        )


class _Model:
    """A model file as a function of one array, to all its outputs, the largest first."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
            (entry,) = self._interpreter.get_input_details()
        except (ValueError, RuntimeError) as error:
            raise AnchorError(f"{path} is not a readable model: {first_line(error)}") from error
        if tuple(entry["shape"]) != shape:
            raise AnchorError(f"{path} takes {tuple(entry['shape'])}; expected {shape}")
        self._entry = entry["index"]
        outputs = self._interpreter.get_output_details()
        self._outputs = [o["index"] for o in sorted(outputs, key=lambda o: -np.prod(o["shape"]))]

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._entry, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _anchors() -> np.ndarray:
    """Middles of the finder's anchors, float (896, 2), in sides of its input."""
    parts = []
    for cells, repeats in GRIDS:
        middles = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
        parts.append(np.repeat(grid, repeats, 0))
    return np.concatenate(parts)
