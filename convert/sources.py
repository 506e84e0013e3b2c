"""Opens torch weight files. Each tensor is read on demand, so that one at a time is in memory."""

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from safetensors import SafetensorError, safe_open

from anchor_jax.errors import AnchorError, first_line

# Classes that published pickles use as dictionary keys beside the weights. They are replaced by
# empty classes.
_HARMLESS_CLASSES = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)
_VARIANTS = ("", ".fp16", ".bf16")
# A memory map keeps the pages that were read: map the file again after this many bytes.
_REOPEN_BYTES = 256 << 20

_SAFETENSORS_TYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor in a weight file.

    Attributes:
        shape: its shape.
        dtype: numpy's name of its type, or the file's own name of a type that numpy does not have.
        read: reads the values.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Weights:
    """A weight file: its path and its tensors by name."""

    path: Path
    tensors: dict[str, Tensor]


def find_weights(folder: Path, stem: str, pickle_stem: str) -> Path:
    """Find the weight file in a published folder. Safetensors come first, then full precision.

    Args:
        folder: the folder of one network.
        stem: the name of the safetensors file without its ending.
        pickle_stem: the same of the `.bin` file.

    Raises:
        AnchorError: the folder or the file is missing, or the weights are split into several files.
    """
    if not folder.is_dir():
        raise AnchorError(f"{folder}: no such folder")
    names = [f"{stem}{variant}.safetensors" for variant in _VARIANTS]
    names += [f"{pickle_stem}{variant}.bin" for variant in _VARIANTS]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    shards = next((name for name in names if (folder / f"{name}.index.json").is_file()), None)
    if shards:
        raise AnchorError(f"{folder}: {shards} is in several parts; join them into one file first")
    raise AnchorError(f"{folder}: no weights here, expected {names[0]} or {pickle_stem}.bin")


def open_weights(path: Path) -> Weights:
    """List the tensors of a `.safetensors`, `.bin` or `.ckpt` file without reading their values.

    Raises:
        AnchorError: the file is missing, unreadable, truncated, of another format, or a pickle
            that contains more than tensors.
    """
    if not path.is_file():
        raise AnchorError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}") from None
    if start.startswith(b"version https://git-lfs"):
        raise AnchorError(f"{path}: a Git LFS pointer, not the weights; run git lfs pull there")
    if path.suffix == ".safetensors":
        return Weights(path, _open_safetensors(path))
    return Weights(path, _Pickle(path).tensors())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        AnchorError: the file is missing, unreadable, or not a JSON object.
    """
    if not path.is_file():
        raise AnchorError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}: not readable as JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise AnchorError(f"{path}: not a JSON object")
    return content


def sha256(path: Path, on_read: Callable[[int], object] = lambda nbytes: None) -> str:
    """Return the file's SHA-256 in hexadecimal. `on_read` gets the bytes of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            on_read(len(piece))
    return digest.hexdigest()


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    def reader(key: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:  # opens the file anew, so that no mapped page stays in memory
            try:
                with safe_open(path, "np") as file:
                    return file.get_tensor(key)
            except (SafetensorError, OSError) as error:
                raise AnchorError(f"{path}: {key} cannot be read: {first_line(error)}") from None

        return read

    tensors = {}
    try:
        with safe_open(path, "np") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                view = file.get_slice(key)
                code = str(view.get_dtype())
                dtype = _SAFETENSORS_TYPES.get(code, code)
                tensors[key] = Tensor(tuple(view.get_shape()), dtype, reader(key))
    except (SafetensorError, OSError) as error:
        raise AnchorError(
            f"{path}: not a whole safetensors file, download it again: {first_line(error)}"
        ) from None
    return tensors


class _Pickle:
    """A torch pickle. It is memory-mapped if its format allows it. Its code is never run."""

    def __init__(self, path: Path):
        self.path = path
        self.state: dict[str, Any] | None = self._load()
        self.bytes_read = 0

    def tensors(self) -> dict[str, Tensor]:
        import torch

        assert self.state is not None
        tensors = {}
        for key, value in self.state.items():
            if isinstance(value, torch.Tensor):
                dtype = str(value.dtype).removeprefix("torch.")
                tensors[key] = Tensor(tuple(value.shape), dtype, lambda key=key: self._read(key))
            else:  # not a tensor: `names.match` or `leave_out` will report it
                tensors[str(key)] = Tensor((), type(value).__name__, lambda: np.empty(()))
        return tensors

    def _read(self, key: str) -> np.ndarray:
        import torch

        if self.state is None:
            self.state = self._load()
        tensor = self.state[key].detach()
        self.bytes_read += tensor.nbytes
        if tensor.dtype == torch.bfloat16:
            array = tensor.view(torch.int16).numpy().view(bfloat16)
        else:
            array = tensor.numpy()
        array = array.copy()
        if self.bytes_read > _REOPEN_BYTES:
            self.state, self.bytes_read = None, 0
        return array

    def _load(self) -> dict[str, Any]:
        torch = _torch(self.path)
        stubs = [(type("Harmless", (), {}), name) for name in _HARMLESS_CLASSES]
        try:
            with self.path.open("rb") as file:
                mapped = file.read(4) == b"PK\x03\x04"  # a zip; the older format cannot be mapped
            with warnings.catch_warnings(), torch.serialization.safe_globals(stubs):
                warnings.simplefilter("ignore")
                state = torch.load(self.path, weights_only=True, map_location="cpu", mmap=mapped)
        except Exception as error:  # damaged bytes make torch raise errors of many types
            requested = re.search(r"(?:GLOBAL|class|function) (\S+)", str(error))
            if isinstance(error, pickle.UnpicklingError) and requested:
                raise AnchorError(
                    f"{self.path}: refused, the pickle asks for {requested[1]} and could run code;"
                    " take the .safetensors file instead"
                ) from None
            detail = first_line(error).split("WeightsUnpickler error: ")[-1]
            raise AnchorError(
                f"{self.path}: not a whole torch file, download it again: {detail}"
            ) from None
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not isinstance(state, dict) or not state:
            raise AnchorError(
                f"{self.path}: holds a {type(state).__name__}, expected named tensors"
            )
        return state


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise AnchorError(
            f"{path}: reading a pickle needs torch (pip install anchor-jax[torch]);"
            " or take the .safetensors file"
        ) from None
    return torch
