"""Reads arrays from untrusted `.npy` and `.npz` files: no unpickling, and a limit on the size."""

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from anchor_jax.errors import AnchorError, first_line

_HEADERS: dict[tuple[int, int], Callable] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path, max_bytes: int) -> np.ndarray:
    """Read the array in an `.npy` file.

    Raises:
        AnchorError: the file is damaged, holds Python objects, or is larger than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            return _read_array(file, min(path.stat().st_size, max_bytes))
    except Exception as error:  # damaged bytes can raise any exception
        raise AnchorError(f"{path}: not a complete .npy file: {_explain(error)}") from None


class Archive:
    """An `.npz` file. It behaves like a mapping from names to arrays and reads them on access.

    Attributes:
        names: the names of the arrays in the file.

    Raises:
        AnchorError: the file is not a complete zip file.
    """

    def __init__(self, path: Path, max_bytes: int):
        self.path, self.max_bytes = path, max_bytes
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = {n.removesuffix(".npy") for n in archive.namelist()}
        except Exception as error:
            raise AnchorError(f"{path}: not a complete .npz file: {_explain(error)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        """Read the array `name`.

        Raises:
            AnchorError: the array is missing or damaged, holds Python objects, or is too large.
        """
        if name not in self.names:
            raise AnchorError(f"{self.path}: {name} is missing")
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(f"{name}.npy").file_size
                if size > self.max_bytes:
                    raise ValueError(f"takes {size} bytes, more than the limit of {self.max_bytes}")
                with archive.open(f"{name}.npy") as file:
                    array = _read_array(file, size)
                    file.read(1)  # zipfile checks the CRC when it reaches the end
                    return array
        except Exception as error:
            raise AnchorError(f"{self.path}: {name} cannot be read: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    """Format an error of reading; say what to do where the file is cut short or damaged."""
    text = first_line(error)
    damaged = isinstance(error, zipfile.BadZipFile | zlib.error | EOFError)
    if damaged or text.startswith(("ValueError: cut short", "ValueError: EOF")):
        return f"{text}; copy or download the file again"
    return text


def _read_array(file: IO[bytes] | io.BufferedIOBase, size: int) -> np.ndarray:
    """Read an array whose header and values take at most `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"unsupported format version {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which needs unpickling; expected numbers")
    count = 1
    for side in shape:  # Python integers do not overflow, unlike numpy's
        if side < 0:
            raise ValueError(f"invalid shape {shape}")
        count *= side
    if count * dtype.itemsize > size:
        raise ValueError(f"cut short: shape {shape} needs {count * dtype.itemsize} bytes")
    data = io.BytesIO()
    while data.tell() < count * dtype.itemsize:
        piece = file.read(min(1 << 20, count * dtype.itemsize - data.tell()))
        if not piece:
            raise ValueError(f"cut short after {data.tell()} bytes")
        data.write(piece)
    return np.frombuffer(data.getbuffer(), dtype, count).reshape(
        shape, order="F" if fortran else "C"
    )
