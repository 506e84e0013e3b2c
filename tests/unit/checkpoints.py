"""Small published checkpoints for the tests of conversion, in every form that they come in."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from anchor_jax.checkpoint.parameters import abstract_params, flatten
from anchor_jax.convert import names
from anchor_jax.convert.published import network_json
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)

# Widths that a single file allows: 8 heads, 32 norm groups, text heads 64 wide.
UNET = UNetConfig(
    channels=(32, 64), layers_per_block=1, cross_attention=(True, False), context_dim=64
)
CONTROL = ControlConfig(
    channels=(32, 64), layers_per_block=1, cross_attention=(True, False), context_dim=64
)
VAE = VAEConfig(channels=(32, 32, 32, 64), layers_per_block=1)
TEXT = CLIPTextConfig(vocab_size=99, width=64, mlp_width=96, num_layers=2, num_heads=1)
VISION = CLIPVisionConfig(image_size=64, width=64, mlp_width=96, num_layers=1, num_heads=4)


def tensors(config: NetworkConfig, dtype: str = "float16") -> dict[str, np.ndarray]:
    """Random tensors under their published names; no two are alike."""
    rng = np.random.default_rng(len(network_json(config)))
    return {
        names.torch_key(path): rng.normal(size=names.torch_shape(path, leaf.shape)).astype(dtype)
        for path, leaf in flatten(abstract_params(config)).items()
    }


def write_network(
    folder: Path, config: NetworkConfig, dtype: str = "float16", **extra: np.ndarray
) -> Path:
    """config.json and weights of one network; returns the file of the weights."""
    clip = isinstance(config, CLIPVisionConfig | CLIPTextConfig)
    path = folder / f"{'model' if clip else 'diffusion_pytorch_model'}.safetensors"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(network_json(config)))
    save_file(tensors(config, dtype) | extra, path)
    return path


def write_all(root: Path, dtype: str = "float16") -> dict[str, Path]:
    """body/, sd/ (with a UNet) and clip-vision/, as arguments for `convert`."""
    write_network(root / "body" / "unet", UNET, dtype)
    write_network(root / "body" / "controlnet", CONTROL, dtype)
    write_network(root / "sd" / "unet", UNET, dtype)
    write_network(root / "sd" / "vae", VAE, dtype)
    write_network(root / "sd" / "text_encoder", TEXT, dtype)
    write_network(root / "clip-vision", VISION, dtype)
    return {
        "body": root / "body",
        "base": root / "sd",
        "image_encoder": root / "clip-vision",
        "out": root / "anchor",
    }


def single_file(dtype: str = "float16") -> dict[str, np.ndarray]:
    """The base as one file has it: other names, 1x1 convolutions, tables and moving averages."""
    state: dict[str, np.ndarray] = {}
    for key, array in tensors(UNET, dtype).items():
        state[names.ldm_unet_key(key, UNET)] = array
        state["model_ema." + key.replace(".", "")] = array
    for key, array in tensors(VAE, dtype).items():
        if "attentions" in key and array.ndim == 2:
            array = array[:, :, None, None]
        state[names.ldm_vae_key(key, VAE)] = array
    for key, array in tensors(TEXT, dtype).items():
        state[names.LDM_TEXT + key] = array
    state[names.LDM_TEXT + names.POSITION_IDS["text_encoder"]] = np.arange(77)[None]
    state["betas"] = np.linspace(0, 1, 1000)
    state["sqrt_recipm1_alphas_cumprod"] = np.linspace(0, 1, 1000)
    return state
