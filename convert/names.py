"""From our parameter names to the names in published files.

The map is driven by the target: every leaf of a network's parameter tree names the one key that
it needs. A module's name is torch's own with `.N` written `_N`; exceptions are listed by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from anchor_jax.checkpoint.parameters import Lazy, abstract_params, flatten, unflatten
from anchor_jax.errors import shorten
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.shapes import Params

from .sources import Tensor, Weights

KEPT = {"linear_1", "linear_2"}  # torch's own underscore
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
TYPES = ("float16", "bfloat16", "float32")

# Keys that a format has and we do not need, each reported when it is left out.
LDM_IGNORED = {
    "moving averages": r"model_ema\..*",
    "schedule tables": (
        r"betas|logvar|lvlb_weights|alphas_cumprod(_prev)?|log_one_minus_alphas_cumprod"
        r"|sqrt_(one_minus_|recip_|recipm1_)?alphas_cumprod"
        r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
    ),
}
CLIP_IGNORED = {
    "text half of CLIP": r"text_model\..*|text_projection\.weight|logit_scale",
    "projection of CLIP": r"visual_projection\.weight",
}
# 0, 1, 2, ... stored as a tensor by older versions of transformers.
POSITION_IDS = {
    "image_encoder": "vision_model.embeddings.position_ids",
    "text_encoder": "text_model.embeddings.position_ids",
}


def torch_key(path: tuple[str, ...]) -> str:
    """`("down_blocks_0", "conv1", "kernel")` becomes `down_blocks.0.conv1.weight`."""
    *modules, leaf = path
    named = [part if part in KEPT else re.sub(r"_(\d+)$", r".\1", part) for part in modules]
    return ".".join([*named, LEAVES.get(leaf, leaf)])


def to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Kernels (h, w, in, out) -> (out, in, h, w) and (in, out) -> (out, in); the rest as it is."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch(path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`; a 1x1 convolution becomes a matrix where `shape` is one."""
    if path[-1] != "kernel":
        return array
    if len(shape) == 2:
        return array.reshape(array.shape[:2]).T
    return array.transpose(2, 3, 1, 0)


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `to_torch` gives."""
    if path[-1] != "kernel":
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def old_vae_key(key: str) -> str:
    """The VAE's attention as diffusers named it before 0.15."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return re.sub(
        r"(attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}{names[m[2]]}.", key
    )


def ldm_vae_key(key: str, config: VAEConfig) -> str:
    """The VAE's keys in a single-file checkpoint, after `first_stage_model.`."""
    last = len(config.channels) - 1
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(
        r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.",
        lambda m: f"up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}.",
        key,
    )
    key = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", key)
    key = key.replace("mid_block.attentions.0.", "mid.attn_1.")
    for ours, theirs in {
        ".conv_norm_out.": ".norm_out.",
        ".conv_shortcut.": ".nin_shortcut.",
        ".group_norm.": ".norm.",
        ".to_q.": ".q.",
        ".to_k.": ".k.",
        ".to_v.": ".v.",
        ".to_out.0.": ".proj_out.",
    }.items():
        key = key.replace(ours, theirs)
    return "first_stage_model." + key


def ldm_unet_key(key: str, config: UNetConfig) -> str:
    """The UNet's keys in a single-file checkpoint, after `model.diffusion_model.`.

    There the blocks of all levels are numbered through; a level has `layers_per_block` (going up,
    one more) of them, and going down one for the resampling, which going up is a part of the
    last.
    """
    down = config.layers_per_block + 1
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    top |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    module, _, leaf = key.rpartition(".")
    if module in top:
        return f"model.diffusion_model.{top[module]}.{leaf}"

    def down_block(m: re.Match) -> str:
        level, kind, index = int(m[1]), m[2], int(m[3])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * down}.0."
        return f"input_blocks.{1 + level * down + index}.{kind == 'attentions':d}."

    def up_block(m: re.Match) -> str:
        level, kind, index = int(m[1]), m[2], int(m[3])
        if kind == "upsamplers":
            attends = config.cross_attention[len(config.channels) - 1 - level]
            return f"output_blocks.{level * down + down - 1}.{1 + attends}."
        return f"output_blocks.{level * down + index}.{kind == 'attentions':d}."

    key = re.sub(r"^down_blocks\.(\d+)\.(\w+)\.(\d+)\.", down_block, key)
    key = re.sub(r"^up_blocks\.(\d+)\.(\w+)\.(\d+)\.", up_block, key)
    key = key.replace("mid_block.resnets.0.", "middle_block.0.")
    key = key.replace("mid_block.attentions.0.", "middle_block.1.")
    key = key.replace("mid_block.resnets.1.", "middle_block.2.")
    if key.startswith("input_blocks"):
        key = re.sub(r"\.0\.conv\.", ".0.op.", key)
    for ours, theirs in {
        ".norm1.": ".in_layers.0.",
        ".conv1.": ".in_layers.2.",
        ".time_emb_proj.": ".emb_layers.1.",
        ".norm2.": ".out_layers.0.",
        ".conv2.": ".out_layers.3.",
        ".conv_shortcut.": ".skip_connection.",
    }.items():
        if ".transformer_blocks." not in key:
            key = key.replace(ours, theirs)
    return "model.diffusion_model." + key


@dataclass
class Match:
    """One network's tree of `Lazy` leaves, and what did not fit."""

    tree: Params
    problems: list[str]
    used: set[str]


def match(
    config: NetworkConfig,
    weights: Weights,
    dtype: str,
    key_of: Callable[[str], str] = lambda key: key,
) -> Match:
    """Find the tensor of every parameter.

    Args:
        config: of the network.
        weights: the file.
        dtype: of the result, or "keep".
        key_of: from the published folders' name of a tensor to the one in this file.
    """
    missing, misshapen, types, leaves, used = [], [], [], {}, set()
    for path, leaf in flatten(abstract_params(config)).items():
        key = key_of(torch_key(path))
        tensor = weights.tensors.get(key)
        if tensor is None:
            missing.append(key)
            continue
        used.add(key)
        expected = torch_shape(path, leaf.shape)
        # Single files keep the VAE's attention as 1x1 convolutions.
        flat = isinstance(config, VAEConfig) and "attentions_0" in path and len(expected) == 2
        if tensor.shape != expected and not (flat and tensor.shape == (*expected, 1, 1)):
            misshapen.append(f"{key} {_by(tensor.shape)} instead of {_by(expected)}")
        elif tensor.dtype not in TYPES:
            types.append(f"{key} {tensor.dtype}")
        else:
            leaves[path] = _lazy(path, tensor, leaf.shape, dtype)
    problems = [
        f"{len(found)} {what} ({shorten(found)})"
        for what, found in (
            ("missing", missing),
            ("wrong-shaped", misshapen),
            (f"of another type than {'/'.join(TYPES)}", types),
        )
        if found
    ]
    return Match(unflatten(leaves), problems, used)


def leave_out(keys: Iterable[str], patterns: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """Split `keys` into those that no pattern names, and how many each pattern took."""
    rest, counts = [], {}
    for key in keys:
        for label, pattern in patterns.items():
            if re.fullmatch(pattern, key):
                counts[label] = counts.get(label, 0) + 1
                break
        else:
            rest.append(key)
    return rest, counts


def num_positions(config: NetworkConfig) -> int:
    """Rows of a CLIP encoder's position embedding."""
    assert isinstance(config, CLIPTextConfig | CLIPVisionConfig)
    return config.max_length if isinstance(config, CLIPTextConfig) else config.num_tokens


def is_counting(tensor: Tensor, config: NetworkConfig) -> bool:
    """Whether the tensor is 0, 1, 2, ..., one for each position of a CLIP encoder."""
    count = num_positions(config)
    if tensor.shape != (1, count) or tensor.dtype not in (*TYPES, "int64"):
        return False
    return bool((tensor.read() == np.arange(count)).all())


def _lazy(path: tuple[str, ...], tensor: Tensor, shape: tuple[int, ...], dtype: str) -> Lazy:
    target = np.dtype(tensor.dtype if dtype == "keep" else dtype)

    def read() -> np.ndarray:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused by name
            return from_torch(path, tensor.read(), shape).astype(target, copy=False)

    return Lazy(shape, target, read)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
