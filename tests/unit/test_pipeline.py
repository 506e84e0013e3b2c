"""What `generate` does around the networks: arguments, noise, pictures in and out."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion import ScheduleConfig
from anchor_jax.errors import AnchorError
from anchor_jax.generation import networks as inference
from anchor_jax.generation import pipeline
from anchor_jax.generation.networks import clip_pixels, initial_latents
from anchor_jax.generation.pipeline import check_arguments, generate
from anchor_jax.models import (
    CLIPVisionConfig,
    ControlConfig,
    UNetConfig,
    VAEConfig,
    abstract_params,
)

SIZES = {
    "channels": (8, 8),
    "cross_attention": (True, False),
    "layers_per_block": 1,
    "num_heads": 2,
    "context_dim": 8,
    "norm_groups": 4,
}
NETWORKS = {
    "body/unet": UNetConfig(**SIZES),
    "body/control": ControlConfig(**SIZES, pose_embedding_channels=(4, 4)),
    "vae": VAEConfig(channels=(8, 8), layers_per_block=1, norm_groups=4),
    "image_encoder": CLIPVisionConfig(
        image_size=16, patch_size=8, width=8, mlp_width=8, num_layers=1, num_heads=2
    ),
}
ARGUMENTS = {
    "steps": 20,
    "guidance": 7.5,
    "control_scale": 2.0,
    "window": 16,
    "overlap": 4,
    "seed": 42,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def anchor() -> Anchor:
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), jnp.float32)
    params = {
        name: jax.tree.map(draw, abstract_params(config)) for name, config in NETWORKS.items()
    }
    empty_text = rng.normal(size=(5, 8)).astype(np.float32)
    return Anchor(dict(NETWORKS), ScheduleConfig(), empty_text, params)


@pytest.fixture
def poses() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 8, 12, 3), np.uint8)


APPEARANCE = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poses_shape": (0, 8, 8, 3)}, "at least one frame"),
        ({"poses_shape": (3, 8, 9, 3)}, "9x8"),
        ({"steps": 0}, "1 to 1000"),
        ({"steps": 1001}, "1 to 1000"),
        ({"window": 0}, "window is 0"),
        ({"overlap": 16}, "0 to 15"),
        ({"overlap": -1}, "0 to 15"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"control_scale": float("inf")}, "control_scale is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"dtype": "float16"}, "float32 or bfloat16"),
    ],
)
def test_bad_arguments_are_one_line(anchor, changes, words):
    """Catches an argument that only fails, or worse works, after minutes."""
    arguments = {"poses_shape": (3, 8, 8, 3), **ARGUMENTS} | changes
    with pytest.raises(AnchorError, match=words) as caught:
        check_arguments(anchor, **arguments)
    assert "\n" not in str(caught.value)


def test_one_noise_frame_serves_all():
    """Catches fresh noise for every frame, and a seed without effect."""
    latents = initial_latents((4, 2, 3, 5), seed=1)
    assert latents.shape == (4, 2, 3, 5)
    assert (latents == latents[:1]).all()
    assert not (latents == initial_latents((4, 2, 3, 5), seed=2)).any()


def test_given_noise_is_taken_for_all_frames_or_each():
    """Catches given noise that is ignored or broadcast along the wrong axis."""
    noise = np.arange(24, dtype=np.float32).reshape(4, 2, 3, 1)
    assert (initial_latents((4, 2, 3, 1), noise) == noise).all()
    assert (initial_latents((4, 2, 3, 1), noise[1]) == noise[1]).all()
    with pytest.raises(AnchorError, match=r"\(2, 3, 1\)"):
        initial_latents((4, 2, 3, 1), noise[:2])
    with pytest.raises(AnchorError, match="not finite"):
        initial_latents((4, 2, 3, 1), np.full_like(noise, np.nan))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (31, 500)])
def test_pictures_are_prepared_as_transformers_does(size: tuple[int, int]):
    """Catches another filter, a crop off the centre, swapped edges or channels."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = np.random.default_rng(3).integers(0, 256, (*size[::-1], 3), np.uint8)
    theirs = CLIPImageProcessorPil()(Image.fromarray(pixels), return_tensors="np")
    expected = theirs["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(clip_pixels(pixels), expected, atol=1e-5)


def test_frames_are_truncated_not_rounded(anchor, monkeypatch):
    """Catches rounding: saved video frames of the published system are truncated."""
    images = jnp.asarray([0.0, 0.5, 254.9 / 255, 1.0]).reshape(1, 2, 2, 1).repeat(3, 3)
    monkeypatch.setattr(inference, "decode_images", lambda *_: images)
    frames = inference.decode(anchor, jnp.zeros((1, 1, 1, 4)))
    assert frames[0, :, :, 0].tolist() == [[0, 127], [254, 255]]


def test_guidance_of_one_is_the_conditional_half_alone(anchor, poses):
    """Catches the shortcut at scale 1 giving another video than the formula does."""
    run = partial(generate, anchor, poses, APPEARANCE, steps=2, window=2, overlap=1)
    alone = run(guidance=1.0)
    formula = run(guidance=1.000001)
    assert np.abs(alone.astype(int) - formula).max() <= 1
    guided = run(guidance=7.5)
    assert np.abs(guided.astype(int) - formula).max() > 1


def test_a_crossfade_weighs_what_windows_share(anchor, poses, monkeypatch):
    """Catches an option without effect. Of one shared frame both windows have half, as without."""
    monkeypatch.setattr(pipeline, "decode", lambda anchor, latents, *_: np.asarray(latents))
    run = partial(generate, anchor, poses, APPEARANCE, steps=2)
    for window, overlap, same in ((2, 1, True), (3, 2, False)):
        equal, faded = (run(window=window, overlap=overlap, crossfade=c) for c in (False, True))
        assert np.allclose(equal, faded, atol=1e-4) == same


def test_weights_that_overflow_are_told(anchor, poses):
    """Catches a black or grey video in place of an error."""
    broken = jax.tree.map(lambda x: x * 1e30, anchor.params["body/unet"])
    bad = dataclasses.replace(anchor, params=anchor.params | {"body/unet": broken})
    with pytest.raises(AnchorError, match="not finite"):
        generate(bad, poses, APPEARANCE, steps=1)
