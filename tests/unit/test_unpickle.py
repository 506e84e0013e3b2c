"""Pickles of strangers: arrays come out, and nothing in them ever runs."""

import builtins
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anchor_jax.body.arrays import Archive, read_npy
from anchor_jax.body.formats import read_motion
from anchor_jax.errors import AnchorError
from anchor_jax.unpickle import read_pickle, read_tensors

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Calls:
    """Pickles as a call; loading it makes the call."""

    def __init__(self, function: Any, *args: Any, state: Any = None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.call


def refusal(read: Any, path: Path) -> str:
    with pytest.raises(AnchorError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and "TypeCheck" not in text, text
    return text


def attacks(marker: Path) -> dict[str, Any]:
    """Each makes the file `marker` once it is unpickled."""
    shell = Calls(os.system, f"touch '{marker}'")
    python = Calls(builtins.eval, f"open({str(marker)!r}, 'w').close()")
    return {
        "system": shell,
        "eval": python,
        "open": Calls(open, str(marker), "w"),
        "value": {"poses": np.zeros((1, 165)), "trans": shell},
        "key": {Calls(os.system, f"touch '{marker}'"): 1},
        "argument": {"a": Calls(np.dtype, python)},
        "nested": {"a": Calls(getattr, Calls(__import__, "os"), "system")},
        "state": {"a": Calls(OrderedDict, state={"b": shell})},
        "deep": {"a": [[({"b": Calls(eval, Calls(str, python))},)]]},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", attacks(Path()))
def test_nothing_runs(tmp_path: Path, name: str, protocol: int):
    """A stranger's file that runs a program: any name outside of the list let through."""
    marker = tmp_path / "ran"
    content = pickle.dumps(attacks(marker)[name], protocol)
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    assert "could run code" in refusal(read_pickle, path)
    refusal(read_motion, path)
    assert not marker.exists()
    if name == "system":  # the attack is a real one
        pickle.loads(content)
        assert marker.exists()


def test_nothing_runs_in_a_tensor(tmp_path: Path):
    """The pickles inside of a torch storage loaded by the ordinary unpickler."""
    marker = tmp_path / "ran"
    inner = pickle.dumps(Calls(os.system, f"touch '{marker}'")) * 5
    storage = Calls(torch.storage._load_from_bytes, inner)  # type: ignore
    rebuild = torch._utils._rebuild_tensor_v2  # type: ignore
    tensor = Calls(rebuild, storage, 0, (1,), (1,), False, OrderedDict())
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": tensor}))
    assert "could run code" in refusal(read_pickle, path)
    assert not marker.exists()


def test_nothing_runs_in_archives(tmp_path: Path):
    """Arrays of objects, which are pickles, unpickled out of .npy and .npz files."""
    marker = tmp_path / "ran"
    array = np.array([Calls(os.system, f"touch '{marker}'")], object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", allow_pickle=True, poses=array, trans=array)
    for name in ("a.npy", "a.npz"):
        assert "objects" in refusal(read_motion, tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays(tmp_path: Path, protocol: int):
    """An honest file refused, or its bytes, order or type of number changed."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.25
    content = {
        "c": values,
        "fortran": np.asfortranarray(values),
        "big": values.astype(">f8"),
        "strided": values[:, ::2],
        "empty": values[:0],
        "integers": np.arange(-3, 200),
        "scalar": np.float32(2.5),
        "number": 3,
        "text": "neutral",
        "list": [1.5, 2, 3],
        "arrays": [values[0], values[1]],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(path)
    assert found.keys() == content.keys()
    for name, expected in content.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_tensors(tmp_path: Path):
    """Torch's offsets and strides ignored, so that a transposed tensor comes out scrambled."""
    values = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "plain": values,
        "transposed": values.T,
        "part": values[1:3, ::2],
        "double": values.double(),
        "long": values.long(),
        "parameter": torch.nn.Parameter(values),
        "zero": torch.tensor(2.5),
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    found = read_pickle(path)
    for name, expected in content.items():
        np.testing.assert_array_equal(found[name], expected.detach().numpy(), err_msg=name)


def test_object_arrays(tmp_path: Path):
    """An array of Python objects, text or records taken for numbers."""
    for array in (np.array([{}, None]), np.array(["a"]), np.zeros(2, [("x", "f4")])):
        path = tmp_path / "a.pkl"
        path.write_bytes(pickle.dumps({"poses": array, "trans": array}))
        refusal(read_pickle, path)


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "shape", ["(1000000000000, 265)", "(4611686018427387904, 4)", "(-1, 265)", "(1, 2", "(1.5, 2)"]
)
def test_declared_size_of_npy(tmp_path: Path, shape: str):
    """Terabytes allocated because a header of 128 bytes asks for them, or a product overflowed."""
    path = tmp_path / "a.npy"
    path.write_bytes(header(shape) + bytes(1000))
    refusal(lambda p: read_npy(p, 1 << 30), path)
    refusal(read_motion, path)


def test_largest_npy(tmp_path: Path):
    """A whole file larger than what is allowed read all the same."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(100))
    assert read_npy(path, 10_000).shape == (100,)
    refusal(lambda p: read_npy(p, 500), path)


def test_declared_size_of_npz(tmp_path: Path):
    """An archive of zeros, a thousand times smaller than what it unpacks to, unpacked."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, poses=np.zeros((1000, 165)))
    assert path.stat().st_size < 10_000
    with pytest.raises(AnchorError, match="limit of 100000"):
        Archive(path, 100_000)["poses"]
    assert Archive(path, 2_000_000)["poses"].shape == (1000, 165)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 42),  # BINBYTES8
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 42),  # BYTEARRAY8
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 42),  # BINUNICODE8
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 42) + b"}.",  # FRAME
        b"\x80\x02}r" + struct.pack("<I", 0xFFFFFFF0) + b".",  # LONG_BINPUT
        b"\x80\x02\x8b" + struct.pack("<i", 0x7FFFFFFF) + b".",  # LONG4
        b"}p99999999999\n.",  # PUT
    ],
    ids=["bytes", "bytearray", "unicode", "frame", "memo", "long", "put"],
)
def test_declared_size_of_pickle(tmp_path: Path, opcodes: bytes):
    """Terabytes allocated for a length or a memo number that ten bytes declare."""
    path = tmp_path / "a.pkl"
    path.write_bytes(opcodes)
    text = refusal(read_pickle, path)
    assert "not a complete pickle" in text and "MemoryError" not in text


def test_declared_size_of_arrays(tmp_path: Path):
    """A tensor of terabytes made from a storage of four numbers by strides of zero."""
    rebuild = torch._utils._rebuild_tensor_v2  # type: ignore
    small = pickle.dumps({"poses": torch.zeros(4)})
    path = tmp_path / "a.pkl"
    path.write_bytes(small)
    assert read_pickle(path)["poses"].shape == (4,)
    storage = torch.zeros(4).__reduce_ex__(2)[1][0]  # type: ignore
    for size, stride in (((1 << 40,), (0,)), ((1 << 30, 1 << 30), (0, 0)), ((5,), (1,))):
        tensor = Calls(rebuild, storage, 0, size, stride, False, OrderedDict())
        path.write_bytes(pickle.dumps({"poses": tensor}))
        assert "a tensor" in refusal(read_pickle, path)


def test_truncated(tmp_path: Path):
    """A half-copied pickle whose error is a traceback, or half of its entries."""
    whole = pickle.dumps({"a": np.arange(50.0), "b": torch.arange(9.0)})
    path = tmp_path / "a.pkl"
    for size in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:size])
        refusal(read_pickle, path)


def test_damaged(tmp_path: Path):
    """A flipped byte that raises another error, or one whose name steers the terminal."""
    whole = pickle.dumps({"a": np.arange(9.0), "b": [1, 2.5], "c": torch.arange(3.0)})
    path = tmp_path / "a.pkl"
    rng = np.random.default_rng(0)
    messages = []
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + rng.bytes(1) + whole[at + 1 :])
        try:
            read_pickle(path)
        except AnchorError as error:
            messages.append(str(error))
    assert len(messages) > 20 and all(message.isprintable() for message in messages)
    path.write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    refusal(read_pickle, path)


def weights(path: Path) -> Any:
    return read_tensors(path, "weights")


def state_dict() -> dict[str, Any]:
    values = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "plain": values,
        "transposed": values.T,  # of the same storage
        "part": values[1:3, ::2],
        "half": values.half(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(values + 1),
        "empty": torch.zeros(0, 3),
    }


def rezip(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a zip file again; `change` takes the name and bytes of each member."""
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in members:
            new.writestr(name, change(name, content))


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts(tmp_path: Path, zipped: bool):
    """Catches storages in another order, one read twice or not at all, strides that are ignored,
    and values beside the tensors that make a file unreadable."""
    path = tmp_path / "a.pth"
    content = OrderedDict(state_dict())
    content._metadata = {"": {"version": 1}}  # type: ignore
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = weights(path)
    assert found.keys() == content.keys()
    for name, expected in content.items():
        np.testing.assert_array_equal(found[name], expected.detach().numpy(), err_msg=name)
    torch.save(
        {**content, "epoch": 3, "more": {"x": torch.ones(2)}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    assert weights(path).keys() == content.keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_runs_in_state_dicts(tmp_path: Path, zipped: bool):
    """Catches a state dict that runs a program, and a list of keys that does."""
    marker, path = tmp_path / "ran", tmp_path / "a.pth"
    call = Calls(os.system, f"touch '{marker}'")
    torch.save({"a": torch.ones(2), "b": call}, path, _use_new_zipfile_serialization=zipped)
    assert "could run code" in refusal(weights, path)
    if not zipped:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        keys = pickle.dumps([], 2)
        assert path.read_bytes().endswith(keys)
        path.write_bytes(path.read_bytes().removesuffix(keys) + pickle.dumps(call, 2))
        assert "could run code" in refusal(weights, path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_state_dicts(tmp_path: Path, zipped: bool):
    """Catches a traceback for a download that stopped, or for a flipped byte."""
    path = tmp_path / "a.pth"
    torch.save(state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole, rng, messages = path.read_bytes(), np.random.default_rng(0), []
    for size in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:size])
        refusal(weights, path)
    for at in rng.integers(0, len(whole), 150):
        path.write_bytes(whole[:at] + rng.bytes(1) + whole[at + 1 :])
        try:
            weights(path)
        except AnchorError as error:
            messages.append(str(error))
    assert len(messages) > 20 and all(message.isprintable() for message in messages)


def test_declared_sizes_of_state_dicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches memory that a small file demands: members that unpack to more than the file, a
    storage of another size than declared, many tensors of one storage, another byte order."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(9999)}, path)
    whole = path.read_bytes()
    rezip(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(weights, path)
    path.write_bytes(whole)
    rezip(path, lambda name, content: content[:-4] if "/data/" in name else content)
    assert "another size" in refusal(weights, path)
    path.write_bytes(whole)
    rezip(path, lambda name, content: b"big" if name.endswith("byteorder") else content)
    assert "byte order" in refusal(weights, path)
    path.write_bytes(whole.replace(struct.pack("<I", 39996), struct.pack("<I", 1 << 30)))
    assert "invalid sizes" in refusal(weights, path)
    path.write_bytes(whole)
    assert weights(path)["a"].shape == (9999,)
    torch.save({"a": torch.zeros(9999)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(struct.pack("<q", 9999), struct.pack("<q", 9998)))
    assert "another size" in refusal(weights, path)
    values = torch.zeros(9999)
    torch.save({str(i): values for i in range(9)}, path)
    assert len(weights(path)) == 9
    monkeypatch.setattr("anchor_jax.unpickle.MAX_BYTES", 100_000)
    assert "too large" in refusal(weights, path)


def test_other_torch_files(tmp_path: Path):
    """Catches a file without a state dict, or of another kind, that gives no tensors at all."""
    path = tmp_path / "a.pth"
    for content in (torch.ones(3), [torch.ones(3)]):
        torch.save(content, path)
        assert "expected weights" in refusal(weights, path)
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "not a file of torch" in refusal(weights, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    refusal(weights, path)
