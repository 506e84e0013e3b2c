"""The table of torch names: every rule that maps our parameters to tensors of torch checkpoints.

    down_blocks_0/resnets_1/conv1/kernel <-> down_blocks.0.resnets.1.conv1.weight (OIHW)

A path of ours is torch's own name with `.N` written `_N`. The leaves `kernel`, `scale` and
`embedding` are torch's `weight`. `_KEPT` lists the exceptions.

    >>> torch_key(("down_blocks_0", "resnets_1", "conv1", "kernel"))
    'down_blocks.0.resnets.1.conv1.weight'
    >>> torch_shape(("conv1", "kernel"), (3, 3, 320, 640))  # HWIO to OIHW
    (640, 320, 3, 3)

`torch_key` gives the names of diffusers' and transformers' folders. `old_vae_key`, `ldm_vae_key`
and `ldm_unet_key` translate those for older and for single-file checkpoints. `match` goes through
all parameters that a network needs and finds the tensor of each.
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

_KEPT = {"linear_1", "linear_2"}  # torch writes these with an underscore, too
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_TYPES = ("float16", "bfloat16", "float32")

# Prefixes of the networks in a single-file checkpoint. LDM: latent diffusion models
# (https://arxiv.org/abs/2112.10752), whose code defined that format.
LDM_UNET, LDM_VAE = "model.diffusion_model.", "first_stage_model."
LDM_TEXT = "cond_stage_model.transformer."

# Keys of a format that no parameter needs, as {label: pattern}. A note reports how many were left
# out under each label.
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
# A buffer with 0, 1, 2, ..., which older versions of transformers store beside the weights.
POSITION_IDS = {
    "image_encoder": "vision_model.embeddings.position_ids",
    "text_encoder": "text_model.embeddings.position_ids",
}


def torch_key(path: tuple[str, ...]) -> str:
    """Return torch's name of the parameter at `path`.

    >>> torch_key(("time_embedding", "linear_1", "bias"))
    'time_embedding.linear_1.bias'
    """
    *modules, leaf = path
    named = [part if part in _KEPT else re.sub(r"_(\d+)$", r".\1", part) for part in modules]
    return ".".join([*named, _LEAVES.get(leaf, leaf)])


def to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Transpose a kernel: (h, w, in, out) -> (out, in, h, w) or (in, out) -> (out, in).

    Other arrays are returned unchanged.
    """
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def from_torch(path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Invert `to_torch`. A 1x1 convolution becomes a matrix if `shape`, of our parameter, is 2D."""
    if path[-1] != "kernel":
        return array
    if len(shape) == 2:
        return array.reshape(array.shape[:2]).T
    return array.transpose(2, 3, 1, 0)


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of `to_torch`'s result for a parameter of this path and shape."""
    if path[-1] != "kernel":
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def old_vae_key(key: str) -> str:
    """Translate a key of the VAE to diffusers' names before 0.15, which differ in the attention.

    >>> old_vae_key("encoder.mid_block.attentions.0.to_q.weight")
    'encoder.mid_block.attentions.0.query.weight'
    """
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return re.sub(
        r"(attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.", lambda m: f"{m[1]}{old[m[2]]}.", key
    )


def ldm_vae_key(key: str, config: VAEConfig) -> str:
    """Translate a key of the VAE to its name in a single-file checkpoint.

    >>> ldm_vae_key("encoder.down_blocks.1.resnets.0.conv1.bias", VAEConfig())
    'first_stage_model.encoder.down.1.block.0.conv1.bias'
    """
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
    return LDM_VAE + key


def ldm_unet_key(key: str, config: UNetConfig) -> str:
    """Translate a key of the UNet to its name in a single-file checkpoint.

    There one number counts the blocks of all levels. Going down, a level has `layers_per_block`
    blocks and one more for the downsampling. Going up, it has `layers_per_block` + 1 blocks, and
    the upsampling belongs to the last of them.

    >>> ldm_unet_key("down_blocks.2.attentions.1.proj_in.weight", UNetConfig())
    'model.diffusion_model.input_blocks.8.1.proj_in.weight'
    """
    down = config.layers_per_block + 1
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    top |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    module, _, leaf = key.rpartition(".")
    if module in top:
        return f"{LDM_UNET}{top[module]}.{leaf}"

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
    return LDM_UNET + key


@dataclass
class Match:
    """The parameters found for one network.

    Attributes:
        tree: the parameters as `Lazy` leaves. Parameters with a problem are missing here.
        problems: one line for each kind of problem.
        used: keys of the file that belong to a parameter.
    """

    tree: Params
    problems: list[str]
    used: set[str]


def match(
    config: NetworkConfig,
    weights: Weights,
    dtype: str,
    key_of: Callable[[str], str] = lambda key: key,
) -> Match:
    """Find the tensor of every parameter of a network. No tensor is read yet.

    Args:
        config: the network's config.
        weights: the weight file.
        dtype: type of the parameters, or "keep" for the type of each tensor.
        key_of: translates a key of the published folders to this file's key.

    Returns:
        The parameters, and the missing, wrong-shaped and wrongly typed tensors as problems.
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
        elif tensor.dtype not in _TYPES:
            types.append(f"{key} {tensor.dtype}")
        else:
            leaves[path] = _lazy(path, tensor, leaf.shape, dtype)
    problems = [
        f"{len(found)} {what} ({shorten(found)})"
        for what, found in (
            ("missing", missing),
            ("wrong-shaped", misshapen),
            (f"of another type than {'/'.join(_TYPES)}", types),
        )
        if found
    ]
    return Match(unflatten(leaves), problems, used)


def leave_out(keys: Iterable[str], patterns: Mapping[str, str]) -> tuple[list[str], dict[str, int]]:
    """Return the keys that match no pattern, and the number of keys that each pattern matched.

    Args:
        keys: of a weight file.
        patterns: {label: regular expression for the whole key}.
    """
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
    """Return the number of rows of a CLIP encoder's position embedding.

    Raises:
        TypeError: the config is not of a CLIP encoder.
    """
    match config:
        case CLIPTextConfig():
            return config.max_length
        case CLIPVisionConfig():
            return config.num_tokens
    raise TypeError(f"{type(config).__name__} is not the config of a CLIP encoder")


def is_counting(tensor: Tensor, config: NetworkConfig) -> bool:
    """Return whether the tensor holds 0, 1, 2, ..., one for each position of a CLIP encoder."""
    count = num_positions(config)
    if tensor.shape != (1, count) or tensor.dtype not in (*_TYPES, "int64"):
        return False
    return bool((tensor.read() == np.arange(count)).all())


def _lazy(path: tuple[str, ...], tensor: Tensor, shape: tuple[int, ...], dtype: str) -> Lazy:
    target = np.dtype(tensor.dtype if dtype == "keep" else dtype)

    def read() -> np.ndarray:
        with np.errstate(over="ignore"):  # becomes infinite, which the writer reports by name
            return from_torch(path, tensor.read(), shape).astype(target, copy=False)

    return Lazy(shape, target, read)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
