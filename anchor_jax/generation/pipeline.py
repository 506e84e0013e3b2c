"""From an anchor, pose images and a picture of the person to the frames of a video."""

import math

import numpy as np

from anchor_jax.checkpoint import Anchor
from anchor_jax.diffusion import plan_windows, sample
from anchor_jax.errors import AnchorError
from anchor_jax.generation.face import Face, check_face, repaint
from anchor_jax.generation.networks import (
    NoisePredictor,
    check_finite,
    decode,
    initial_latents,
    stage_params,
)
from anchor_jax.models import ControlConfig, UNetConfig, VAEConfig
from anchor_jax.progress import bars
from anchor_jax.shapes import Images

DTYPES = ("float32", "bfloat16")


def generate(
    anchor: Anchor,
    poses: Images,
    appearance: Images,
    *,
    steps: int = 20,
    guidance: float = 7.5,
    control_scale: float = 2.0,
    window: int = 16,
    overlap: int = 4,
    crossfade: bool = False,
    noise: np.ndarray | None = None,
    seed: int = 42,
    dtype: str = "float32",
    face: Face | None = None,
    progress: bool = False,
) -> Images:
    """Generate a video of the anchor's person.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images, uint8 (n, h, w, 3) RGB; sides are multiples of the autoencoder's
            factor (8).
        appearance: a picture of the person, uint8 (h', w', 3) RGB, of any size.
        steps: DDIM steps.
        guidance: scale of classifier-free guidance; at 1 the unconditional half is not computed.
        control_scale: W_c of equation (2).
        window: frames denoised together.
        overlap: frames that neighbouring windows share.
        crossfade: weigh what they predict there so that each window passes gradually into the
            next; published: equal weights.
        noise: initial latents, float32 (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        seed: for the initial noise where none is given; one noise frame serves all frames.
        dtype: of the computation, "float32" or "bfloat16".
        face: repaint the face of every usable frame (paper, section 3.3); None leaves all faces
            as the body model made them.
        progress: show bars with the time left.

    Returns:
        uint8 (n, h, w, 3) RGB; as published, values are truncated.

    Raises:
        AnchorError: for arguments that do not fit each other or the anchor.
    """
    shape = check_arguments(
        anchor,
        poses.shape,
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        window=window,
        overlap=overlap,
        seed=seed,
        dtype=dtype,
        face=face,
    )
    unet, control = anchor.networks["body/unet"], anchor.networks["body/control"]
    assert isinstance(unet, UNetConfig) and isinstance(control, ControlConfig)
    latents = initial_latents(shape, noise, seed)
    params = stage_params(anchor, "body", appearance, guidance, control_scale, dtype)
    stage = bars(progress, 2 if face is None else 5)
    num_windows = len(plan_windows(len(poses), window, overlap))
    with stage("denoising", steps * num_windows, "window") as advance:
        latents = sample(
            NoisePredictor(unet, control, dtype),
            params,
            latents,
            poses,
            anchor.schedule,
            num_steps=steps,
            guidance=guidance,
            window=window,
            overlap=overlap,
            crossfade=crossfade,
            on_windows=advance,
        )
    del params
    check_finite(latents)
    with stage("decoding", len(poses), "frame") as advance:
        frames = decode(anchor, latents, dtype, advance)
    if face is not None:
        repaint(
            anchor,
            frames,
            poses,
            appearance,
            face,
            steps=steps,
            window=window,
            overlap=overlap,
            crossfade=crossfade,
            seed=seed,
            dtype=dtype,
            stage=stage,
        )
    return frames


def check_arguments(
    anchor: Anchor,
    poses_shape: tuple[int, ...],
    *,
    steps: int,
    guidance: float,
    control_scale: float,
    window: int,
    overlap: int,
    seed: int,
    dtype: str,
    face: Face | None = None,
) -> tuple[int, int, int, int]:
    """Raise AnchorError for the first thing that cannot work; else the latents' shape
    (n, h, w, c). Cheap: call it before loading anything."""
    vae = anchor.networks["vae"]
    assert isinstance(vae, VAEConfig)
    n, height, width, _ = poses_shape
    if n == 0:
        raise AnchorError("there are no pose images: expected at least one frame")
    if height % vae.factor or width % vae.factor:
        raise AnchorError(
            f"pose images are {width}x{height}: expected sides that are multiples of {vae.factor};"
            " resize them (--size)"
        )
    most = anchor.schedule.num_train_timesteps
    if not 1 <= steps <= most:
        raise AnchorError(f"steps is {steps}: expected 1 to {most}")
    for name, scale in (("guidance", guidance), ("control_scale", control_scale)):
        if not math.isfinite(scale):
            raise AnchorError(f"{name} is {scale}: expected a finite number")
    if window < 1:
        raise AnchorError(f"window is {window}: expected at least 1 frame")
    if not 0 <= overlap < window:
        raise AnchorError(f"overlap is {overlap}: expected 0 to {window - 1}, less than the window")
    if not 0 <= seed < 1 << 32:
        raise AnchorError(f"seed is {seed}: expected 0 to {(1 << 32) - 1}")
    if dtype not in DTYPES:
        raise AnchorError(f"dtype is {dtype!r}: expected {' or '.join(DTYPES)}")
    if face is not None:
        check_face(anchor, (n, height, width), face)
    return n, height // vae.factor, width // vae.factor, vae.latent_channels
