"""Reading weight files: what is whole is read bit for bit, what is not is refused in one line."""

import builtins
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from anchor_jax import AnchorError
from anchor_jax.convert import sources
from anchor_jax.convert.sources import find_weights, open_weights, read_json


class Evil:
    """Unpickling it without precautions runs code, which raises SystemExit."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle ran')",)


def refused(path, *words: str) -> str:
    with pytest.raises(AnchorError) as info:
        open_weights(path)
    message = str(info.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    return message


def safetensors_bytes(tmp_path) -> bytes:
    path = tmp_path / "whole.safetensors"
    save_file({"a": np.arange(6, dtype="f").reshape(2, 3), "b": np.ones(4, "e")}, path)
    return path.read_bytes()


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    """Catches a header read without holding it against the file's length."""
    whole = safetensors_bytes(tmp_path)
    path = tmp_path / "part.safetensors"
    for length in [0, 1, 7, 8, 9, 40, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, "download it again")


def test_bytes_that_are_no_safetensors_are_refused(tmp_path):
    """Catches a parser that believes a huge header length, or the pointer that Git LFS leaves."""
    path = tmp_path / "x.safetensors"
    for content in (b"hello world, hello world", b"\xff" * 64, b"PK\x03\x04" + bytes(60)):
        path.write_bytes(content)
        refused(path, "not a whole safetensors file")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    refused(path, "git lfs pull")
    refused(tmp_path / "missing.safetensors", "no such file")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors", "no such file")


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    """Catches a traceback from the middle of a conversion."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(tmp_path))
    tensor = open_weights(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AnchorError, match="a cannot be read"):
        tensor.read()


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_all_types_are_read_bit_for_bit(tmp_path, form):
    """Catches bfloat16 that goes through float32 and back, and a strided view read in the wrong
    order."""
    bits = torch.arange(-3000, 3000, dtype=torch.int16).reshape(60, 100)
    state = {
        "half": bits.view(torch.float16),
        "brain": bits.clone().view(torch.bfloat16),
        "single": torch.randn(3, 4),
        "ids": torch.arange(5)[None],
        "strided": torch.arange(12.0).reshape(3, 4).T,
    }
    if form == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "x.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        path = tmp_path / "x.bin"
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    tensors = open_weights(path).tensors
    types = {key: tensor.dtype for key, tensor in tensors.items()}
    names = ("float16", "bfloat16", "float32", "int64", "float32")
    assert types == dict(zip(state, names, strict=True))
    for key, value in state.items():
        array = tensors[key].read()
        assert array.dtype.name == tensors[key].dtype
        assert array.shape == tensors[key].shape == tuple(value.shape)
        assert array.tobytes() == value.contiguous().view(torch.uint8).numpy().tobytes()


def test_a_type_that_we_do_not_know_keeps_the_files_own_name(tmp_path):
    """Catches a crash on float8 before the name map can report it."""
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    assert open_weights(tmp_path / "x.safetensors").tensors["a"].dtype == "F8_E4M3"


def test_a_pickle_is_opened_again_after_much_was_read(tmp_path, monkeypatch):
    """Catches mapped pages that pile up to the size of the file, and a second opening that gives
    other tensors."""
    torch.save({"a": torch.ones(3), "b": torch.zeros(2)}, tmp_path / "x.bin")
    opened = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: opened.append(k) or load(*a, **k))
    monkeypatch.setattr(sources, "_REOPEN_BYTES", 8)
    tensors = open_weights(tmp_path / "x.bin").tensors
    assert len(opened) == 1
    for _ in range(2):
        np.testing.assert_array_equal(tensors["a"].read(), [1, 1, 1])
    np.testing.assert_array_equal(tensors["b"].read(), [0, 0])
    assert len(opened) == 3
    assert all(options["weights_only"] and options["mmap"] for options in opened)


@pytest.mark.parametrize("form", ["raw", "zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, form):
    """Catches torch.load without weights_only, and pickle.load."""
    path = tmp_path / "x.ckpt"
    if form == "raw":
        path.write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    else:
        state = {"a": torch.ones(2), "b": Evil()}
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    refused(path, "refused", "exec", "safetensors")


def test_broken_pickles_are_refused(tmp_path):
    """Catches a traceback of whatever torch raises on damaged bytes."""
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(2)}, path)
    whole = path.read_bytes()
    for content in (b"", b"hello" * 9, whole[: len(whole) // 2], whole[:-30], whole[40:]):
        path.write_bytes(content)
        refused(path)
    for value, word in (([1, 2], "list"), (torch.ones(2), "Tensor"), ({}, "dict")):
        torch.save(value, path)
        refused(path, word)


def test_published_ckpt_files_open(tmp_path, monkeypatch):
    """Catches Stable Diffusion's own .ckpt refused for the class that its callbacks are keyed by,
    and weights not found below "state_dict"."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    checkpoint = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = checkpoint  # pyright: ignore[reportAttributeAccessIssue]
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    content = {
        "state_dict": {"a.weight": torch.ones(2)},
        "global_step": 470000,
        "callbacks": {checkpoint: {"best_model_path": ""}},
    }
    torch.save(content, tmp_path / "sd.ckpt")
    monkeypatch.undo()
    assert list(open_weights(tmp_path / "sd.ckpt").tensors) == ["a.weight"]


def test_without_torch_the_error_says_what_to_install(tmp_path, monkeypatch):
    """Catches a ModuleNotFoundError where the extra is not installed."""
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    refused(tmp_path / "x.bin", "pip install anchor-jax[torch]")


def test_the_file_in_a_folder_is_found_in_order(tmp_path):
    """Catches a pickle or a half-precision variant preferred, and shards reported as missing."""
    names = [
        "w.safetensors",
        "w.fp16.safetensors",
        "p.bin",
        "p.fp16.bin",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "w.non_ema.safetensors").touch()
    for name in names:
        assert find_weights(tmp_path, "w", "p").name == name
        (tmp_path / name).unlink()
    with pytest.raises(AnchorError, match=r"expected w\.safetensors or p\.bin"):
        find_weights(tmp_path, "w", "p")
    (tmp_path / "w.safetensors.index.json").touch()
    with pytest.raises(AnchorError, match="several parts"):
        find_weights(tmp_path, "w", "p")
    with pytest.raises(AnchorError, match="no such folder"):
        find_weights(tmp_path / "missing", "w", "p")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_refused(tmp_path, content):
    """Catches a traceback on a config that is empty, no object, cut off, binary or bottomless."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(AnchorError, match=r"config\.json: not"):
        read_json(tmp_path / "config.json")
