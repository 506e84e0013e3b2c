"""Reads numpy arrays and torch tensors from pickles, without executing them and without torch.

A pickle can call any function. Here it calls none: each name that it refers to must be in the list
below and becomes an inert record of the call. The arrays are built from these records afterwards.
"""

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.errors import AnchorError, first_line

MAX_BYTES = 1 << 30  # limit of a file and of one array: hours of motion

_RECONSTRUCT = {f"{core}.multiarray._reconstruct" for core in ("numpy.core", "numpy._core")}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in ("numpy.core", "numpy._core")}
_SCALAR = {f"{core}.multiarray.scalar" for core in ("numpy.core", "numpy._core")}
_TENSOR = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETER = {"torch._utils._rebuild_parameter"}
_STORAGE = {"torch.storage._load_from_bytes"}
_BYTES = {"_codecs.encode"}  # how protocols before 3 write bytes: text and "latin1"
_NO_BYTES = {"__builtin__.bytes"}  # how they write b"": a call without arguments
_STORAGE_TYPES = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.IntStorage": "<i4",
    "torch.LongStorage": "<i8",
}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_NAMES = {
    *(_RECONSTRUCT | _FROM_BUFFER | _SCALAR | _TENSOR | _PARAMETER | _STORAGE | _BYTES | _NO_BYTES),
    *("numpy.ndarray", "numpy.dtype", "torch.Size", *_STORAGE_TYPES),
}


class _Refused(Exception):
    """A name that is not in the list."""


class _Name:
    """A name that the pickle refers to. Calling it records the call."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any) -> "_Call":
        return _Call(self.name, args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"sets attributes of {self.name}")


class _Call:
    """A recorded call, and the state that the pickle would set on its result."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple):
        self.name, self.args, self.state = name, args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full not in _NAMES:
            raise _Refused(full)
        return _Name(full)

    def persistent_load(self, pid: Any) -> Any:
        return _Call("persistent", pid if isinstance(pid, tuple) else (pid,))


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict, or a list that holds one such dict.

    Returns:
        Name to array, number, string or None. Other values are left out.

    Raises:
        AnchorError: the file is too large, damaged, not such a dict, or refers to anything but
            numpy arrays and torch tensors.
    """
    with _read(path, "a motion file") as content:
        if isinstance(content, list | tuple) and len(content) == 1:
            content = content[0]
        if isinstance(content, dict):
            entries = {k: _resolve(v) for k, v in content.items() if isinstance(k, str)}
            return {key: value for key, value in entries.items() if value is not _OTHER}
    raise AnchorError(f"{path}: holds a {type(content).__name__}, expected a dict of arrays")


def read_tree(path: Path, expected: str) -> dict[tuple[str, ...], np.ndarray]:
    """Read pickled dicts of dicts of arrays.

    Args:
        path: the file.
        expected: what it should be, for errors.

    Returns:
        Path of names to array. Other values are left out.

    Raises:
        AnchorError: as `read_pickle`.
    """
    leaves = {}

    def walk(node: dict[Any, Any], names: tuple[str, ...]) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                walk(value, (*names, str(name)))
            elif isinstance(array := _resolve(value), np.ndarray):
                leaves[*names, str(name)] = array

    with _read(path, expected) as content:
        if isinstance(content, dict):
            walk(content, ())
            return leaves
    raise AnchorError(f"{path}: holds a {type(content).__name__}, expected {expected}")


@contextmanager
def _read(path: Path, expected: str) -> Iterator[Any]:
    """Read a pickle; errors of the body too become an AnchorError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AnchorError(f"{path}: larger than {MAX_BYTES >> 20} MiB; expected {expected}")
        yield _load(io.BytesIO(path.read_bytes()))
    except AnchorError:
        raise
    except OSError as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}") from None
    except _Refused as error:
        raise AnchorError(
            f"{path}: refused, the pickle refers to {str(error)[:80]!r} and could run"
            " code; expected only numpy arrays and torch tensors"
        ) from None
    except Exception as error:  # damaged bytes can raise any exception
        raise AnchorError(f"{path}: not a complete pickle: {first_line(error)}") from None


def _load(file: io.BytesIO) -> Any:
    """Load one pickle, starting at the current position of `file`."""
    start = file.tell()
    # Unpickler allocates memory as lengths and memo numbers demand, so check them first.
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if opcode.name in _PUTS and not (isinstance(value, int) and 0 <= value <= count):
            raise pickle.UnpicklingError(f"memo {value} after {count} operations")
    end = file.tell()
    return _Unpickler(io.BytesIO(file.getvalue()[start:end]), encoding="latin1").load()


_OTHER = object()


def _resolve(value: Any) -> Any:
    """Turn a record or a flat list of numbers into an array; keep numbers, strings and None."""
    if isinstance(value, _Call):
        return _array(value)
    if isinstance(value, list | tuple):
        items = [_array(item) if isinstance(item, _Call) else item for item in value]
        if all(isinstance(item, int | float | np.ndarray) for item in items):
            return np.asarray(items, np.float64)
        return _OTHER
    return value if isinstance(value, int | float | str | None) else _OTHER


def _array(call: _Call) -> Any:
    if call.name in _RECONSTRUCT:
        _, shape, dtype, fortran, data = call.state  # type: ignore
        return _shaped(data, _dtype(dtype), shape, "F" if fortran else "C")
    if call.name in _FROM_BUFFER:
        data, dtype, shape, order = call.args
        return _shaped(data, _dtype(dtype), shape, order)
    if call.name in _SCALAR:
        dtype, data = call.args
        return _shaped(data, _dtype(dtype), (), "C")
    if call.name in _PARAMETER and isinstance(call.args[0], _Call):
        return _array(call.args[0])
    if call.name in _TENSOR:
        storage, offset, size, stride = call.args[:4]
        return _strided(_storage(storage), offset, size, stride)
    return _OTHER


def _dtype(call: Any) -> np.dtype:
    if not isinstance(call, _Call) or call.name != "numpy.dtype":
        raise ValueError("an array without a dtype")
    code, order = str(call.args[0]), str(call.state[1]) if call.state else "="
    if not re.fullmatch(r"[<>=|]?([fiu][1248]|b1)", code) or order not in "<>=|":
        raise ValueError(f"an array of dtype {code[:20]}; expected numbers")
    return np.dtype(code).newbyteorder(order)  # type: ignore


def _shaped(data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(_bytes(data), dtype).reshape(shape, order=order)


def _bytes(data: Any) -> bytes | bytearray:
    if isinstance(data, _Call) and data.name in _NO_BYTES and not data.args:
        return b""
    if isinstance(data, _Call) and data.name in _BYTES:
        data = data.args[0]
    if isinstance(data, str):  # written by Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array without data")
    return data


def _storage(call: Any) -> np.ndarray:
    """The values of a torch storage (of CPU or GPU) in torch's format before zip files."""
    if not isinstance(call, _Call) or call.name not in _STORAGE:
        raise ValueError("a tensor without its storage")
    file = io.BytesIO(_bytes(call.args[0]))
    for _ in range(3):  # magic number, format version, byte order
        _load(file)
    storage = _load(file)
    _load(file)  # the list of keys: one key
    kind, name, *_ = storage.args
    if kind != "storage" or name.name not in _STORAGE_TYPES:
        raise ValueError("a tensor of an unsupported dtype")
    count, dtype = int.from_bytes(file.read(8), "little"), np.dtype(_STORAGE_TYPES[name.name])
    return np.frombuffer(file.getvalue(), dtype, count, file.tell())


def _strided(storage: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
    size, stride = (tuple(x.args[0]) if isinstance(x, _Call) else tuple(x) for x in (size, stride))
    if not all(isinstance(x, int) and x >= 0 for x in (offset, *size, *stride)):
        raise ValueError("a tensor with invalid sizes")
    if math.prod(size) * storage.itemsize > MAX_BYTES:
        raise ValueError("a tensor that is too large")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise ValueError("a tensor larger than its storage")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
