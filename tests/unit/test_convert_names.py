"""The name map, compared with the checkpoints and with diffusers' own converters."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from anchor_jax.checkpoint.parameters import abstract_params, flatten
from anchor_jax.convert import names
from anchor_jax.convert.published import network_json
from anchor_jax.models import ControlConfig, UNetConfig, VAEConfig

SMALL_UNET = UNetConfig(
    channels=(32, 64, 64), layers_per_block=1, cross_attention=(True, False, True)
)
SMALL_VAE = VAEConfig(channels=(32, 64, 64), layers_per_block=1)


def keys_of(config) -> list[str]:
    return [names.torch_key(path) for path in flatten(abstract_params(config))]


def test_a_number_after_the_last_underscore_is_a_list_index_but_for_the_exceptions():
    """Catches `time_embedding.linear.1`, and a rule that also rewrites `conv1` or `layer_norm2`."""
    assert names.torch_key(("time_embedding", "linear_1", "kernel")) == (
        "time_embedding.linear_1.weight"
    )
    path = ("down_blocks_0", "attentions_1", "transformer_blocks_0", "ff", "net_2", "bias")
    assert names.torch_key(path) == "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.2.bias"
    path = ("vision_model", "encoder", "layers_11", "layer_norm2", "scale")
    assert names.torch_key(path) == "vision_model.encoder.layers.11.layer_norm2.weight"
    path = ("vision_model", "embeddings", "class_embedding")
    assert names.torch_key(path) == "vision_model.embeddings.class_embedding"


@pytest.mark.parametrize("config", [UNetConfig(in_channels=9), ControlConfig(), VAEConfig()])
def test_names_and_shapes_at_full_size_are_those_of_diffusers(config):
    """Catches a module that our networks and the published ones call or shape differently."""
    import diffusers
    import torch

    description = network_json(config)
    with torch.device("meta"):
        network = getattr(diffusers, description["_class_name"]).from_config(description)
    theirs = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    ours = {
        names.torch_key(path): names.torch_shape(path, leaf.shape)
        for path, leaf in flatten(abstract_params(config)).items()
    }
    assert ours == theirs
    assert (
        len(ours)
        == {"UNetConfig": 686, "ControlConfig": 340, "VAEConfig": 248}[type(config).__name__]
    )


def test_every_tensor_of_the_tiny_checkpoints_is_named(tiny_dir):
    """Catches a name of the published files, CLIP's among them, that no parameter asks for."""
    from anchor_jax.convert import configs

    readers = {
        "body/unet": lambda path, p: configs.read_unet(path, 4, p),
        "body/controlnet": lambda path, p: configs.read_control(path, 4, p),
        "head/unet": lambda path, p: configs.read_unet(path, 9, p),
        "sd/vae": configs.read_vae,
        "sd/text_encoder": configs.read_text_encoder,
        "clip-vision": configs.read_image_encoder,
    }
    for folder, read in readers.items():
        problems: list[str] = []
        config = read(tiny_dir / folder / "config.json", problems)
        assert not problems
        (path,) = (tiny_dir / folder).glob("*.safetensors")
        with safe_open(path, "np") as file:
            stored = set(file.keys()) - set(names.POSITION_IDS.values())
        assert set(keys_of(config)) == stored


def test_single_file_names_are_those_of_the_published_file():
    """Catches an upsampler sought beside the attention, where diffusers would find it too."""
    for key, published_key in {
        "conv_in.bias": "input_blocks.0.0.bias",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.2.attentions.1.proj_in.weight": "input_blocks.8.1.proj_in.weight",
        "mid_block.resnets.1.time_emb_proj.bias": "middle_block.2.emb_layers.1.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
    }.items():
        ours = names.ldm_unet_key(key, UNetConfig())
        assert ours == "model.diffusion_model." + published_key
    for key, published_key in {
        "decoder.up_blocks.0.upsamplers.0.conv.bias": "decoder.up.3.upsample.conv.bias",
        "encoder.mid_block.attentions.0.to_out.0.weight": "encoder.mid.attn_1.proj_out.weight",
        "encoder.down_blocks.1.resnets.0.conv1.bias": "encoder.down.1.block.0.conv1.bias",
        "decoder.up_blocks.2.resnets.0.conv_shortcut.bias": (
            "decoder.up.1.block.0.nin_shortcut.bias"
        ),
    }.items():
        assert names.ldm_vae_key(key, VAEConfig()) == "first_stage_model." + published_key


@pytest.mark.parametrize("config", [UNetConfig(), SMALL_UNET], ids=["sd15", "small"])
def test_single_file_unet_names_are_what_diffusers_reads(config):
    """Catches a block counted wrongly, an upsampler sought at the wrong place, norms swapped."""
    import torch
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    keys = keys_of(config)
    state = {names.ldm_unet_key(key, config): torch.tensor(i) for i, key in enumerate(keys)}
    assert len(state) == len(keys)
    read = convert_ldm_unet_checkpoint(state, dict(network_json(config), class_embed_type=None))
    assert {key: int(value) for key, value in read.items()} == {k: i for i, k in enumerate(keys)}


@pytest.mark.parametrize("config", [VAEConfig(), SMALL_VAE], ids=["sd15", "small"])
def test_single_file_vae_names_are_what_diffusers_reads(config):
    """Catches decoder levels counted from the wrong end, and attention under other names."""
    import torch
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    keys = keys_of(config)
    state = {
        names.ldm_vae_key(key, config): torch.full((1, 1, 1, 1), i) for i, key in enumerate(keys)
    }
    assert len(state) == len(keys)
    read = convert_ldm_vae_checkpoint(state, network_json(config))
    assert {key: int(value.flatten()[0]) for key, value in read.items()} == {
        k: i for i, k in enumerate(keys)
    }


def test_old_vae_names_are_what_diffusers_reads(tmp_path):
    """Catches query and key swapped, and a projection that keeps its new name."""
    import diffusers
    import torch
    from safetensors.numpy import save_file

    config = VAEConfig(channels=(32, 32), layers_per_block=1)
    rng = np.random.default_rng(0)
    new = {
        names.torch_key(path): rng.normal(size=names.torch_shape(path, leaf.shape)).astype("f")
        for path, leaf in flatten(abstract_params(config)).items()
    }
    old = {names.old_vae_key(key): array for key, array in new.items()}
    assert len(set(old) - set(new)) == 16
    save_file(old, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(network_json(config)))
    network: Any = diffusers.AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
    state = network.from_pretrained(tmp_path).state_dict()
    for key, array in new.items():
        assert torch.equal(state[key], torch.from_numpy(array)), key


@pytest.mark.parametrize(
    ("leaf", "published", "ours"),
    [
        ("kernel", (3, 2, 5, 7), (5, 7, 2, 3)),
        ("kernel", (3, 2), (2, 3)),
        ("embedding", (3, 2), (3, 2)),
        ("bias", (3,), (3,)),
    ],
)
def test_a_tensor_comes_back_as_it_was(leaf, published, ours):
    """Catches axes permuted one way and not back, and an embedding that is transposed."""
    array = np.arange(np.prod(published)).reshape(published)
    converted = names.from_torch((leaf,), array, ours)
    assert converted.shape == ours
    assert names.torch_shape((leaf,), ours) == published
    np.testing.assert_array_equal(names.to_torch((leaf,), converted), array)
    if published == (3, 2, 5, 7):
        assert converted[4, 6, 1, 2] == array[2, 1, 4, 6]


def test_a_convolution_of_one_pixel_becomes_a_matrix():
    """Catches the VAE's attention in single files read as (out, in) without the transposition."""
    array = np.arange(6).reshape(2, 3, 1, 1)
    np.testing.assert_array_equal(names.from_torch(("kernel",), array, (3, 2)), array[:, :, 0, 0].T)


def test_what_is_left_out_is_counted_and_nothing_else_is():
    """Catches a pattern that takes a key it should not, such as one that merely begins alike."""
    keys = ["model_ema.a", "model_ema.b", "betas", "betas2", "conv_in.weight"]
    rest, counts = names.leave_out(keys, names.LDM_IGNORED)
    assert rest == ["betas2", "conv_in.weight"]
    assert counts == {"moving averages": 2, "schedule tables": 1}
