"""Writes our configs as config files of diffusers and transformers. `configs` reads them."""

from typing import Any

from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)


def network_json(config: NetworkConfig) -> dict[str, Any]:
    """Return the entries of a network's config.json.

    Raises:
        TypeError: the config is of a network that published checkpoints do not have.
    """
    match config:
        case UNetConfig():
            up = [f"{'CrossAttn' * cross}UpBlock2D" for cross in reversed(config.cross_attention)]
            return {
                "_class_name": "UNet2DConditionModel",
                **_encoder_entries(config),
                "out_channels": config.out_channels,
                "up_block_types": up,
            }
        case ControlConfig():
            return {
                "_class_name": "ControlNetModel",
                **_encoder_entries(config),
                "conditioning_channels": config.pose_channels,
                "conditioning_embedding_out_channels": config.pose_embedding_channels,
                "controlnet_conditioning_channel_order": "rgb",
            }
        case VAEConfig():
            levels = len(config.channels)
            return {
                "_class_name": "AutoencoderKL",
                "act_fn": "silu",
                "block_out_channels": config.channels,
                "down_block_types": ["DownEncoderBlock2D"] * levels,
                "in_channels": config.image_channels,
                "latent_channels": config.latent_channels,
                "layers_per_block": config.layers_per_block,
                "norm_num_groups": config.norm_groups,
                "out_channels": config.image_channels,
                "scaling_factor": config.scaling_factor,
                "up_block_types": ["UpDecoderBlock2D"] * levels,
            }
        case CLIPVisionConfig():
            return {
                "architectures": ["CLIPVisionModel"],
                "model_type": "clip_vision_model",
                **_clip_entries(config),
                "image_size": config.image_size,
                "num_channels": 3,
                "patch_size": config.patch_size,
            }
        case CLIPTextConfig():
            return {
                "architectures": ["CLIPTextModel"],
                "model_type": "clip_text_model",
                **_clip_entries(config),
                "bos_token_id": config.vocab_size - 2,
                "eos_token_id": config.vocab_size - 1,
                "max_position_embeddings": config.max_length,
                "pad_token_id": config.vocab_size - 1,
                "vocab_size": config.vocab_size,
            }
    raise TypeError(f"no published network has a config of type {type(config).__name__}")


def scheduler_json(config: ScheduleConfig) -> dict[str, Any]:
    """Return the entries of scheduler_config.json, as Stable Diffusion 1.5 has them."""
    return {
        "_class_name": "PNDMScheduler",
        "beta_end": config.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.num_train_timesteps,
        "prediction_type": config.prediction_type,
        "set_alpha_to_one": config.set_alpha_to_one,
        "skip_prk_steps": True,
        "steps_offset": config.steps_offset,
        "trained_betas": None,
    }


def preprocessor_json(config: CLIPVisionConfig) -> dict[str, Any]:
    """Return the entries of CLIP's preprocessor_config.json."""
    size = config.image_size
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": {"shortest_edge": size},
    }


def _encoder_entries(config: UNetConfig | ControlConfig) -> dict[str, Any]:
    """Return the entries that UNet and control branch have in common."""
    return {
        "act_fn": "silu",
        "attention_head_dim": config.num_heads,  # diffusers' name for the number of heads
        "block_out_channels": config.channels,
        "cross_attention_dim": config.context_dim,
        "down_block_types": [
            f"{'CrossAttn' * cross}DownBlock2D" for cross in config.cross_attention
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": config.norm_groups,
    }


def _clip_entries(config: CLIPVisionConfig | CLIPTextConfig) -> dict[str, Any]:
    """Return the entries that both CLIP encoders have in common."""
    return {
        "hidden_act": "quick_gelu",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "projection_dim": config.width,
    }
