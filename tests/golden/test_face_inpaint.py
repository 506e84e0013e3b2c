"""Golden E: the face stage between its crops."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from anchor_jax.diffusion import Sampling, sample
from anchor_jax.face import mask
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.autoencoder import decode_batches, encode_images
from anchor_jax.generation.face import face_denoiser
from tests.latents import LatentsOfSteps
from tests.torch_side import relative


def last(array: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(array, -3, -1)


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "E_face_inpaint.npz"))


@pytest.fixture(scope="module")
def inpainting(golden, face_anchor) -> np.ndarray:
    """Our mask and masked latents, float32 (2, 8, 8, 5), of the recorded pictures and noise."""
    vae = face_anchor.vae.config
    keep = (golden["mask_images_u8"][..., None] > 127).astype(np.float32)
    masked = jnp.asarray(mask.masked_images(golden["face_images_rgb_u8"], keep))
    noise = jnp.asarray(last(golden["vae_noise"]))
    latents = encode_images(vae, face_anchor.vae.params, masked, noise, "float32")
    return np.concatenate([mask.to_latents(keep, vae.factor), latents], -1)


def test_masks_and_masked_images(golden):
    """Catches the opposite polarity, and black instead of mid-grey."""
    keep = (golden["mask_images_u8"][..., None] > 127).astype(np.float32)
    assert (keep == last(golden["mask_pixels"])).all()
    masked = mask.masked_images(golden["face_images_rgb_u8"], keep)
    np.testing.assert_allclose(masked, last(golden["masked_image"]), atol=1e-6)
    # Both halves of guidance were given the same.
    assert (np.tile(mask.to_latents(keep), (2, 1, 1, 1)) == last(golden["mask_latent"])).all()


def test_masked_latents(golden, inpainting):
    """Catches the mode of the posterior for a sample of it, and a scale left out."""
    assert relative(inpainting[..., 1:], last(golden["masked_image_latents"][:2])) < 2e-5


@pytest.mark.parametrize(
    ("steps", "guidance"), [("latents_steps", 3.5), ("latents_steps_cfg1", 1.0)]
)
def test_latents_after_every_step(golden, face_anchor, inpainting, steps, guidance):
    """Catches channels in another order, frames that see each other, the body's extra residual
    in the mid block, and a control branch that is given nine channels."""
    expected = last(golden[steps])
    ours = sample_face(golden, face_anchor, inpainting, guidance)
    for step, (latents, theirs) in enumerate(zip(ours, expected, strict=True)):
        assert relative(latents, theirs) < 2e-5, f"step {step}"
    if guidance != 1:
        batches = decode_batches(
            face_anchor.vae, jnp.asarray(ours[-1]), "float32", rounded=True, batch=len(ours[-1])
        )
        rounded = np.concatenate(list(batches)).astype(int)
        assert np.abs(rounded - golden["images_u8"]).max() <= 1
        assert (rounded == golden["images_u8"]).mean() > 0.99  # truncation would not leave it so


@pytest.mark.parametrize("mistake", ["polarity", "order", "all frames", "BGR"])
def test_mistakes_show(golden, face_anchor, inpainting, mistake):
    """Would the tests above catch them? Each plausible mistake, made on purpose."""
    wrong, poses = inpainting.copy(), None
    match mistake:
        case "polarity":
            wrong[..., 0] = 1 - wrong[..., 0]
        case "order":
            wrong = np.roll(wrong, -1, -1)
        case "BGR":
            poses = pose_crops(golden)[..., ::-1]
    ours = sample_face(golden, face_anchor, wrong, 3.5, mistake == "all frames", poses)
    assert relative(ours[-1], last(golden["latents_steps"])[-1]) > 1e-3


def pose_crops(golden) -> np.ndarray:
    return np.round(last(golden["control_images"]) * 255).astype(np.uint8)


def sample_face(
    golden, anchor, inpainting, guidance, windows=False, poses=None
) -> list[np.ndarray]:
    """Our latents after every step."""
    tokens = golden["prompt_embeds"]
    assert (tokens[0] == tokens[1]).all()
    halves = [tokens[:1]] if guidance == 1 else [golden["negative_prompt_embeds"][:1], tokens[:1]]
    params = {
        "unet": anchor.networks()["face/unet"].params,
        "control": anchor.networks()["face/control"].params,
        "context": jnp.concatenate(halves),
        "control_scale": jnp.float32(1),
    }
    steps = LatentsOfSteps(last(golden["latents_init"]))
    sample(
        face_denoiser(anchor.face, FaceSampling(windows=windows), "float32"),
        params,
        last(golden["latents_init"]),
        {"poses": pose_crops(golden) if poses is None else poses, "inpainting": inpainting},
        anchor.schedule,
        Sampling(steps=len(golden["timesteps"]), guidance=guidance, window=2, overlap=0),
        on_group=steps.add,
    )
    return steps.latents


def test_the_recording_is_what_we_think(golden, golden_dir):
    """Catches a golden file of other settings."""
    about = json.loads((golden_dir / "E_face_inpaint.json").read_text())
    assert about["report"]["timesteps"] == [667, 334, 1]
    assert about["report"]["pil_is_rounded"]
