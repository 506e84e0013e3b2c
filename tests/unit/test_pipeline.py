"""What `generate` does around the networks: arguments, noise, pictures in and out."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.diffusion import Sampling
from anchor_jax.diffusion import settings as settings_module
from anchor_jax.errors import AnchorError
from anchor_jax.face.landmarks import Track
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation import autoencoder, pipeline
from anchor_jax.generation import frames as stages
from anchor_jax.generation import networks as inference
from anchor_jax.generation.face import Face
from anchor_jax.generation.networks import clip_pixels, initial_latents
from anchor_jax.generation.pipeline import generate
from anchor_jax.generation.settings import check_inputs
from anchor_jax.generation.stream import stream
from anchor_jax.models import (
    CLIPVisionConfig,
    ControlConfig,
    UNetConfig,
    VAEConfig,
    abstract_params,
)
from tests.anchors import make_anchor

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


@pytest.fixture(scope="module")
def anchor() -> Anchor:
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), jnp.float32)
    params = {
        name: jax.tree.map(draw, abstract_params(config)) for name, config in NETWORKS.items()
    }
    empty_text = rng.normal(size=(5, 8)).astype(np.float32)
    return make_anchor(NETWORKS, params, empty_text)


@pytest.fixture
def poses() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 8, 12, 3), np.uint8)


APPEARANCE = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 0}, "window is 0"),
        ({"overlap": 16}, "0 to 15"),
        ({"overlap": -1}, "0 to 15"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": 1e30}, "guidance is 1e[+]30: expected 0 to 100"),
        ({"control_scale": float("inf")}, "control_scale is inf"),
        ({"control_scale": -1.0}, "control_scale is -1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"dtype": "float16"}, "float32 or bfloat16"),
        ({"dtype": "bfloat16", "tf32": True}, "tf32 goes with dtype float32"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 0, "seed": -1}, "steps is 0.*; seed is -1"),
    ],
)
def test_bad_settings_are_one_line(changes, words):
    """Catches a setting that only fails, or worse works, after minutes, and a second mistake that
    is found only after the first is mended."""
    with pytest.raises(AnchorError, match=words) as caught:
        Sampling().updated(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": -0.5}, "the face's guidance is -0.5"),
        ({"control_scale": float("nan")}, "the face's control_scale is nan"),
        ({"size": 0}, "the face's size is 0"),
        ({"blend": "oval", "fit": "pad"}, "blend is 'oval'.*; .*fit is 'pad'"),
    ],
)
def test_bad_settings_of_the_face_are_one_line(changes, words):
    """The same of the face stage."""
    with pytest.raises(AnchorError, match=words):
        FaceSampling().updated(**changes)


@pytest.mark.parametrize(
    ("shape", "steps", "words"),
    [
        ((0, 8, 8, 3), 20, "at least one frame"),
        ((3, 0, 8, 3), 20, "8x0"),
        ((3, 8, 0, 3), 20, "0x8"),
        ((3, 8, 9, 3), 20, "9x8"),
        ((3, 8, 8, 3), 1001, "1 to 1000"),
    ],
)
def test_bad_inputs_are_one_line(anchor, shape, steps, words):
    """Catches poses that end in a division by zero, or that only fail after minutes."""
    settings = Settings(Sampling(steps=steps))
    with pytest.raises(AnchorError, match=words) as caught:
        check_inputs(anchor, shape, settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(AnchorError, match=words):
        generate(anchor, np.zeros(shape, np.uint8), APPEARANCE, steps=steps)


def test_an_untrained_part_is_never_used(anchor, poses):
    """Catches a video of networks that no training has seen."""
    body = dataclasses.replace(anchor.body, trained=False)
    with pytest.raises(AnchorError, match="body was never trained"):
        generate(dataclasses.replace(anchor, body=body), poses, APPEARANCE)
    face = dataclasses.replace(anchor, face=body)
    assert face.face is body and face.trained_face is None
    track = Track(np.zeros((3, 5, 2)), np.ones(3, bool), {}, {})
    with pytest.raises(AnchorError, match="face part was never trained"):
        generate(face, poses, APPEARANCE, face=Face(track))


def test_what_is_left_out_comes_from_the_anchor(anchor, poses, monkeypatch):
    """Catches a default of the library that wins over the anchor's own, and a given setting that
    does not."""
    seen = []
    monkeypatch.setattr(
        pipeline, "generate_video", lambda *given: seen.append(given[3]) or given[1]
    )
    own = Settings(Sampling(steps=7, guidance=1.0, window=3, overlap=2), FaceSampling(size=64))
    mine = dataclasses.replace(anchor, settings=own)
    generate(mine, poses, APPEARANCE)
    generate(mine, poses, APPEARANCE, guidance=2.0, crossfade=True)
    assert seen[0] == own
    assert seen[1].face == own.face
    assert seen[1].sampling == dataclasses.replace(own.sampling, guidance=2.0, crossfade=True)


@pytest.mark.parametrize(
    ("given", "dtype", "precision"),
    [
        ({}, "bfloat16", "default"),
        ({"dtype": "float32"}, "float32", "highest"),
        ({"tf32": True}, "float32", "tensorfloat32"),
    ],
)
def test_type_and_precision_reach_the_networks(anchor, poses, monkeypatch, given, dtype, precision):
    """Catches "auto" that a GPU computes in float32, float32 products that a GPU rounds to TF32
    unasked, and appearance tokens that are not float32 in a bfloat16 run."""
    seen = {}

    def noted(name: str, result):
        def function(*args, **_):
            seen[name] = args, jax.config.jax_default_matmul_precision  # pyright: ignore
            return result

        return function

    monkeypatch.setattr(
        settings_module, "resolve_dtype", lambda x, _: "bfloat16" if x == "auto" else x
    )
    monkeypatch.setattr(stages, "Sampler", noted("sample", [[jnp.zeros((3, 1, 1, 4))]]))
    monkeypatch.setattr(autoencoder, "decode_pixels", noted("decode", jnp.asarray(poses)))
    monkeypatch.setattr(inference, "encode_pixels", noted("encode", jnp.zeros((1, 5, 8))))
    with jax.default_matmul_precision("default"):
        generate(anchor, poses, APPEARANCE, **given)
    assert seen["encode"][1] == "highest"
    assert seen["sample"][1] == seen["decode"][1] == precision
    (denoise, params, *_), _ = seen["sample"]
    assert denoise.denoiser.dtype == params["unet"]["conv_in"]["kernel"].dtype == dtype
    assert seen["decode"][0][3] == dtype


def test_a_bfloat16_run_makes_no_float32_kernels(anchor, poses, monkeypatch):
    """Catches kernels that are cast up again on the way to the networks: twice the memory."""
    parts = ("unet", "control")
    body = anchor.body
    halves = {
        name: inference.cast_kernels(getattr(body, name).params, "bfloat16") for name in parts
    }
    networks = {
        name: dataclasses.replace(getattr(body, name), params=halves[name]) for name in parts
    }
    half = dataclasses.replace(anchor, body=dataclasses.replace(body, **networks))
    shapes = {x.shape for x in jax.tree.leaves(halves) if x.ndim > 1}
    found = []

    def sampler(denoise, params, blocks, *_, **__):
        found.append(live_kernels())
        assert params["unet"]["conv_in"]["kernel"] is halves["unet"]["conv_in"]["kernel"]
        return [[jnp.asarray(block["noise"])] for block in blocks]

    def live_kernels() -> int:
        return sum(x.shape in shapes and x.dtype == "float32" for x in jax.live_arrays())

    before = live_kernels()
    monkeypatch.setattr(stages, "Sampler", sampler)
    generate(half, poses, APPEARANCE, dtype="bfloat16")
    assert found == [before]


def test_a_full_device_is_bad_input(anchor, poses, monkeypatch):
    """Catches a traceback of XLA in place of the setting to change."""

    def sampler(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(stages, "Sampler", sampler)
    with pytest.raises(AnchorError, match="smaller window or size, or dtype bfloat16"):
        generate(anchor, poses, APPEARANCE)


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
    """Catches rounding: saved video frames of the published system are truncated, and the crops
    that it pastes are rounded."""
    levels = jnp.asarray([-9.0, 127.5, 254.9, 300.0]).reshape(1, 2, 2, 1).repeat(3, 3)
    monkeypatch.setattr(autoencoder, "apply", lambda *_, **__: levels / 127.5 - 1)
    with jax.disable_jit():
        frames = autoencoder.decode(anchor.vae, jnp.zeros((1, 1, 1, 4)))
        (crops,) = autoencoder.decode_batches(
            anchor.vae, jnp.zeros((1, 1, 1, 4)), "float32", rounded=True, batch=1
        )
    assert frames[0, :, :, 0].tolist() == [[0, 127], [254, 255]]
    assert crops[0, :, :, 0].tolist() == [[0, 128], [255, 255]]


def test_batches_are_decoded_one_ahead(anchor, monkeypatch):
    """Catches a device that waits while the host uses a batch, float images that leave the device,
    frames of the padding, and batches in another order."""
    dispatched = []
    real = autoencoder.decode_pixels

    def decode_pixels(*args):
        dispatched.append(args[2].shape)
        return real(*args)

    monkeypatch.setattr(autoencoder, "decode_pixels", decode_pixels)
    latents = jnp.asarray(np.random.default_rng(4).normal(size=(5, 4, 6, 4)), jnp.float32)
    ahead, frames = [], []
    for images in autoencoder.decode_batches(anchor.vae, latents, "float32", batch=2):
        ahead.append(len(dispatched))
        frames.append(images)
    assert ahead == [2, 3, 3] and set(dispatched) == {(2, 4, 6, 4)}
    images = autoencoder.decode_images(anchor.vae.config, anchor.vae.params, latents, "float32")
    expected = (np.asarray(images) * 255).astype(np.uint8)
    assert np.concatenate(frames).dtype == np.uint8
    assert abs(np.concatenate(frames).astype(int) - expected).max() <= 1


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
    decoded = []

    def decode_pixels(config, params, latents, *_):
        decoded.append(np.asarray(latents))
        return jnp.zeros((len(latents), *poses.shape[1:]), jnp.uint8)

    monkeypatch.setattr(autoencoder, "decode_pixels", decode_pixels)
    for window, overlap, same in ((2, 1, True), (3, 2, False)):
        for crossfade in (False, True):
            given = {"window": window, "overlap": overlap, "crossfade": crossfade}
            generate(anchor, poses, APPEARANCE, steps=2, **given)
        assert np.allclose(decoded.pop(), decoded.pop(), atol=1e-4) == same


def test_weights_that_overflow_are_told(anchor, poses):
    """Catches a black or grey video in place of an error."""
    broken = jax.tree.map(lambda x: x * 1e30, anchor.body.unet.params)
    unet = dataclasses.replace(anchor.body.unet, params=broken)
    bad = dataclasses.replace(anchor, body=dataclasses.replace(anchor.body, unet=unet))
    with pytest.raises(AnchorError, match="not finite"):
        generate(bad, poses, APPEARANCE, steps=1)


def test_pose_images_are_embedded_once(anchor, poses, monkeypatch):
    """Catches an embedding of other frames or with other parameters, padding that is kept, and
    embeddings that are kept although they take too much memory."""
    sampling = Sampling(steps=2, window=3, overlap=1, guidance=1.0, dtype="float32")
    denoise = inference.body_denoiser(anchor.body, "float32")
    tokens = jnp.asarray(np.random.default_rng(3).normal(size=(5, 8)), jnp.float32)
    params = inference.denoiser_params(anchor.body, tokens, anchor.empty_text, sampling)
    latents = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4, 6, 4)), jnp.float32)
    embed = inference.embed_once(denoise, params, sampling)
    blocks = [embed({"poses": poses[:2]}), embed({"poses": poses[2:]})]
    assert [block["embedding"].shape for block in blocks] == [(2, 4, 6, 8), (1, 4, 6, 8)]
    embedding = jnp.concatenate([block["embedding"] for block in blocks])
    predict = lambda condition: denoise(params, latents, condition, 500, jnp.int32(3))
    expected = predict({"poses": jnp.asarray(poses)})
    np.testing.assert_allclose(predict({"embedding": embedding}), expected, rtol=1e-5, atol=1e-6)
    other = predict({"embedding": embedding[::-1]})
    assert np.abs(other - expected).max() > 1e-3
    monkeypatch.setattr(inference, "EMBEDDING_BYTES", 1000)
    assert set(embed({"poses": poses[:2]})) == {"poses"}


STREAMED = {"steps": 2, "window": 3, "overlap": 1, "guidance": 2.0}


def test_a_stream_gives_the_frames_of_the_whole_video(anchor):
    """Catches frames that are lost, doubled or in another order, noise or poses of other frames,
    and a precision that stays set while the caller has a frame."""
    poses = np.random.default_rng(1).integers(0, 256, (13, 8, 12, 3), np.uint8)
    whole = generate(anchor, poses, APPEARANCE, **STREAMED)
    frames = []
    with jax.default_matmul_precision("bfloat16"):
        for frame in stream(anchor, iter(poses), APPEARANCE, **STREAMED):
            assert jax.config.jax_default_matmul_precision == "bfloat16"  # pyright: ignore
            frames.append(frame)
    np.testing.assert_array_equal(frames, whole)


def test_a_stream_reads_poses_as_it_needs_them(anchor):
    """Catches a stream that reads everything before its first frame, or reads on while frames
    wait."""
    reads = []

    def poses():
        for number in range(200):
            reads.append(number)
            yield np.full((8, 12, 3), number, np.uint8)

    frames = stream(anchor, poses(), APPEARANCE, **STREAMED)
    ahead = [len(reads) - number for number, _ in zip(range(120), frames, strict=False)]
    assert max(ahead) <= 40 < len(ahead)


@pytest.mark.parametrize("other", [np.zeros((8, 16, 3), np.uint8), np.zeros((8, 12, 3)), None])
def test_a_stream_names_a_pose_image_that_is_unlike_the_first(anchor, poses, other):
    """Catches an error of the networks in the place of one that names the pose image."""
    with pytest.raises(AnchorError, match="pose image 4"):
        list(stream(anchor, iter([*poses, other]), APPEARANCE, **STREAMED))
    with pytest.raises(AnchorError, match="no pose images"):
        stream(anchor, iter([]), APPEARANCE, **STREAMED)
