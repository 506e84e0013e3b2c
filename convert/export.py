"""Convert an ANCHOR back to the published folders (`anchor-jax export`)."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.assets import find_anchor
from anchor_jax.checkpoint import Anchor, params_folder, read_header
from anchor_jax.checkpoint.parameters import (
    flatten,
    groups,
    read_params,
    stored_params,
    unflatten,
)
from anchor_jax.files import new_folder
from anchor_jax.progress import BYTES, Advance, bars
from anchor_jax.shapes import Params

from . import names
from .extras import EMPTY_TEXT, extra_files
from .published import network_json, preprocessor_json, scheduler_json

_FILES = {
    "body/unet": "body/unet/diffusion_pytorch_model.safetensors",
    "body/control": "body/controlnet/diffusion_pytorch_model.safetensors",
    "face/unet": "head/unet/diffusion_pytorch_model.safetensors",
    "face/control": "head/controlnet/diffusion_pytorch_model.safetensors",
    "vae": "sd/vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "sd/text_encoder/model.safetensors",
    "image_encoder": "clip-vision/model.safetensors",
}
_TYPE_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "int64": "I64"}


def export(anchor: str | Path, out: str | Path, progress: bool = True) -> None:
    """Write an ANCHOR in the published layout, with every tensor bit for bit as it was converted.

    Settings, provenance and empty text, which that layout does not have, are in files beside, from
    which `convert` makes an equal ANCHOR again (see `extras`).

    Args:
        anchor: the ANCHOR, or `shipped`.
        out: the new folder, with `body`, `head` (if the anchor has a face), `sd` and `clip-vision`.
            Diffusers and transformers load them with `from_pretrained`.
        progress: show a progress bar.

    Raises:
        AnchorError: `anchor` is not an ANCHOR or is damaged, `out` exists, or the disk is full.
    """
    anchor, out = find_anchor(anchor), Path(out)
    header, sizes = read_header(anchor)
    networks = header.networks()
    stored = {
        name: stored_params(params_folder(anchor, name, sizes), network.config)
        for name, network in networks.items()
    }
    needed = sum(_nbytes(leaf) for leaf in jax.tree.leaves(stored))
    with new_folder(out, needed) as partial:
        with bars(None if progress else False, delay=2)("export", needed, BYTES) as advance:
            for name, network in networks.items():
                path = partial / _FILES[name]
                _write_json(path.parent / "config.json", network_json(network.config))
                folder = anchor / "params" / name
                _write_weights(path, folder, stored[name], _position_ids(header, name), advance)
        for name, content in header.tokenizer.items():
            (partial / "sd" / "tokenizer").mkdir(exist_ok=True)
            (partial / "sd" / "tokenizer" / name).write_bytes(content)
        for name, content in {
            "sd/scheduler/scheduler_config.json": scheduler_json(header.schedule),
            "clip-vision/preprocessor_config.json": preprocessor_json(header.image_encoder.config),
            **extra_files(header),
        }.items():
            _write_json(partial / name, content)
        np.save(partial / "sd" / EMPTY_TEXT, header.empty_text)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _write_weights(
    path: Path, folder: Path, stored: Params, buffers: dict[str, np.ndarray], advance: Advance
) -> None:
    """Write a safetensors file, one group of tensors at a time.

    Args:
        path: the new file.
        folder: the parameter folder of the network.
        stored: shapes and types of its parameters.
        buffers: further tensors.
        advance: called with the number of bytes written.
    """
    leaves = {names.torch_key(key): (key, leaf) for key, leaf in flatten(stored).items()}
    # Types with more bytes come first, as in the safetensors library: all tensors are then aligned.
    order = sorted(leaves, key=lambda name: (-leaves[name][1].dtype.itemsize, name))
    shapes: dict[str, Any] = dict(buffers)
    for name in order:
        key, leaf = leaves[name]
        shapes[name] = jax.ShapeDtypeStruct(names.torch_shape(key, leaf.shape), leaf.dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, leaf in shapes.items():
        start, end = end, end + _nbytes(leaf)
        code = _TYPE_CODES[np.dtype(leaf.dtype).name]
        header[name] = {"dtype": code, "shape": leaf.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for ids in buffers.values():
            file.write(ids.tobytes())
        for group in groups([leaves[name] for name in order], lambda item: _nbytes(item[1])):
            arrays = flatten(read_params(folder, unflatten(dict(group))))
            for key, leaf in group:
                array = np.ascontiguousarray(names.to_torch(key, np.asarray(arrays[key])))
                file.write(array.view(np.uint8).data)
                advance(_nbytes(leaf))


def _nbytes(leaf: Any) -> int:
    """Return the size in bytes of an array or `jax.ShapeDtypeStruct`."""
    return int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize


def _position_ids(header: Anchor, name: str) -> dict[str, np.ndarray]:
    """Return the position ids of a CLIP encoder, if the source stored them as a buffer."""
    buffers = header.provenance.get("buffers")
    dtype = buffers.get(name) if isinstance(buffers, dict) else None
    if name not in names.POSITION_IDS or dtype not in _TYPE_CODES:
        return {}
    count = names.num_positions(header.networks()[name].config)
    return {names.POSITION_IDS[name]: np.arange(count, dtype=dtype)[None]}
