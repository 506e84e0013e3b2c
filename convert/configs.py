"""config.json of diffusers and transformers, to our configs and back.

Every entry is looked at: it sets a field, or must have the one value that our networks compute, or
is known not to matter. Everything else is a problem, and all problems are reported together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anchor_jax.checkpoint.config_json import impossible
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)

from .entries import Entries
from .sources import read_json

# Entries of diffusers' UNet and ControlNet that must have one of these values, if they are there.
_UNET_FIXED: dict[str, Sequence[Any]] = {
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
_UNET_FREE = ["addition_embed_type_num_heads", "addition_time_embed_dim", "sample_size"]
_VAE_FIXED: dict[str, Sequence[Any]] = {
    "act_fn": ["silu"],
    "latents_mean": [None],
    "latents_std": [None],
    "mid_block_add_attention": [True],
    "shift_factor": [None, 0.0],
    "use_post_quant_conv": [True],
    "use_quant_conv": [True],
}
_CLIP_FIXED: dict[str, Sequence[Any]] = {
    "hidden_act": ["quick_gelu"],
    "layer_norm_eps": [1e-5],
    "num_channels": [3],
}


def read_unet(path: Path, in_channels: int, problems: list[str]) -> UNetConfig:
    """A UNet2DConditionModel with SD1.5's blocks."""
    entries = Entries(read_json(path), str(path))
    fields = _encoder_fields(entries, "UNet2DConditionModel")
    down = fields["cross_attention"]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(down)]
    entries.fixed("up_block_types", up, required=True)
    entries.fixed("in_channels", in_channels, required=True)
    out_channels = entries.integer("out_channels")
    problems += entries.finish(_UNET_FREE)
    return UNetConfig(**fields, in_channels=in_channels, out_channels=out_channels)


def read_control(path: Path, problems: list[str]) -> ControlConfig:
    """A ControlNetModel for such a UNet."""
    entries = Entries(read_json(path), str(path))
    fields = _encoder_fields(entries, "ControlNetModel")
    entries.fixed("in_channels", 4, required=True)
    pose_channels = entries.integer("conditioning_channels", 3)
    entries.fixed("conditioning_channels", 3)
    hidden = entries.integers("conditioning_embedding_out_channels")
    problems += entries.finish(_UNET_FREE)
    return ControlConfig(**fields, pose_channels=pose_channels, pose_embedding_channels=hidden)


def read_vae(path: Path, problems: list[str]) -> VAEConfig:
    """An AutoencoderKL."""
    entries = Entries(read_json(path), str(path))
    entries.fixed("_class_name", "AutoencoderKL")
    for key, allowed in _VAE_FIXED.items():
        entries.fixed(key, *allowed)
    config = VAEConfig(
        image_channels=entries.integer("in_channels", 3),
        latent_channels=entries.integer("latent_channels", 4),
        channels=entries.integers("block_out_channels"),
        layers_per_block=entries.integer("layers_per_block", 1, most=64),
        norm_groups=entries.integer("norm_num_groups", 32),
        scaling_factor=entries.number("scaling_factor", 0.18215),
    )
    levels = len(config.channels)
    entries.fixed("in_channels", 3)
    entries.fixed("out_channels", 3)
    entries.fixed("down_block_types", ["DownEncoderBlock2D"] * levels, required=True)
    entries.fixed("up_block_types", ["UpDecoderBlock2D"] * levels, required=True)
    problems += entries.finish(["force_upcast", "sample_size"])
    return config


def read_image_encoder(path: Path, problems: list[str]) -> CLIPVisionConfig:
    """The vision half of CLIP: of a CLIPVisionModel, or inside a CLIPModel's config."""
    values = read_json(path)
    inner = values.get("vision_config")
    entries = Entries(inner if isinstance(inner, dict) else values, str(path))
    config = CLIPVisionConfig(
        image_size=entries.integer("image_size", 224, most=4096),
        patch_size=entries.integer("patch_size", 32, most=4096),
        **_clip_fields(entries, width=768, mlp_width=3072, num_heads=12),
    )
    entries.fixed("model_type", "clip_vision_model", "clip")
    if config.image_size % config.patch_size:
        entries.problem("patch_size", f"a divisor of image_size, {config.image_size}")
    problems += [f"{path}: {problem}" for problem in entries.problems]
    return config


def read_text_encoder(path: Path, problems: list[str]) -> CLIPTextConfig:
    """A CLIPTextModel."""
    entries = Entries(read_json(path), str(path))
    config = CLIPTextConfig(
        vocab_size=entries.integer("vocab_size", 49408),
        max_length=entries.integer("max_position_embeddings", 77, most=4096),
        **_clip_fields(entries, width=512, mlp_width=2048, num_heads=8),
    )
    entries.fixed("model_type", "clip_text_model")
    problems += [f"{path}: {problem}" for problem in entries.problems]
    return config


def read_schedule(path: Path, problems: list[str]) -> ScheduleConfig:
    """The schedule in a scheduler's config. Options of samplers other than DDIM do not matter: the
    published system takes the betas and the offset and runs DDIM."""
    entries = Entries(read_json(path), str(path))
    for key, allowed in {
        "beta_schedule": ["scaled_linear"],
        "trained_betas": [None],
        "timestep_spacing": ["leading"],
        "thresholding": [False],
        "rescale_betas_zero_snr": [False],
        "clip_sample": [False],
        "prediction_type": ["epsilon", "v_prediction"],
    }.items():
        entries.fixed(key, *allowed, required=key == "beta_schedule")
    entries.fixed("set_alpha_to_one", True, False)
    entries.fixed("steps_offset", 0, 1)
    config = ScheduleConfig(
        num_train_timesteps=entries.integer("num_train_timesteps", 1000),
        beta_start=entries.number("beta_start", 0.0001),
        beta_end=entries.number("beta_end", 0.02),
        steps_offset=int(entries.values.get("steps_offset", 0) == 1),
        set_alpha_to_one=entries.values.get("set_alpha_to_one", True) is True,
        prediction_type=str(entries.values.get("prediction_type", "epsilon")),
    )
    problems += [f"{path}: {problem}" for problem in entries.problems]
    return config


def check_preprocessor(path: Path, image_size: int, problems: list[str]) -> None:
    """CLIP's own preprocessing, which is the only one we have."""
    entries = Entries(read_json(path), str(path))
    entries.fixed("image_mean", [0.48145466, 0.4578275, 0.40821073])
    entries.fixed("image_std", [0.26862954, 0.26130258, 0.27577711])
    entries.fixed("size", {"shortest_edge": image_size}, image_size)
    entries.fixed("crop_size", {"height": image_size, "width": image_size}, image_size)
    entries.fixed("resample", 3)
    entries.fixed("rescale_factor", 1 / 255)
    for key in ("do_center_crop", "do_normalize", "do_rescale", "do_resize"):
        entries.fixed(key, True)
    problems += [f"{path}: {problem}" for problem in entries.problems]


def cross_check(networks: dict[str, NetworkConfig]) -> list[str]:
    """What must agree between the networks of one checkpoint."""
    vae, image, text = networks["vae"], networks["image_encoder"], networks["text_encoder"]
    assert isinstance(vae, VAEConfig) and isinstance(image, CLIPVisionConfig)
    assert isinstance(text, CLIPTextConfig)
    facts: list[tuple[str, Any, str, Any]] = [
        ("the image encoder's width", image.width, "the text encoder's", text.width)
    ]
    problems = impossible(networks)
    for stage in sorted({name.split("/")[0] for name in networks if "/" in name}):
        unet, control = networks[f"{stage}/unet"], networks[f"{stage}/control"]
        assert isinstance(unet, UNetConfig) and isinstance(control, ControlConfig)
        latents = vae.latent_channels
        inputs = {"body": latents, "face": 2 * latents + 1}
        facts += [
            (f"{stage}/unet's cross_attention_dim", unet.context_dim, "CLIP's width", text.width),
            (f"{stage}/unet's in_channels", unet.in_channels, "this stage's", inputs[stage]),
            (f"{stage}/unet's out_channels", unet.out_channels, "the VAE's latents", latents),
            (f"{stage}/control's in_channels", control.in_channels, "the VAE's latents", latents),
            (
                f"{stage}/control's pose embedding factor",
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
            facts.append((f"{stage}/control's {field}", value, f"{stage}/unet's", other))
    problems += [f"{a} is {x}, but {b} is {y}" for a, x, b, y in facts if x != y]
    if image.num_tokens > text.max_length:
        problems.append(
            f"the image encoder yields {image.num_tokens} tokens, but the text encoder takes"
            f" at most {text.max_length}"
        )
    return problems


def _encoder_fields(entries: Entries, class_name: str) -> dict[str, Any]:
    entries.fixed("_class_name", class_name)
    for key, allowed in _UNET_FIXED.items():
        entries.fixed(key, *allowed)
    channels = entries.integers("block_out_channels")
    blocks = entries.values.get("down_block_types")
    kinds = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    entries.seen.add("down_block_types")
    blocks = blocks if isinstance(blocks, list) else []
    if len(blocks) != len(channels) or any(str(block) not in kinds for block in blocks):
        entries.problem("down_block_types", f"{len(channels)} of {' and '.join(kinds)}")
        blocks = ["DownBlock2D"] * len(channels)
    # A historical misnomer: attention_head_dim is the number of heads, unless the other is there.
    heads = (
        "attention_head_dim"
        if entries.values.get("num_attention_heads") is None
        else ("num_attention_heads")
    )
    entries.seen |= {"attention_head_dim", "num_attention_heads"}
    num_heads, groups = entries.integer(heads), entries.integer("norm_num_groups", 32)
    return {
        "channels": channels,
        "layers_per_block": entries.integer("layers_per_block", 2, most=64),
        "cross_attention": tuple(kinds[block] for block in blocks),
        "num_heads": num_heads,
        "context_dim": entries.integer("cross_attention_dim"),
        "norm_groups": groups,
    }


def _clip_fields(entries: Entries, width: int, mlp_width: int, num_heads: int) -> dict[str, int]:
    """The defaults are those of transformers, which leaves them out of some files."""
    for key, allowed in _CLIP_FIXED.items():
        entries.fixed(key, *allowed)
    return {
        "width": entries.integer("hidden_size", width),
        "mlp_width": entries.integer("intermediate_size", mlp_width),
        "num_layers": entries.integer("num_hidden_layers", 12, most=256),
        "num_heads": entries.integer("num_attention_heads", num_heads),
    }
