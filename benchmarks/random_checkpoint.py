"""Writes random weights in the published folder layout, for benchmarks and tests.

    python -m benchmarks.random_checkpoint --size sd15 --out /tmp/sd15 [--dtype float16]

`OUT/body/{unet,controlnet}`, `OUT/sd/{vae,text_encoder,tokenizer,scheduler}` and `OUT/clip-vision`
contain config.json and safetensors files as in the published checkpoints. Every tensor depends only
on the seed and its own name. One tensor at a time is drawn and written, so that memory is enough
for any size.
"""

import argparse
import json
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint.parameters import flatten, unflatten
from anchor_jax.convert import names, published
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
    abstract_params,
)
from anchor_jax.shapes import Params

FILES = {
    "unet": "body/unet/diffusion_pytorch_model.safetensors",
    "control": "body/controlnet/diffusion_pytorch_model.safetensors",
    "vae": "sd/vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "sd/text_encoder/model.safetensors",
    "image_encoder": "clip-vision/model.safetensors",
}
SEEDS = {name: seed for seed, name in enumerate(FILES)}


class Configs(NamedTuple):
    """The configs of a checkpoint's networks."""

    unet: UNetConfig
    control: ControlConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    image_encoder: CLIPVisionConfig


def _scaled(channels, layers, heads, context, groups, pose_channels, vae_channels) -> Configs:
    """Return the configs of a smaller model, whose networks have sizes in common."""
    body = {
        "channels": channels,
        "layers_per_block": layers,
        "num_heads": heads,
        "context_dim": context,
        "norm_groups": groups,
    }
    clip = {"width": context, "mlp_width": 2 * context, "num_layers": 2, "num_heads": 4}
    return Configs(
        UNetConfig(**body),
        ControlConfig(**body, pose_embedding_channels=pose_channels),
        VAEConfig(channels=vae_channels, layers_per_block=layers, norm_groups=groups),
        CLIPTextConfig(vocab_size=514, **clip),
        CLIPVisionConfig(**clip),
    )


SIZES = {
    "tiny": _scaled((32, 64, 64, 64), 1, 4, 32, 8, (8, 16, 16, 32), (16, 32, 32, 32)),
    # UNet 35.0 million parameters and control branch 15.2.
    "50m": _scaled((64, 128, 256, 256), 2, 8, 256, 32, (16, 32, 96, 256), (64, 128, 256, 256)),
    "sd15": Configs(
        UNetConfig(), ControlConfig(), VAEConfig(), CLIPTextConfig(), CLIPVisionConfig()
    ),
}


def tensor_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the published tensor names of one network and their shapes."""
    return {
        names.torch_key(path): names.torch_shape(path, leaf.shape)
        for path, leaf in flatten(abstract_params(config)).items()
    }


def count_params(config: NetworkConfig) -> int:
    """Return the number of parameters of a network."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def random_tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Draw a float32 tensor that depends only on name, shape and seed.

    Matrices and convolutions have a standard deviation of 1/sqrt(fan-in), norms a scale near one.
    The control branch's "zero" convolutions have a tenth of that deviation: small, but not zero.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("embedding") or ("embeddings." in name and "patch" not in name):
        values *= np.float32(0.05)
    elif len(shape) > 1:
        gain = 0.1 if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")) else 1.0
        values *= np.float32(gain / math.sqrt(math.prod(shape[1:])))
    elif name.endswith("weight"):
        values = 1 + np.float32(0.1) * values
    else:
        values *= np.float32(0.02)
    return values


def random_params(config: NetworkConfig, seed: int) -> Params:
    """Draw the same weights as our parameters, without a second copy."""

    def leaf(path: tuple[str, ...], shape: tuple[int, ...]):
        array = random_tensor(names.torch_key(path), names.torch_shape(path, shape), seed)
        return jnp.asarray(names.from_torch(path, array, shape))

    leaves = flatten(abstract_params(config))
    return unflatten({path: leaf(path, abstract.shape) for path, abstract in leaves.items()})


def write_safetensors(path: Path, config: NetworkConfig, dtype: str, seed: int) -> None:
    """Draw and write one network, tensor by tensor."""
    shapes = tensor_shapes(config)
    itemsize = np.dtype(dtype).itemsize
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * itemsize
        header[name] = {
            "dtype": f"F{8 * itemsize}",
            "shape": shape,
            "data_offsets": (offset, end),
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            file.write(random_tensor(name, shape, seed).astype(dtype).data)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a byte-level CLIP tokenizer without merges; begin and end are the last two ids."""
    # The printable characters that stand for the 256 bytes in byte-level BPE vocabularies.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = letters + [letter + "</w>" for letter in letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    vocab |= {"<|startoftext|>": vocab_size - 2, "<|endoftext|>": vocab_size - 1}
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 77,
            "errors": "replace",
            **special,
        },
    )


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON; create the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(out: Path, size: str, dtype: str = "float16", seed: int = 0) -> None:
    """Write the folder `out`. Each network has its own seed, derived from `seed`."""
    configs = SIZES[size]
    for name, config in configs._asdict().items():
        path = out / FILES[name]
        write_json(path.parent / "config.json", published.network_json(config))
        write_safetensors(path, config, dtype, seed + SEEDS[name])
        print(f"{path}: {count_params(config) / 1e6:.1f} million parameters, {dtype}")
    write_tokenizer(out / "sd" / "tokenizer", configs.text_encoder.vocab_size)
    write_json(
        out / "sd" / "scheduler" / "scheduler_config.json",
        published.scheduler_json(ScheduleConfig()),
    )
    write_json(
        out / "clip-vision" / "preprocessor_config.json",
        published.preprocessor_json(configs.image_encoder),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes a random checkpoint in the published layout."
    )
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.out, args.size, args.dtype, args.seed)


if __name__ == "__main__":
    main()
