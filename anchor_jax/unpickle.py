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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from anchor_jax.errors import AnchorError, first_line

MAX_BYTES = 1 << 30  # limit of a file, of one array and of all tensors: hours of motion

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
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's format before zip files
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
    """Makes records of calls, and collects those of torch storages by their keys."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Call]):
        super().__init__(file, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full not in _NAMES:
            raise _Refused(full)
        return _Name(full)

    def persistent_load(self, pid: Any) -> Any:
        record = _Call("persistent", pid)
        self.storages[_storage_facts(record)[0]] = record
        return record


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict, or a list that holds one such dict.

    Returns:
        Name to array, number, string or None. Other values are left out.

    Raises:
        AnchorError: the file is too large, damaged, not such a dict, or refers to anything but
            numpy arrays and torch tensors.
    """
    with _read(path, "a motion file") as file:
        content = _load(file)
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

    with _read(path, expected) as file:
        content = _load(file)
        if isinstance(content, dict):
            walk(content, ())
            return leaves
    raise AnchorError(f"{path}: holds a {type(content).__name__}, expected {expected}")


def read_tensors(path: Path, expected: str) -> dict[str, np.ndarray]:
    """Read a state dict that `torch.save` wrote: a zip file, or the format before it.

    Args:
        path: the file.
        expected: what it should be, for errors.

    Returns:
        Name to array. Other values are left out.

    Raises:
        AnchorError: as `read_pickle`, or a tensor is of another dtype than `_STORAGE_TYPES`.
    """
    with _read(path, expected) as file:
        load = _load_zip if file.getvalue().startswith(b"PK") else _load_stream
        content, storages = load(file)
        if isinstance(content, dict):
            tensors, total = {}, 0
            for name, value in content.items():
                if isinstance(value, _Call) and isinstance(name, str):
                    array = _array(value, lambda call: storages[_storage_facts(call)[0]])
                    if isinstance(array, np.ndarray):
                        tensors[name] = array
                        total += array.nbytes
                        if total > MAX_BYTES:  # many may share a storage
                            raise ValueError("tensors that are too large")
            return tensors
    raise AnchorError(f"{path}: holds a {type(content).__name__}, expected {expected}")


@contextmanager
def _read(path: Path, expected: str) -> Iterator[io.BytesIO]:
    """Read a file; errors of the body too become an AnchorError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AnchorError(f"{path}: larger than {MAX_BYTES >> 20} MiB; expected {expected}")
        yield io.BytesIO(path.read_bytes())
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


def _load(file: io.BytesIO, storages: dict[str, _Call] | None = None) -> Any:
    """Load one pickle, starting at the current position of `file`. Records of torch storages are
    added to `storages`."""
    start = file.tell()
    # Unpickler allocates memory as lengths and memo numbers demand, so check them first.
    for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if opcode.name in _PUTS and not (isinstance(value, int) and 0 <= value <= count):
            raise pickle.UnpicklingError(f"memo {value} after {count} operations")
    end = file.tell()
    records = {} if storages is None else storages
    return _Unpickler(io.BytesIO(file.getvalue()[start:end]), records).load()


def _load_zip(file: io.BytesIO) -> tuple[Any, dict[str, np.ndarray]]:
    """Load a torch file that is a zip file: its pickle, and its storages by key."""
    with ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != ZIP_STORED for member in members):
            raise ValueError("a compressed zip file")
        # Members may overlap, so that a small file would unpack to a large one.
        if sum(member.file_size for member in members) > len(file.getvalue()):
            raise ValueError("a zip file with invalid sizes")
        (name,) = (x.filename for x in members if re.fullmatch(r"[^/]+/data\.pkl", x.filename))
        folder = name.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("a file of another byte order")
        records: dict[str, _Call] = {}
        content = _load(io.BytesIO(archive.read(name)), records)
        storages = {}
        for key, record in records.items():
            _, dtype, count = _storage_facts(record)
            storages[key] = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
            if len(storages[key]) != count:
                raise ValueError("a storage of another size")
    return content, storages


def _load_stream(file: io.BytesIO) -> tuple[Any, dict[str, np.ndarray]]:
    """Load a torch file of the format before zip files: its pickle, and its storages by key."""
    if _load(file) != _MAGIC:
        raise ValueError("not a file of torch")
    for _ in range(2):  # format version, byte order
        _load(file)
    records: dict[str, _Call] = {}
    content = _load(file, records)
    keys, storages, data = _load(file), {}, file.getvalue()
    for key in keys:
        _, dtype, count = _storage_facts(records[key])
        if np.frombuffer(data, "<i8", 1, file.tell())[0] != count:
            raise ValueError("a storage of another size")
        storages[key] = np.frombuffer(data, dtype, count, file.tell() + 8)
        file.seek(8 + storages[key].nbytes, io.SEEK_CUR)
    return content, storages


def _storage_facts(call: Any) -> tuple[str, np.dtype, int]:
    """The key of a storage, and type and number of its values."""
    if not isinstance(call, _Call) or call.name != "persistent" or len(call.args) < 5:
        raise ValueError("a tensor without its storage")
    kind, name, key, _, count = call.args[:5]
    if kind != "storage" or name.name not in _STORAGE_TYPES:
        raise ValueError("a tensor of an unsupported dtype")
    if not isinstance(key, str) or not isinstance(count, int) or not 0 <= count <= MAX_BYTES:
        raise ValueError("a storage with invalid sizes")
    return key, np.dtype(_STORAGE_TYPES[name.name]), count


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


def _array(call: _Call, storage_of: Callable[[Any], np.ndarray] | None = None) -> Any:
    """Make the array of a record. `storage_of` finds the values of a torch storage."""
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
        return _array(call.args[0], storage_of)
    if call.name in _TENSOR:
        storage, offset, size, stride = call.args[:4]
        return _strided((storage_of or _embedded_storage)(storage), offset, size, stride)
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


def _embedded_storage(call: Any) -> np.ndarray:
    """The values of a torch storage (of CPU or GPU) that is pickled as a whole torch file."""
    if not isinstance(call, _Call) or call.name not in _STORAGE:
        raise ValueError("a tensor without its storage")
    content, storages = _load_stream(io.BytesIO(_bytes(call.args[0])))
    return storages[_storage_facts(content)[0]]


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
