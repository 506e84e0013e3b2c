"""How the face's appearance picture is made square before the image encoder sees it."""

import cv2
import numpy as np
import pytest

from anchor_jax.checkpoint import Settings
from anchor_jax.diffusion import Sampling
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation import face as face_stage
from anchor_jax.generation.crops import squash
from anchor_jax.generation.face import FaceStage
from anchor_jax.models import ControlConfig, UNetConfig, VAEConfig
from tests.anchors import make_anchor


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (300, 500), (37, 1000), (3, 2), (64, 64)])
@pytest.mark.parametrize("side", [64, 256])
def test_a_squashed_picture_is_opencvs(size: tuple[int, int], side: int):
    """Catches sides that are kept, an area filter, corners that are aligned, and rounding between
    columns and rows: the published program calls cv2.resize."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR)
    ours = squash(pixels, side)
    assert ours.shape == theirs.shape and ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("fit", "shape"), [("squash", (32, 32, 3)), ("crop", (80, 100, 3))])
def test_the_encoder_sees_what_the_setting_says(monkeypatch, fit, shape):
    """Catches a setting that changes nothing, and the body's picture that is left as it is where
    the face has none of its own."""
    sizes = {"channels": (8, 8), "cross_attention": (True, False), "num_heads": 2}
    sizes |= {"layers_per_block": 1, "context_dim": 8, "norm_groups": 4}
    configs = {
        "vae": VAEConfig(channels=(8, 8), layers_per_block=1, norm_groups=4),
        "face/unet": UNetConfig(**sizes),
        "face/control": ControlConfig(**sizes, pose_embedding_channels=(4, 4)),
    }
    anchor, seen = make_anchor(configs, {}, np.zeros((1, 8), np.float32)), []
    assert anchor.face is not None
    fakes = {
        "encode_appearance": lambda encoder, picture: seen.append(picture),
        "denoiser_params": lambda *_: {},
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(face_stage, name, fake)
    picture = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    settings = Settings(Sampling(steps=1, dtype="float32"), FaceSampling(size=32, fit=fit))
    FaceStage(anchor, anchor.face, picture, None, settings)
    assert seen[0].shape == shape
