"""`anchor-jax export`: an ANCHOR back to the published folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anchor_jax.checkpoint import Anchor, new_folder, read_header
from anchor_jax.models import CLIPVisionConfig
from anchor_jax.parameters import (
    abstract_params,
    flatten,
    groups,
    read_params,
    stored_params,
    unflatten,
)

from . import names
from .published import preprocessor, published, scheduler

FILES = {
    "body/unet": "body/unet/diffusion_pytorch_model.safetensors",
    "body/control": "body/controlnet/diffusion_pytorch_model.safetensors",
    "face/unet": "head/unet/diffusion_pytorch_model.safetensors",
    "face/control": "head/controlnet/diffusion_pytorch_model.safetensors",
    "vae": "sd/vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "sd/text_encoder/model.safetensors",
    "image_encoder": "clip-vision/model.safetensors",
}
TYPE_CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "int64": "I64"}


def export(anchor: str | Path, out: str | Path, progress: bool = True) -> None:
    """Write an ANCHOR as published folders: `out/body`, `out/head` (if it has a face), `out/sd`,
    `out/clip-vision`. Every tensor is what it was when it was converted, bit for bit; diffusers
    and transformers load them with `from_pretrained`.

    Raises:
        AnchorError: `anchor` is none or is damaged, `out` exists, or the disk is full.
    """
    anchor, out = Path(anchor), Path(out)
    header, _ = read_header(anchor)
    with new_folder(out) as partial:
        count = sum(len(flatten(abstract_params(c))) for c in header.networks.values())
        options: dict[str, Any] = {"delay": 2, "disable": None if progress else True}
        with tqdm(desc="export", total=count, unit="tensor", **options) as bar:
            for name, config in header.networks.items():
                path = partial / FILES[name]
                _write_json(path.parent / "config.json", published(config))
                _write_weights(path, anchor, name, header, bar)
        for name, content in header.tokenizer.items():
            (partial / "sd" / "tokenizer").mkdir(exist_ok=True)
            (partial / "sd" / "tokenizer" / name).write_bytes(content)
        image = header.networks["image_encoder"]
        assert isinstance(image, CLIPVisionConfig)
        for name, content in {
            "sd/scheduler/scheduler_config.json": scheduler(header.schedule),
            "clip-vision/preprocessor_config.json": preprocessor(image),
        }.items():
            _write_json(partial / name, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _write_weights(path: Path, anchor: Path, name: str, header: Anchor, bar: tqdm) -> None:
    """One safetensors file, read and written in groups of tensors."""
    folder = anchor / "params" / name
    tensors = {
        (np.dtype(leaf.dtype), names.torch_key(key)): (key, leaf)
        for key, leaf in flatten(stored_params(folder, header.networks[name])).items()
    }
    buffers = _position_ids(header, name)
    # Widest types first, as the format's own library does: every tensor is then aligned.
    order = sorted([*tensors, *buffers], key=lambda entry: (-entry[0].itemsize, entry[1]))
    contents: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for dtype, key in order:
        leaf_key, leaf = tensors.get((dtype, key), ((key,), buffers.get((dtype, key))))
        shape = names.torch_shape(leaf_key, leaf.shape)
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        contents[key] = {
            "dtype": TYPE_CODES[dtype.name],
            "shape": shape,
            "data_offsets": [start, end],
        }
    encoded = json.dumps(contents).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in order:
            if entry in buffers:
                file.write(buffers[entry].tobytes())
        rest = [tensors[entry] for entry in order if entry in tensors]
        for group in groups(rest, lambda item: item[1].size * item[1].dtype.itemsize):
            arrays = flatten(read_params(folder, unflatten(dict(group))))
            for key, _ in group:
                array = np.ascontiguousarray(names.to_torch(key, np.asarray(arrays[key])))
                file.write(array.view(np.uint8).data)
            bar.update(len(group))


def _position_ids(header: Anchor, name: str) -> dict[tuple[np.dtype, str], np.ndarray]:
    """The buffer that the source's encoder had beside its weights."""
    buffers = header.provenance.get("buffers")
    dtype = buffers.get(name) if isinstance(buffers, dict) else None
    if name not in names.POSITION_IDS or dtype not in TYPE_CODES:
        return {}
    config = header.networks[name]
    ids = np.arange(names.num_positions(config), dtype=dtype)[None]
    return {(ids.dtype, names.POSITION_IDS[name]): ids}
