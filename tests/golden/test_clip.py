"""Golden D: appearance tokens, and the embedding of the empty text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.convert import empty_text
from anchor_jax.generation.networks import clip_pixels, encode_appearance
from anchor_jax.models import build
from tests.torch_side import relative


@pytest.fixture(scope="module")
def golden(golden_dir):
    return dict(np.load(golden_dir / "D_clip.npz"))


def test_pixels_of_pictures(golden):
    """Catches bilinear resizing, a squeeze instead of a centre crop, BGR, [-1, 1] instead of
    CLIP's normalisation."""
    picture = golden["train_reference_values_uint8"]
    theirs = golden["body_pixel_values"].transpose(0, 2, 3, 1)
    assert relative(clip_pixels(picture), theirs) < 1e-5
    assert relative(clip_pixels(picture[..., ::-1].copy()), theirs) > 1e-3
    wide = golden["crop_pixel_values"].transpose(0, 2, 3, 1)
    assert relative(clip_pixels(picture[:358]), wide) < 1e-5


@pytest.mark.parametrize("name", ["rand", "body", "crop"])
def test_hidden_states(golden, anchor, name):
    """Catches a hidden state after the last layer norm, a lost class token, exact gelu; says which
    layer is the first to go wrong."""
    pixels = jnp.asarray(golden[f"{name}_pixel_values"].transpose(0, 2, 3, 1))
    apply = jax.jit(
        lambda *args: build(anchor.image_encoder.config).apply(*args, capture_intermediates=True)
    )
    (hidden, pooled), state = apply({"params": anchor.image_encoder.params}, pixels)
    if name == "rand":
        vision = state["intermediates"]["vision_model"]
        layers = [
            vision["pre_layrnorm"],
            vision["encoder"]["layers_0"],
            vision["encoder"]["layers_1"],
        ]
        for i, layer in enumerate(layers):
            assert relative(layer["__call__"][0], golden[f"rand_hidden_{i}"]) < 1e-5, f"layer {i}"
        assert relative(pooled, golden["rand_pooler_output"]) < 1e-5
    assert relative(hidden, golden[f"{name}_last_hidden_state"]) < 1e-5


def test_appearance_tokens(golden, anchor):
    """Catches tokens that go through the projection, and training's path unlike inference's."""
    tokens = encode_appearance(anchor.image_encoder, golden["train_reference_values_uint8"])
    assert relative(tokens[None], golden["train_last_hidden_state"]) < 1e-5


def test_text_encoder(golden, anchor):
    """Catches attention without the causal mask."""
    ids = jnp.asarray(golden["text_ids_77"])
    apply = jax.jit(build(anchor.text_encoder.config).apply)
    hidden = apply({"params": anchor.text_encoder.params}, ids)
    assert relative(hidden, golden["text_last_hidden_77"]) < 1e-5


def test_empty_text(golden, anchor):
    """Catches zeros for the unconditional half, padding with another id than the end's, and a
    length other than the appearance tokens'. The anchor must hold the same."""
    config, expected = anchor.text_encoder.config, golden["text_empty_last_hidden_50"][0]
    ends = config.vocab_size - 2, config.vocab_size - 1
    assert golden["text_empty_ids_50"][0].tolist() == [ends[0], *[ends[1]] * 49]
    ours = empty_text(config, anchor.text_encoder.params, 50, ends)
    assert relative(ours, expected) < 1e-5
    assert relative(anchor.empty_text, expected) < 1e-5
