"""Config files in, out, and what is refused."""

import json

import numpy as np
import pytest

from anchor_jax import AnchorError
from anchor_jax.convert import configs
from anchor_jax.convert.published import network_json, preprocessor_json, scheduler_json
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    UNetConfig,
    VAEConfig,
)
from tests.anchors import make_anchor

READERS = {
    UNetConfig: lambda path, problems: configs.read_unet(path, 4, problems),
    ControlConfig: lambda path, problems: configs.read_control(path, 4, problems),
    VAEConfig: configs.read_vae,
    CLIPVisionConfig: configs.read_image_encoder,
    CLIPTextConfig: configs.read_text_encoder,
    ScheduleConfig: configs.read_schedule,
}
# Nothing has its default, so that no field can be left out or taken for another.
ODD = [
    UNetConfig(4, (8, 16), 3, (False, True), 2, 12, 4, out_channels=5),
    ControlConfig(4, (8, 16), 3, (False, True), 2, 12, 4, pose_embedding_channels=(3, 5)),
    VAEConfig(
        latent_channels=6, channels=(8, 24), layers_per_block=3, norm_groups=8, scaling_factor=0.3
    ),
    CLIPVisionConfig(96, 16, 24, 40, 3, 2),
    CLIPTextConfig(100, 60, 24, 40, 3, 2),
    ScheduleConfig(500, 0.001, 0.02, 0, True, "v_prediction"),
]


def read(tmp_path, kind, values) -> tuple[object, list[str]]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    problems: list[str] = []
    return READERS[kind](path, problems), problems


@pytest.mark.parametrize("config", ODD, ids=lambda config: type(config).__name__)
def test_a_config_comes_back_as_it_was_written(tmp_path, config):
    """Catches a field that is not read, not written, or mixed up with another."""
    values = scheduler_json(config) if isinstance(config, ScheduleConfig) else network_json(config)
    assert read(tmp_path, type(config), values) == (config, [])


@pytest.mark.parametrize("kind", [UNetConfig, ControlConfig, VAEConfig])
def test_all_entries_that_diffusers_writes_are_known(tmp_path, kind):
    """Catches a good config refused for an entry that a newer diffusers adds with its default."""
    import diffusers
    import torch

    values = network_json(kind())
    with torch.device("meta"):
        network = getattr(diffusers, values["_class_name"]).from_config(values)
    assert read(tmp_path, kind, dict(network.config)) == (kind(), [])


def test_all_entries_that_transformers_writes_are_known(tmp_path):
    """Catches the projection's width or a token id taken for an unsupported entry."""
    import transformers

    vision = transformers.CLIPVisionConfig()
    assert read(tmp_path, CLIPVisionConfig, vision.to_dict()) == (CLIPVisionConfig(), [])
    whole = transformers.CLIPConfig().to_dict()
    assert read(tmp_path, CLIPVisionConfig, whole) == (CLIPVisionConfig(), [])
    text = transformers.CLIPTextConfig().to_dict()
    small = CLIPTextConfig(width=512, mlp_width=2048, num_heads=8)
    assert read(tmp_path, CLIPTextConfig, text) == (small, [])
    assert read(tmp_path, CLIPTextConfig, {}) == (small, [])  # transformers leaves out defaults


def test_the_short_config_of_stable_diffusion_is_enough(tmp_path):
    """Catches entries demanded that the first diffusers versions did not write: SD1.5's own."""
    values = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    assert read(tmp_path, VAEConfig, values) == (VAEConfig(), [])
    values = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085}
    values |= {"num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1}
    assert read(tmp_path, ScheduleConfig, values) == (ScheduleConfig(), [])


def test_attention_head_dim_is_the_number_of_heads(tmp_path):
    """Catches heads of width 8 instead of 8 heads, which has the same shapes everywhere."""
    values = network_json(UNetConfig(num_heads=8))
    assert read(tmp_path, UNetConfig, values)[0].num_heads == 8  # pyright: ignore
    values |= {"attention_head_dim": 64, "num_attention_heads": 5}
    assert read(tmp_path, UNetConfig, values)[0].num_heads == 5  # pyright: ignore


UNSUPPORTED = {
    UNetConfig: {
        "_class_name": "UNet3DConditionModel",
        "act_fn": "gelu",
        "addition_embed_type": "text_time",
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": "many",
        "class_embed_type": "timestep",
        "cross_attention_dim": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["AttnDownBlock2D"],
        "dual_cross_attention": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "in_channels": 9,
        "layers_per_block": 10**9,
        "mid_block_type": None,
        "norm_eps": 1e-6,
        "norm_num_groups": 0,
        "only_cross_attention": True,
        "resnet_time_scale_shift": "scale_shift",
        "time_cond_proj_dim": 256,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D"] * 4,
        "use_linear_projection": True,
        "some_future_switch": True,
    },
    ControlConfig: {
        "conditioning_channels": 4,
        "conditioning_embedding_out_channels": [],
        "controlnet_conditioning_channel_order": "bgr",
        "global_pool_conditions": True,
        "in_channels": 9,
    },
    VAEConfig: {
        "act_fn": "relu",
        "down_block_types": ["AttnDownEncoderBlock2D"] * 4,
        "latent_channels": -4,
        "latents_mean": [0.0],
        "scaling_factor": float("nan"),
        "shift_factor": 0.1159,
        "use_quant_conv": False,
    },
    CLIPVisionConfig: {"hidden_act": "gelu", "image_size": 230, "num_channels": 1},
    CLIPTextConfig: {"hidden_act": "gelu", "num_hidden_layers": 10**6, "vocab_size": "x"},
    ScheduleConfig: {
        "beta_schedule": "linear",
        "clip_sample": True,
        "num_train_timesteps": 0,
        "prediction_type": "sample",
        "rescale_betas_zero_snr": True,
        "steps_offset": 7,
        "thresholding": True,
        "timestep_spacing": "trailing",
        "trained_betas": [0.1],
    },
}


@pytest.mark.parametrize("kind", UNSUPPORTED, ids=lambda kind: kind.__name__)
def test_every_unsupported_value_is_reported_and_all_together(tmp_path, kind):
    """Catches a value silently taken for ours, and a report that stops at the first."""
    values = scheduler_json(kind()) if kind is ScheduleConfig else network_json(kind())
    for key, value in UNSUPPORTED[kind].items():
        _, problems = read(tmp_path, kind, values | {key: value})
        blamed = [problem for problem in problems if f"{key} is" in problem]
        # Another image size is legal, but not with this patch size.
        assert blamed or (key == "image_size" and "patch_size" in problems[0]), key
    _, problems = read(tmp_path, kind, values | UNSUPPORTED[kind])
    assert len(problems) >= len(UNSUPPORTED[kind])
    assert all(str(tmp_path) in problem and "\n" not in problem for problem in problems)


def test_a_required_entry_that_is_missing_is_reported(tmp_path):
    """Catches the widths of another model assumed for a config that does not say."""
    for key in ("block_out_channels", "cross_attention_dim", "attention_head_dim", "in_channels"):
        values = network_json(UNetConfig())
        del values[key]
        _, problems = read(tmp_path, UNetConfig, values)
        assert any(f"{key} is None" in problem for problem in problems)


def test_only_clips_own_preprocessing_is_accepted(tmp_path):
    """Catches ImageNet's mean accepted, and sizes as older files have them refused."""
    path = tmp_path / "preprocessor_config.json"

    def problems(**changes) -> list[str]:
        path.write_text(json.dumps(preprocessor_json(CLIPVisionConfig()) | changes))
        found: list[str] = []
        configs.check_preprocessor(path, 224, found)
        return found

    assert problems() == []
    assert problems(size=224, crop_size=224, feature_extractor_type="CLIPFeatureExtractor") == []
    assert problems(rescale_factor=0.00392156862745098) == []
    assert len(problems(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])) == 2
    assert len(problems(size={"shortest_edge": 336}, do_center_crop=False, resample=2)) == 3


NETWORKS = {
    "body/unet": UNetConfig(),
    "body/control": ControlConfig(),
    "face/unet": UNetConfig(in_channels=9),
    "face/control": ControlConfig(),
    "vae": VAEConfig(),
    "image_encoder": CLIPVisionConfig(),
    "text_encoder": CLIPTextConfig(),
}


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("text_encoder", CLIPTextConfig(width=1024, num_heads=16), "width"),
        ("image_encoder", CLIPVisionConfig(width=1024), "width"),
        ("image_encoder", CLIPVisionConfig(patch_size=14), "257 tokens"),
        ("body/unet", UNetConfig(context_dim=1024), "1024"),
        ("body/unet", UNetConfig(in_channels=9), "in_channels"),
        ("face/unet", UNetConfig(in_channels=4), "in_channels"),
        ("body/unet", UNetConfig(num_heads=7), "num_heads"),
        ("body/control", ControlConfig(channels=(320, 640, 1280, 640)), "channels"),
        ("body/control", ControlConfig(num_heads=4), "num_heads"),
        ("face/control", ControlConfig(pose_embedding_channels=(16, 32, 96)), "factor"),
        ("vae", VAEConfig(latent_channels=16), "latents"),
        ("vae", VAEConfig(channels=(128, 256, 500, 512)), "norm_groups"),
    ],
)
def test_networks_that_do_not_go_together_are_refused(name, config, words):
    """Catches weights of two systems mixed, which would fail with shapes deep in a network, or
    not at all."""
    anchor = lambda networks: make_anchor(networks, {}, np.zeros(0, np.float32))
    assert configs.cross_check(anchor(NETWORKS)) == []
    problems = configs.cross_check(anchor(NETWORKS | {name: config}))
    assert any(words in problem for problem in problems), problems


def test_a_config_that_is_missing_is_refused(tmp_path):
    """Catches defaults assumed where there is no file."""
    with pytest.raises(AnchorError, match="no such file"):
        configs.read_vae(tmp_path / "config.json", [])
