"""Faces keep their colours: red, green, blue all the way, where one exchange makes them blue."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from anchor_jax.checkpoint import Settings
from anchor_jax.diffusion import Sampling
from anchor_jax.face import align
from anchor_jax.face.landmarks import follow
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation import autoencoder
from anchor_jax.generation import face as repaint
from anchor_jax.models import ControlConfig, UNetConfig, VAEConfig
from anchor_jax.poses.face_crops import FaceCrops
from anchor_jax.poses.pose_images import read_conditions
from tests.anchors import make_anchor

SIDE = 64
SKIN, MESH, PAINT = (220, 160, 120), (118, 146, 152), (250, 100, 50)


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((1, SIDE, SIDE, 3), colour, np.uint8)


def landmarks() -> np.ndarray:
    """Continuous pixels (1, 5, 2) of a face whose crop is the middle half of the picture."""
    return ((align._TEMPLATE + 0.5) / 16 + SIDE / 4)[None]


def test_crops_of_training_keep_the_order_of_colours(tmp_path: Path):
    """Catches red and blue exchanged in frames, or in pose images, before the networks learn."""
    (tmp_path / "face").mkdir()
    Image.new("L", (SIDE, SIDE), 255).save(tmp_path / "face" / "000001.png")
    np.savez(tmp_path / "conditions.npz", landmarks=landmarks(), size=(SIDE, SIDE))
    cut = FaceCrops(read_conditions(tmp_path), SIDE).cut
    crops = cut(0, plain(SKIN)[0], plain(MESH)[0], (0, 0, SIDE))
    assert (crops["face"] == SKIN).all()
    assert (crops["face_pose"] == MESH).all()


def test_repainting_keeps_the_order_of_colours(monkeypatch):
    """Catches red and blue exchanged on the way into the autoencoder or the control branch, or in
    what is pasted; and windows of faces that are not cross-faded as the body's are."""
    given, sizes = {}, {"channels": (8, 8), "cross_attention": (True, False), "num_heads": 2}
    sizes |= {"layers_per_block": 1, "context_dim": 8, "norm_groups": 4}
    configs = {
        "vae": VAEConfig(channels=(8, 8), layers_per_block=1, norm_groups=4),
        "face/unet": UNetConfig(**sizes),
        "face/control": ControlConfig(**sizes, pose_embedding_channels=(4, 4)),
    }
    anchor = make_anchor(configs, {}, np.zeros((1, 8), np.float32))
    assert anchor.face is not None

    def encode(config, params, images, noise, dtype):
        given["masked"] = images
        return jnp.zeros((len(images), *noise.shape))

    def sampler(denoise, params, blocks, schedule, sampling, **options):
        (block,) = blocks
        given["poses"], given["crossfade"] = block["condition"]["poses"], sampling.crossfade
        return [[jnp.asarray(block["noise"])]]

    def decode(config, params, latents, dtype, rounded):
        assert rounded
        return jnp.broadcast_to(jnp.array(PAINT, jnp.uint8), (len(latents), 32, 32, 3))

    monkeypatch.setattr(autoencoder, "decode_pixels", decode)
    monkeypatch.setattr(autoencoder, "encode_images", encode)
    fakes = {"Sampler": sampler, "denoiser_params": lambda *_: {}}
    fakes |= {"encode_appearance": lambda *_: None}
    fakes |= {"embed_once": lambda *_: lambda condition: condition}
    for name, fake in fakes.items():
        monkeypatch.setattr(repaint, name, fake)
    settings = Settings(
        Sampling(steps=1, window=1, overlap=0, crossfade=True, dtype="float32"),
        FaceSampling(size=32),
    )
    stage = repaint.FaceStage(anchor, anchor.face, plain(SKIN)[0], None, settings)
    stage.expect(plain(MESH), follow(landmarks(), (SIDE, SIDE)).transforms())
    (frames,) = stage.repaint(iter([plain(SKIN)]))
    kept = np.asarray(given["masked"][0, 0, 0])
    np.testing.assert_allclose((kept + 1) * 127.5, SKIN, atol=0.01)
    assert (given["poses"] == MESH).all() and given["crossfade"]
    assert np.abs(frames[0, SIDE // 2, SIDE // 2].astype(int) - PAINT).max() <= 2
    assert (frames[0, 0, 0] == SKIN).all()
