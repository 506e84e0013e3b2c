"""Runs model files of TensorFlow Lite, such as those of mediapipe, by ai-edge-litert."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from anchor_jax.errors import AnchorError, first_line


class Model:
    """A model file as a function from one array to all outputs, the largest first.

    Args:
        path: the file.
        shape: of the array.
        outputs: numbers of values of the outputs, the largest first.

    Raises:
        AnchorError: ai-edge-litert is not installed, or the file is not this model.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        if find_spec("ai_edge_litert") is None:
            raise AnchorError(
                f"running {path.name} needs more packages: pip install 'anchor-jax[face]'"
            )
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
        found = [
            (int(np.prod(output["shape"])), output["index"])
            for output in self._interpreter.get_output_details()
        ]
        found.sort(key=lambda pair: -pair[0])
        if tuple(size for size, _ in found) != outputs:
            sizes = [size for size, _ in found]
            raise AnchorError(f"{path} gives {sizes} values; expected {list(outputs)}")
        self._outputs = [index for _, index in found]

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._entry, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
