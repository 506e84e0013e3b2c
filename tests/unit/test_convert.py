"""Conversion as a whole: every form of source, what comes out again, and what is refused."""

import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from anchor_jax import AnchorError, checkpoint
from anchor_jax.checkpoint.parameters import flatten
from anchor_jax.convert import convert, export, names
from anchor_jax.models import CLIPTextConfig, UNetConfig

from . import checkpoints
from .checkpoints import CONTROL, TEXT, UNET, VAE, VISION


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A small published checkpoint. Do not write here."""
    return checkpoints.write_all(tmp_path_factory.mktemp("published"))


@pytest.fixture
def arguments(source, tmp_path):
    """The same in a place of its own, for a test to spoil."""
    root = shutil.copytree(source["base"].parent, tmp_path / "published")
    return {key: root / path.name for key, path in source.items()} | {"out": tmp_path / "anchor"}


def refused(arguments, **changes) -> str:
    """The message of the refusal, which leaves nothing behind."""
    arguments = arguments | changes
    before = sorted(arguments["out"].parent.rglob("*"))
    with pytest.raises(AnchorError) as info:
        convert(**arguments, progress=False)
    assert sorted(arguments["out"].parent.rglob("*")) == before
    assert "\n" not in str(info.value)
    return str(info.value)


def change(path, **changed: np.ndarray | None) -> None:
    """Replace, add or (None) drop tensors of a file."""
    tensors = load_file(path) | changed
    save_file({key: array for key, array in tensors.items() if array is not None}, path)


def params_equal(a, b) -> bool:
    a, b = flatten(a), flatten(b)
    return list(a) == list(b) and all(
        x.dtype == b[key].dtype and np.asarray(x).tobytes() == np.asarray(b[key]).tobytes()
        for key, x in a.items()
    )


def all_params(path):
    anchor = checkpoint.load(path, checkpoint.read_header(path)[0].networks(), dtype=None)
    return {name: network.params for name, network in anchor.networks().items()}


def test_the_tiny_published_checkpoint_comes_back_bit_for_bit(tiny_dir, tmp_path):
    """Catches a tensor transposed once, cast, lost or invented anywhere on the way, of any of the
    seven networks; position ids dropped; tokenizer and schedule lost."""
    notes = convert(
        body=tiny_dir / "body",
        face=tiny_dir / "head",
        base=tiny_dir / "sd",
        image_encoder=tiny_dir / "clip-vision",
        out=tmp_path / "anchor",
    )
    assert notes == []
    export(tmp_path / "anchor", tmp_path / "back")
    files = sorted(path.relative_to(tiny_dir) for path in tiny_dir.rglob("*.safetensors"))
    assert len(files) == 7
    for file in files:
        before, after = load_file(tiny_dir / file), load_file(tmp_path / "back" / file)
        assert sorted(before) == sorted(after)
        for key, array in before.items():
            assert array.dtype == after[key].dtype
            assert array.shape == after[key].shape
            assert array.tobytes() == after[key].tobytes(), f"{file}: {key}"
    for name in checkpoint.TOKENIZER_FILES:
        file = f"sd/tokenizer/{name}"
        assert (tiny_dir / file).read_bytes() == (tmp_path / "back" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anchor", "back"]


def test_the_empty_text_is_the_published_one(golden_dir, tmp_path):
    """Catches padding with anything but the end token, ids from the wrong end of the vocabulary,
    77 tokens instead of 50, and a missing causal mask."""
    tiny = golden_dir / "tiny"
    convert(
        base=tiny / "sd",
        body=tiny / "body",
        image_encoder=tiny / "clip-vision",
        out=tmp_path / "anchor",
    )
    ours = checkpoint.load(tmp_path / "anchor", networks=[]).empty_text
    expected = np.load(golden_dir / "D_clip.npz")["text_empty_last_hidden_50"][0]
    assert ours.shape == expected.shape == (50, 32)
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-5


def test_exports_load_in_diffusers_and_transformers(arguments, tmp_path):
    """Catches an exported config or name that from_pretrained answers with missing, unexpected or
    mismatched keys."""
    import diffusers
    import transformers

    convert(**arguments)
    export(arguments["out"], tmp_path / "back")
    for folder, library, kind in (
        ("body/unet", diffusers, "UNet2DConditionModel"),
        ("body/controlnet", diffusers, "ControlNetModel"),
        ("sd/vae", diffusers, "AutoencoderKL"),
        ("sd/text_encoder", transformers, "CLIPTextModel"),
        ("clip-vision", transformers, "CLIPVisionModel"),
    ):
        network, info = getattr(library, kind).from_pretrained(
            tmp_path / "back" / folder, output_loading_info=True, torch_dtype=torch.float16
        )
        assert not any(info.values()), (folder, info)
        (path,) = (tmp_path / "back" / folder).glob("*.safetensors")
        stored = load_file(path)
        state = network.state_dict()
        assert sum(x.numel() for x in state.values()) == sum(x.size for x in stored.values())
        for key, value in state.items():
            prefixed = [name for name in stored if name.endswith(key)]
            assert any(np.array_equal(stored[name], value.numpy()) for name in prefixed), key
    kind: Any = diffusers.DDIMScheduler  # pyright: ignore[reportPrivateImportUsage]
    scheduler = kind.from_pretrained(tmp_path / "back" / "sd" / "scheduler")
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 951
    transformers.CLIPImageProcessorPil.from_pretrained(tmp_path / "back" / "clip-vision")


@pytest.mark.parametrize("form", ["safetensors", "ckpt"])
def test_a_single_file_base_is_the_same_base(arguments, tmp_path, form):
    """Catches a width or depth inferred wrongly, a name mapped wrongly, the 1x1 convolutions of
    the VAE's attention misread, and left out tensors that no note counts."""
    convert(**arguments | {"body": None, "out": tmp_path / "folders"})
    state = checkpoints.single_file()
    if form == "safetensors":
        base = tmp_path / "base.safetensors"
        save_file(state, base)
    else:
        base = tmp_path / "base.ckpt"
        tensors = {key: torch.from_numpy(array) for key, array in state.items()}
        torch.save({"state_dict": tensors, "global_step": 1}, base)
    notes = convert(**arguments | {"body": None, "base": base})
    single, folders = (
        checkpoint.read_header(arguments["out"])[0],
        checkpoint.read_header(tmp_path / "folders")[0],
    )
    configs = [
        {name: network.config for name, network in anchor.networks().items()}
        for anchor in (single, folders)
    ]
    assert configs[0] == configs[1]
    assert params_equal(all_params(arguments["out"]), all_params(tmp_path / "folders"))
    np.testing.assert_array_equal(single.empty_text, folders.empty_text)
    unet = len(checkpoints.tensors(UNET))
    assert f"{base.name}: left out {unet} of moving averages" in notes
    assert f"{base.name}: left out 2 of schedule tables" in notes
    assert single.provenance["buffers"] == {"text_encoder": "int64"}
    export(arguments["out"], tmp_path / "back")
    vae = load_file(tmp_path / "back/sd/vae/diffusion_pytorch_model.safetensors")
    for key, array in checkpoints.tensors(VAE).items():
        assert np.array_equal(vae[key], array) and vae[key].shape == array.shape


def test_a_single_file_base_lends_its_parts_to_a_body(arguments, tmp_path):
    """Catches the base's UNet reported as unused keys, or left out without a note."""
    save_file(checkpoints.single_file(), tmp_path / "base.safetensors")
    notes = convert(**arguments | {"base": tmp_path / "base.safetensors"})
    unet = len(checkpoints.tensors(UNET))
    assert any(f"left out {unet} of the base's UNet" in note for note in notes)
    assert notes == checkpoint.read_header(arguments["out"])[0].provenance["notes"]


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "XL"),
        ("cond_stage_model.model.ln_final.bias", "Stable Diffusion 2"),
        ("lora_unet_down_blocks_0.alpha", "LoRA"),
    ],
)
def test_single_files_of_other_families_are_named(arguments, tmp_path, key, family):
    """Catches hundreds of missing keys where one word says what the file is."""
    save_file(checkpoints.single_file() | {key: np.ones(2, "e")}, tmp_path / "x.safetensors")
    assert family in refused(arguments, base=tmp_path / "x.safetensors", body=None)


def test_single_files_of_another_shape_are_refused(arguments, tmp_path):
    """Catches a traceback of the shape inference on a file that lacks a part or has a vector
    where a matrix should be, and an inpainting base taken for a plain one."""
    whole = checkpoints.single_file()
    base = tmp_path / "base.safetensors"
    for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        save_file({key: x for key, x in whole.items() if not key.startswith(prefix)}, base)
        assert prefix in refused(arguments, base=base, body=None)
    for key, array in whole.items():
        if array.ndim < 2 or key.startswith("model_ema"):
            continue
        if key.endswith(("op.weight", "to_k.weight", "fc1.weight")) or "conv_in" in key:
            save_file({**whole, key: np.ones(3, "e")}, base)
            refused(arguments, base=base, body=None)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**whole, key: np.ones((32, 9, 3, 3), "e")}, base)
    assert "in_channels is 9" in refused(arguments, base=base, body=None)


def test_old_vae_names_give_the_same_anchor(arguments, tmp_path):
    """Catches the attention of VAEs from before diffusers 0.15 refused or mixed up."""
    path = arguments["base"] / "vae" / "diffusion_pytorch_model.safetensors"
    convert(**arguments)
    save_file({names.old_vae_key(key): x for key, x in load_file(path).items()}, path)
    convert(**arguments | {"out": tmp_path / "old"})
    assert params_equal(all_params(arguments["out"]), all_params(tmp_path / "old"))


def test_pickles_and_variants_give_the_same_anchor(arguments, tmp_path):
    """Catches `.bin` and `.fp16.` files not found, and bfloat16 lost on the way from a pickle."""
    unet = arguments["body"] / "unet" / "diffusion_pytorch_model.safetensors"
    text = arguments["base"] / "text_encoder" / "model.safetensors"
    vae = arguments["base"] / "vae" / "diffusion_pytorch_model.safetensors"
    convert(**arguments)
    for path, stem in ((unet, "diffusion_pytorch_model.bin"), (text, "pytorch_model.fp16.bin")):
        torch.save({k: torch.from_numpy(x) for k, x in load_file(path).items()}, path.parent / stem)
        path.unlink()
    vae.rename(vae.parent / "diffusion_pytorch_model.fp16.safetensors")
    convert(**arguments | {"out": tmp_path / "other"})
    assert params_equal(all_params(arguments["out"]), all_params(tmp_path / "other"))


def test_a_whole_clip_model_gives_its_vision_half(arguments, tmp_path):
    """Catches openai/clip-vit-base-patch32 refused for its text half, or read from the wrong
    config."""
    folder = arguments["image_encoder"]
    convert(**arguments)
    config = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "clip", "vision_config": config, "text_config": {"hidden_size": 5}}
    (folder / "config.json").write_text(json.dumps(whole))
    extra = checkpoints.tensors(TEXT)
    extra |= {
        "text_model.embeddings.position_ids": np.arange(77)[None],
        "vision_model.embeddings.position_ids": np.arange(5)[None],
        "text_projection.weight": np.ones((4, 4), "e"),
        "visual_projection.weight": np.ones((4, 4), "e"),
        "logit_scale": np.ones((), "e"),
    }
    change(folder / "model.safetensors", **extra)
    notes = convert(**arguments | {"out": tmp_path / "whole"})
    assert params_equal(all_params(arguments["out"]), all_params(tmp_path / "whole"))
    count = len(checkpoints.tensors(TEXT)) + 3
    assert f"model.safetensors: left out {count} of text half of CLIP" in notes
    assert "model.safetensors: left out 1 of projection of CLIP" in notes
    header = checkpoint.read_header(tmp_path / "whole")[0]
    assert header.provenance["buffers"] == {"image_encoder": "int64"}


def test_position_ids_that_do_not_count_are_noted(arguments):
    """Catches an export that writes other position ids than its source has."""
    path = arguments["base"] / "text_encoder" / "model.safetensors"
    ids = np.arange(77, dtype="f")[None]
    change(path, **{"text_model.embeddings.position_ids": ids + (ids == 41)})
    notes = convert(**arguments)
    assert any("position ids that are not 0, 1, 2" in note for note in notes)
    assert checkpoint.read_header(arguments["out"])[0].provenance["buffers"] == {}


def test_a_base_alone_makes_a_fresh_anchor(arguments, tmp_path):
    """Catches a control branch that changes anything before it is trained, an encoder that is not
    the UNet's, a pose embedding of zeros, or one that ignores the seed."""
    arguments["body"] = None
    convert(**arguments)
    convert(**arguments | {"out": tmp_path / "same"})
    convert(**arguments | {"out": tmp_path / "other"}, seed=1)
    params = all_params(arguments["out"])
    unet, control = flatten(params["body/unet"]), flatten(params["body/control"])
    for path, array in control.items():
        assert array.dtype == np.float16
        name = "/".join(path)
        if path[0] == "controlnet_cond_embedding":
            zero = "conv_out" in name or path[-1] == "bias"
            assert bool((array == 0).all()) == zero, name
        elif path[0].startswith("controlnet_"):
            assert not array.any(), name
        else:
            assert np.array_equal(array, unet[path]), name
    config = checkpoint.read_header(arguments["out"])[0].body.control.config
    assert config.channels == UNET.channels
    assert params_equal(params, all_params(tmp_path / "same"))
    other = all_params(tmp_path / "other")
    assert params_equal(params["body/unet"], other["body/unet"])
    assert not params_equal(params["body/control"], other["body/control"])


def test_types_are_kept_tensor_by_tensor_or_cast(arguments, tmp_path):
    """Catches a network cast to the type of its first tensor, and --dtype ignored."""
    path = arguments["body"] / "unet" / "diffusion_pytorch_model.safetensors"
    change(path, **{"conv_in.bias": np.full(32, 1e-30, "f")})
    convert(**arguments)
    kept = all_params(arguments["out"])["body/unet"]["conv_in"]
    assert kept["bias"].dtype == np.float32 and kept["bias"][0] == np.float32(1e-30)
    assert kept["kernel"].dtype == np.float16
    assert "float16, float32" in checkpoint.describe(arguments["out"])
    convert(**arguments | {"out": tmp_path / "cast"}, dtype="bfloat16")
    for leaf in jax.tree.leaves(all_params(tmp_path / "cast")):
        assert leaf.dtype == jax.numpy.bfloat16
    assert "dtype 'half'" in refused(arguments, out=tmp_path / "half", dtype="half")


def test_everything_wrong_with_the_weights_is_reported_at_once(arguments):
    """Catches a report that stops at the first network or the first kind of mistake."""
    control = arguments["body"] / "controlnet" / "diffusion_pytorch_model.safetensors"
    change(
        control,
        **{
            "conv_in.bias": None,
            "conv_in.weight": np.ones((4, 32, 3, 3), "e"),
            "mid_block.resnets.0.conv1.bias": np.ones(64, "d"),
            "lora.up": np.ones(2, "e"),
        },
    )
    change(arguments["image_encoder"] / "model.safetensors", surplus=np.ones(2, "e"))
    message = refused(arguments)
    for words in (
        "body/control",
        "1 missing (conv_in.bias)",
        "1 wrong-shaped (conv_in.weight 4x32x3x3 instead of 32x4x3x3)",
        "1 of another type than float16/bfloat16/float32 (mid_block.resnets.0.conv1.bias float64)",
        "1 unused (lora.up)",
        "1 unused (surplus)",
    ):
        assert words in message


def test_many_problems_are_counted_not_listed(arguments):
    """Catches an error as long as a state dict, as for a UNet in the control branch's place."""
    shutil.copy(
        arguments["body"] / "unet" / "diffusion_pytorch_model.safetensors",
        arguments["body"] / "controlnet" / "diffusion_pytorch_model.safetensors",
    )
    message = refused(arguments)
    unet, control = checkpoints.tensors(UNET), checkpoints.tensors(CONTROL)
    assert f"{len(set(control) - set(unet))} missing" in message
    assert f"{len(set(unet) - set(control))} unused" in message
    assert "more)" in message and len(message) < 1000


def test_everything_wrong_with_the_configs_is_reported_at_once(arguments):
    """Catches a report that stops at the first config."""
    for folder, entry in (("base/vae", "act_fn"), ("body/unet", "use_linear_projection")):
        part, name = folder.split("/")
        path = arguments[part] / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {entry: "odd"}))
    message = refused(arguments)
    assert "act_fn is 'odd'" in message and "use_linear_projection is 'odd'" in message


def test_weights_that_are_not_finite_are_refused_by_name(arguments):
    """Catches NaN weights converted, or only the first of them named; and infinity that only the
    cast to float16 makes."""
    path = arguments["base"] / "vae" / "diffusion_pytorch_model.safetensors"
    bias = np.zeros(32, "f")
    change(path, **{"encoder.conv_in.bias": bias + np.nan, "decoder.conv_out.bias": bias[:3] + 7e4})
    message = refused(arguments)
    assert "vae/encoder/conv_in/bias" in message and "decoder" not in message
    change(path, **{"encoder.conv_in.bias": bias + np.inf})
    message = refused(arguments, dtype="float16")
    assert "vae/encoder/conv_in/bias" in message and "vae/decoder/conv_out/bias" in message


@pytest.mark.parametrize("missing", ["sd/vae", "sd/text_encoder", "body/controlnet", "body", "sd"])
def test_a_folder_that_is_missing_is_named(arguments, missing):
    """Catches a traceback for a folder that is not there."""
    shutil.rmtree(arguments["base"].parent / missing)
    assert missing.split("/")[-1] in refused(arguments)


def test_a_newer_family_in_folders_is_named(arguments):
    """Catches Stable Diffusion XL refused for its shapes rather than for what it is."""
    (arguments["base"] / "text_encoder_2").mkdir()
    assert "expected Stable Diffusion 1.5" in refused(arguments)


def test_the_ids_of_the_empty_text_come_from_the_tokenizer(arguments, tmp_path):
    """Catches the last two ids taken for begin and end where tokens were added behind them."""
    convert(**arguments)
    plain = checkpoint.read_header(arguments["out"])[0].empty_text
    vocab = arguments["base"] / "tokenizer" / "vocab.json"
    vocab.parent.mkdir()
    for ids, same in (((97, 98), True), ((95, 96), False)):
        vocab.write_text(json.dumps({"<|startoftext|>": ids[0], "<|endoftext|>": ids[1]}))
        convert(**arguments | {"out": tmp_path / str(same)})
        empty = checkpoint.read_header(tmp_path / str(same))[0].empty_text
        assert np.array_equal(empty, plain) == same
    for content in ("[", '{"<|startoftext|>": 1, "<|endoftext|>": 99}', "3"):
        vocab.write_text(content)
        assert "vocab.json" in refused(arguments, out=tmp_path / "bad")


def test_an_existing_output_is_not_touched(arguments):
    """Catches an anchor of the user that a conversion overwrites."""
    arguments["out"].mkdir()
    (arguments["out"] / "precious").touch()
    assert "exists already" in refused(arguments)
    shutil.rmtree(arguments["out"])
    arguments["out"].symlink_to(arguments["out"].parent / "nowhere")
    assert "exists already" in refused(arguments)


def test_what_was_read_is_written_down(arguments):
    """Catches provenance that names another file, or hashes other bytes."""
    import hashlib

    convert(**arguments)
    provenance = checkpoint.read_header(arguments["out"])[0].provenance
    files = {entry["network"]: entry for entry in provenance["sources"]}
    path = arguments["body"] / "unet" / "diffusion_pytorch_model.safetensors"
    assert files["body/unet"] == {
        "network": "body/unet",
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert len(files) == 5
    assert str(arguments["out"].parent) not in (arguments["out"] / "anchor.json").read_text()


def test_the_configs_are_those_of_the_source(arguments):
    """Catches a config that falls back to its defaults."""
    convert(**arguments)
    networks = checkpoint.read_header(arguments["out"])[0].networks()
    configs = [network.config for network in networks.values()]
    assert configs == [UNET, CONTROL, VAE, VISION, TEXT]
    assert UNetConfig() not in configs and CLIPTextConfig() not in configs


@pytest.fixture
def exported(arguments, tmp_path):
    """The arguments that convert an export, made of the source, and the export's folder."""
    out = tmp_path / "back"
    convert(**arguments)
    export(arguments["out"], out)
    places = {"body": out / "body", "base": out / "sd", "image_encoder": out / "clip-vision"}
    return {**places, "out": tmp_path / "again"}, out


def test_the_first_conversion_is_remembered(exported, tmp_path):
    """Catches the origin of the weights lost when an export is converted again."""
    arguments, _ = exported
    first = checkpoint.load(tmp_path / "anchor", networks=()).provenance
    convert(**arguments)
    again = checkpoint.load(arguments["out"], networks=()).provenance
    assert again["first_conversion"] == first
    assert again["sources"] != first["sources"]
    export(arguments["out"], tmp_path / "twice")
    arguments |= {"body": tmp_path / "twice" / "body", "out": tmp_path / "third"}
    convert(**arguments)
    third = checkpoint.load(arguments["out"], networks=()).provenance
    assert third["first_conversion"] == first


def test_settings_beside_the_weights_are_not_trusted(exported):
    """Catches a damaged or edited file that ends in a traceback or is left out in silence."""
    arguments, out = exported
    path = out / "body" / "anchor-jax.json"
    values = json.loads(path.read_text())
    for content, words in (
        ("{", "not readable as JSON"),
        (json.dumps(values | {"trained": 1}), "trained is not"),
        (json.dumps(values | {"sampling": {"steps": 0}}), "steps is 0"),
        (json.dumps(values | {"provenance": []}), "provenance is not an object"),
    ):
        path.write_text(content)
        message = refused(arguments)
        assert words in message and str(path) in message
    path.unlink()
    convert(**arguments)  # as published folders are: without it


def test_the_empty_text_of_another_text_encoder_is_not_taken(exported, tmp_path):
    """Catches a text encoder that was replaced in an exported base, with the empty text of the old
    one kept, and a file that cannot be read."""
    arguments, out = exported
    path = out / "sd" / "empty_text.npy"
    stored = np.load(path)
    np.save(path, stored[:, ::-1].copy())
    assert any("computed the empty text anew" in note for note in convert(**arguments))
    found = checkpoint.load(arguments["out"], networks=()).empty_text
    np.testing.assert_allclose(found, stored, atol=1e-5)
    path.write_bytes(b"no array")
    assert "empty_text.npy" in refused(arguments, out=tmp_path / "bad")
