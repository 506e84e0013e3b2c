"""Write random weights in the published folder layout, for benchmarks and size tests.

    python -m benchmarks.random_checkpoint --size sd15 --out /tmp/sd15 [--dtype float16]

`OUT/body/{unet,controlnet}`, `OUT/sd/{vae,text_encoder,tokenizer,scheduler}` and `OUT/clip-vision`
hold config.json and safetensors files as the published checkpoints do. Every tensor is drawn from
the seed and its own name, one at a time, so memory stays at one tensor, whatever the size.
Names and shapes come from diffusers and transformers, built without storage ("meta" device).
"""

import argparse
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anchor_jax.models.configs import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)


@dataclass(frozen=True)
class Size:
    """The configs of one checkpoint."""

    unet: UNetConfig = UNetConfig()
    control: ControlConfig = ControlConfig()
    vae: VAEConfig = VAEConfig()
    text: CLIPTextConfig = CLIPTextConfig()
    vision: CLIPVisionConfig = CLIPVisionConfig()


def _scaled(channels, layers, heads, context, groups, pose_channels, vae_channels) -> Size:
    """A smaller model whose networks share their sizes."""
    body = dict(
        channels=channels,
        layers_per_block=layers,
        num_heads=heads,
        context_dim=context,
        norm_groups=groups,
    )
    clip = dict(width=context, mlp_width=2 * context, num_layers=2, num_heads=4)
    return Size(
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
    "sd15": Size(),
}


def published_config(config: NetworkConfig) -> dict:
    """config.json of one network as diffusers and transformers write it."""
    match config:
        case UNetConfig() | ControlConfig():
            down = [
                "CrossAttnDownBlock2D" if cross else "DownBlock2D"
                for cross in config.cross_attention
            ]
            common = {
                "act_fn": "silu",
                "attention_head_dim": config.num_heads,
                "block_out_channels": list(config.channels),
                "cross_attention_dim": config.context_dim,
                "down_block_types": down,
                "downsample_padding": 1,
                "flip_sin_to_cos": True,
                "freq_shift": 0,
                "in_channels": config.in_channels,
                "layers_per_block": config.layers_per_block,
                "mid_block_scale_factor": 1,
                "norm_eps": 1e-5,
                "norm_num_groups": config.norm_groups,
            }
            if isinstance(config, ControlConfig):
                return {
                    "_class_name": "ControlNetModel",
                    "conditioning_channels": config.pose_channels,
                    "conditioning_embedding_out_channels": list(config.pose_embedding_channels),
                    **common,
                }
            up = [name.replace("Down", "Up") for name in reversed(down)]
            return {
                "_class_name": "UNet2DConditionModel",
                "out_channels": config.out_channels,
                "up_block_types": up,
                **common,
            }
        case VAEConfig():
            levels = len(config.channels)
            return {
                "_class_name": "AutoencoderKL",
                "act_fn": "silu",
                "block_out_channels": list(config.channels),
                "down_block_types": ["DownEncoderBlock2D"] * levels,
                "in_channels": config.image_channels,
                "latent_channels": config.latent_channels,
                "layers_per_block": config.layers_per_block,
                "norm_num_groups": config.norm_groups,
                "out_channels": config.image_channels,
                "scaling_factor": config.scaling_factor,
                "up_block_types": ["UpDecoderBlock2D"] * levels,
            }
    common = {
        "hidden_act": "quick_gelu",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "projection_dim": config.width,
    }
    if isinstance(config, CLIPVisionConfig):
        return {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "image_size": config.image_size,
            "num_channels": 3,
            "patch_size": config.patch_size,
            **common,
        }
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
        "pad_token_id": config.vocab_size - 1,
        "max_position_embeddings": config.max_length,
        "vocab_size": config.vocab_size,
        **common,
    }


def torch_network(config: NetworkConfig):
    """The diffusers or transformers module of a config, on the device of the caller's context."""
    import diffusers
    import transformers

    settings = {k: v for k, v in published_config(config).items() if not k.startswith("_")}
    match config:
        case UNetConfig():
            return diffusers.UNet2DConditionModel(**settings)
        case ControlConfig():
            return diffusers.ControlNetModel(**settings)
        case VAEConfig():
            return diffusers.AutoencoderKL(**settings)
        case CLIPVisionConfig():
            return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**settings))
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))


def tensor_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Published tensor names and shapes of one network."""
    import torch

    with torch.device("meta"):
        state = torch_network(config).state_dict()
    prefix = {CLIPVisionConfig: "vision_model.", CLIPTextConfig: "text_model."}.get(
        type(config), ""
    )
    return {
        name if name.startswith(prefix) else prefix + name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("position_ids")
    }


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """One random float32 tensor, the same for the same name and seed.

    Matrices and convolutions get a standard deviation of 1/sqrt(fan-in), norms a scale near one,
    and the control branch's "zero" convolutions a tenth of the usual: small, but not zero.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("embedding") or "embeddings." in name and "patch" not in name:
        return values * np.float32(0.05)
    if len(shape) > 1:
        gain = 0.1 if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")) else 1.0
        values *= np.float32(gain / math.sqrt(math.prod(shape[1:])))
        return values
    return 1 + np.float32(0.1) * values if name.endswith("weight") else np.float32(0.02) * values


def write_safetensors(path: Path, config: NetworkConfig, dtype: str, seed: int) -> int:
    """Draw and write one network, tensor by tensor; returns the number of parameters."""
    shapes = tensor_shapes(config)
    itemsize = np.dtype(dtype).itemsize
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * itemsize
        header[name] = {
            "dtype": f"F{8 * itemsize}",
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            file.write(draw(name, shape, seed).astype(dtype).data)
    return offset // itemsize


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level CLIP tokenizer without merges; begin and end are the last two ids."""
    # The printable stand-ins of the 256 bytes that byte-level BPE vocabularies use.
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
    """Write indented JSON, making the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_checkpoint(out: Path, size: Size, dtype: str = "float16", seed: int = 0) -> None:
    """Write the whole folder `out`; every network has a seed of its own."""
    networks = {
        "body/unet/diffusion_pytorch_model": size.unet,
        "body/controlnet/diffusion_pytorch_model": size.control,
        "sd/vae/diffusion_pytorch_model": size.vae,
        "sd/text_encoder/model": size.text,
        "clip-vision/model": size.vision,
    }
    for index, (name, config) in enumerate(networks.items()):
        path = out / f"{name}.safetensors"
        write_json(path.parent / "config.json", published_config(config))
        count = write_safetensors(path, config, dtype, seed + index)
        print(f"{path}: {count / 1e6:.1f} million parameters, {dtype}")
    write_tokenizer(out / "sd" / "tokenizer", size.text.vocab_size)
    write_json(
        out / "sd" / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "PNDMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        },
    )
    write_json(
        out / "clip-vision" / "preprocessor_config.json",
        {
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": {"shortest_edge": 224},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random checkpoint, published layout.")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.out, SIZES[args.size], args.dtype, args.seed)


if __name__ == "__main__":
    main()
