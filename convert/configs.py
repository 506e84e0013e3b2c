"""Reads config.json files of diffusers and transformers into our configs.

Every entry of a diffusers file either sets a field, or must have the one value that our networks
implement, or is listed as irrelevant. Every other entry is a problem. The files of CLIP and of the
scheduler have many entries that do not change the result: there, unknown entries are ignored.

The functions here do not raise on a wrong entry. They append a line to `problems`, so that the
caller reports all problems of all files together. They raise AnchorError where a file is missing or
is not a JSON object. `published` writes the same files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchor_jax.checkpoint import Anchor
from anchor_jax.checkpoint.config_json import invalid_configs
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    UNetConfig,
    VAEConfig,
)

from .config_file import ConfigFile
from .sources import read_json

# Allowed values of entries, for entries that are present. diffusers' UNet and ControlNet:
_UNET_ALLOWED: dict[str, Sequence[Any]] = {
    "act_fn": ["silu"],
    "addition_embed_type": [None],
    "attention_type": ["default"],
    "center_input_sample": [False],
    "class_embed_type": [None],
    "class_embeddings_concat": [False],
    "conv_in_kernel": [3],
    "conv_out_kernel": [3],
    "cross_attention_norm": [None],
    "downsample_padding": [1],
    "dropout": [0.0],
    "dual_cross_attention": [False],
    "encoder_hid_dim": [None],
    "encoder_hid_dim_type": [None],
    "flip_sin_to_cos": [True],
    "freq_shift": [0],
    "global_pool_conditions": [False],
    "mid_block_only_cross_attention": [None, False],
    "mid_block_scale_factor": [1],
    "mid_block_type": ["UNetMidBlock2DCrossAttn"],
    "norm_eps": [1e-5],
    "num_class_embeds": [None],
    "only_cross_attention": [False],
    "projection_class_embeddings_input_dim": [None],
    "resnet_out_scale_factor": [1.0],
    "resnet_skip_time_act": [False],
    "resnet_time_scale_shift": ["default"],
    "reverse_transformer_layers_per_block": [None],
    "time_cond_proj_dim": [None],
    "time_embedding_act_fn": [None],
    "time_embedding_dim": [None],
    "time_embedding_type": ["positional"],
    "timestep_post_act": [None],
    "transformer_layers_per_block": [1],
    "upcast_attention": [False],
    "use_linear_projection": [False],
    "controlnet_conditioning_channel_order": ["rgb"],
}
_UNET_IGNORED = ["addition_embed_type_num_heads", "addition_time_embed_dim", "sample_size"]
_VAE_ALLOWED: dict[str, Sequence[Any]] = {
    "act_fn": ["silu"],
    "latents_mean": [None],
    "latents_std": [None],
    "mid_block_add_attention": [True],
    "shift_factor": [None, 0.0],
    "use_post_quant_conv": [True],
    "use_quant_conv": [True],
}
_CLIP_ALLOWED: dict[str, Sequence[Any]] = {
    "hidden_act": ["quick_gelu"],
    "layer_norm_eps": [1e-5],
    "num_channels": [3],
}


def read_unet(path: Path, in_channels: int, problems: list[str]) -> UNetConfig:
    """Read a UNet2DConditionModel that has the blocks of Stable Diffusion 1.5.

    `in_channels` of Stable Diffusion's latents is 4 for the body, 9 for the face.
    """
    file = ConfigFile(read_json(path), path)
    fields = _encoder_fields(file, "UNet2DConditionModel")
    down = fields["cross_attention"]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(down)]
    file.check("up_block_types", up, required=True)
    file.check("in_channels", in_channels, required=True)
    out_channels = file.integer("out_channels")
    file.check_unread(_UNET_IGNORED)
    problems += file.problems
    return UNetConfig(**fields, in_channels=in_channels, out_channels=out_channels)


def read_control(path: Path, in_channels: int, problems: list[str]) -> ControlConfig:
    """Read a ControlNetModel for such a UNet. `in_channels` are the channels of the latents."""
    file = ConfigFile(read_json(path), path)
    fields = _encoder_fields(file, "ControlNetModel")
    file.check("in_channels", in_channels, required=True)
    pose_channels = file.integer("conditioning_channels", 3)
    file.check("conditioning_channels", 3)
    hidden = file.integers("conditioning_embedding_out_channels")
    file.check_unread(_UNET_IGNORED)
    problems += file.problems
    return ControlConfig(
        **fields,
        in_channels=in_channels,
        pose_channels=pose_channels,
        pose_embedding_channels=hidden,
    )


def read_vae(path: Path, problems: list[str]) -> VAEConfig:
    """Read an AutoencoderKL."""
    file = ConfigFile(read_json(path), path)
    file.check("_class_name", "AutoencoderKL")
    for key, allowed in _VAE_ALLOWED.items():
        file.check(key, *allowed)
    config = VAEConfig(
        image_channels=file.integer("in_channels", 3),
        latent_channels=file.integer("latent_channels", 4),
        channels=file.integers("block_out_channels"),
        layers_per_block=file.integer("layers_per_block", 1, most=256),
        norm_groups=file.integer("norm_num_groups", 32),
        scaling_factor=file.number("scaling_factor", 0.18215, most=1e6),
    )
    levels = len(config.channels)
    file.check("in_channels", 3)
    file.check("out_channels", 3)
    file.check("down_block_types", ["DownEncoderBlock2D"] * levels, required=True)
    file.check("up_block_types", ["UpDecoderBlock2D"] * levels, required=True)
    file.check_unread(["force_upcast", "sample_size"])
    problems += file.problems
    return config


def read_image_encoder(path: Path, problems: list[str]) -> CLIPVisionConfig:
    """Read the vision encoder of CLIP from the config of a CLIPVisionModel or a CLIPModel."""
    values = read_json(path)
    inner = values.get("vision_config")
    file = ConfigFile(inner if isinstance(inner, dict) else values, path)
    config = CLIPVisionConfig(
        image_size=file.integer("image_size", 224),
        patch_size=file.integer("patch_size", 32),
        **_clip_fields(file, width=768, mlp_width=3072, num_heads=12),
    )
    file.check("model_type", "clip_vision_model", "clip")
    if config.image_size % config.patch_size:
        file.add_problem("patch_size", f"a divisor of image_size, {config.image_size}")
    problems += file.problems
    return config


def read_text_encoder(path: Path, problems: list[str]) -> CLIPTextConfig:
    """Read a CLIPTextModel."""
    file = ConfigFile(read_json(path), path)
    config = CLIPTextConfig(
        vocab_size=file.integer("vocab_size", 49408),
        max_length=file.integer("max_position_embeddings", 77),
        **_clip_fields(file, width=512, mlp_width=2048, num_heads=8),
    )
    file.check("model_type", "clip_text_model")
    problems += file.problems
    return config


def read_schedule(path: Path, problems: list[str]) -> ScheduleConfig:
    """Read the noise schedule from a scheduler's config.

    Options of samplers other than DDIM are ignored: the published system takes only the betas and
    the offset, and runs DDIM (https://arxiv.org/abs/2010.02502).
    """
    file = ConfigFile(read_json(path), path)
    for key, allowed in {
        "beta_schedule": ["scaled_linear"],
        "trained_betas": [None],
        "timestep_spacing": ["leading"],
        "thresholding": [False],
        "rescale_betas_zero_snr": [False],
        "clip_sample": [False],
        "prediction_type": ["epsilon", "v_prediction"],
    }.items():
        file.check(key, *allowed, required=key == "beta_schedule")
    file.check("set_alpha_to_one", True, False)
    file.check("steps_offset", 0, 1)
    config = ScheduleConfig(
        num_train_timesteps=file.integer("num_train_timesteps", 1000),
        beta_start=file.number("beta_start", 0.0001),
        beta_end=file.number("beta_end", 0.02),
        steps_offset=int(file.values.get("steps_offset", 0) == 1),
        set_alpha_to_one=file.values.get("set_alpha_to_one", True) is True,
        prediction_type=str(file.values.get("prediction_type", "epsilon")),
    )
    problems += file.problems
    return config


def check_preprocessor(path: Path, image_size: int, problems: list[str]) -> None:
    """Check that the file describes the preprocessing of CLIP, the only one that we implement."""
    file = ConfigFile(read_json(path), path)
    file.check("image_mean", [0.48145466, 0.4578275, 0.40821073])
    file.check("image_std", [0.26862954, 0.26130258, 0.27577711])
    file.check("size", {"shortest_edge": image_size}, image_size)
    file.check("crop_size", {"height": image_size, "width": image_size}, image_size)
    file.check("resample", 3)
    file.check("rescale_factor", 1 / 255)
    for key in ("do_center_crop", "do_normalize", "do_rescale", "do_resize"):
        file.check(key, True)
    problems += file.problems


def cross_check(anchor: Anchor) -> list[str]:
    """Return the problems of networks that do not fit together, such as different widths."""
    vae, image = anchor.vae.config, anchor.image_encoder.config
    text = anchor.text_encoder.config
    facts: list[tuple[str, Any, str, Any]] = [
        ("the image encoder's width", image.width, "the text encoder's", text.width)
    ]
    problems = invalid_configs({name: item.config for name, item in anchor.networks().items()})
    latents = vae.latent_channels
    for part, networks in (("body", anchor.body), ("face", anchor.face)):
        if networks is None:
            continue
        unet, control = networks.unet.config, networks.control.config
        inputs = {"body": latents, "face": 2 * latents + 1}
        facts += [
            (f"{part}/unet's cross_attention_dim", unet.context_dim, "CLIP's width", text.width),
            (f"{part}/unet's in_channels", unet.in_channels, "this part's", inputs[part]),
            (f"{part}/unet's out_channels", unet.out_channels, "the VAE's latents", latents),
            (f"{part}/control's in_channels", control.in_channels, "the VAE's latents", latents),
            (
                f"{part}/control's pose embedding factor",
                2 ** (len(control.pose_embedding_channels) - 1),
                "the VAE's",
                vae.factor,
            ),
        ]
        for field in (
            "channels",
            "layers_per_block",
            "cross_attention",
            "num_heads",
            "context_dim",
        ):
            value, other = getattr(control, field), getattr(unet, field)
            facts.append((f"{part}/control's {field}", value, f"{part}/unet's", other))
    problems += [f"{a} is {x}, but {b} is {y}" for a, x, b, y in facts if x != y]
    if image.num_tokens > text.max_length:
        problems.append(
            f"the image encoder yields {image.num_tokens} tokens, but the text encoder takes"
            f" at most {text.max_length}"
        )
    return problems


def _encoder_fields(file: ConfigFile, class_name: str) -> dict[str, Any]:
    """Read the fields that UNet and control branch have in common."""
    file.check("_class_name", class_name)
    for key, allowed in _UNET_ALLOWED.items():
        file.check(key, *allowed)
    channels = file.integers("block_out_channels")
    blocks = file.values.get("down_block_types")
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    file.mark_read("down_block_types")
    blocks = blocks if isinstance(blocks, list) else []
    if len(blocks) != len(channels) or any(str(block) not in kinds for block in blocks):
        file.add_problem("down_block_types", f"{len(channels)} of {' and '.join(kinds)}")
        blocks = ["DownBlock2D"] * len(channels)
    # In diffusers attention_head_dim is the number of heads, unless num_attention_heads is set.
    heads_key = "num_attention_heads"
    if file.values.get(heads_key) is None:
        heads_key = "attention_head_dim"
    file.mark_read("attention_head_dim", "num_attention_heads")
    num_heads, groups = file.integer(heads_key), file.integer("norm_num_groups", 32)
    return {
        "channels": channels,
        "layers_per_block": file.integer("layers_per_block", 2, most=256),
        "cross_attention": tuple(kinds[block] for block in blocks),
        "num_heads": num_heads,
        "context_dim": file.integer("cross_attention_dim"),
        "norm_groups": groups,
    }


def _clip_fields(file: ConfigFile, width: int, mlp_width: int, num_heads: int) -> dict[str, int]:
    """Read the fields that both CLIP encoders have in common.

    The defaults are those of transformers, which does not write entries that have their default.
    """
    for key, allowed in _CLIP_ALLOWED.items():
        file.check(key, *allowed)
    return {
        "width": file.integer("hidden_size", width),
        "mlp_width": file.integer("intermediate_size", mlp_width),
        "num_layers": file.integer("num_hidden_layers", 12, most=256),
        "num_heads": file.integer("num_attention_heads", num_heads),
    }
