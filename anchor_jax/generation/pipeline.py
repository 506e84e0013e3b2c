"""Generate a video from an anchor, pose images and a picture of the person."""

import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.diffusion.shortcuts import Reuse
from anchor_jax.diffusion.solvers import Solver, Spacing
from anchor_jax.diffusion.windows import num_windows
from anchor_jax.errors import AnchorError
from anchor_jax.face.settings import FaceSampling
from anchor_jax.generation.face import Face, face_sampling
from anchor_jax.generation.frames import Frames
from anchor_jax.generation.networks import initial_latents
from anchor_jax.generation.settings import check_inputs
from anchor_jax.progress import Progress, bars, silent
from anchor_jax.shapes import Images


def generate(
    anchor: Anchor,
    poses: Images,
    appearance: Images | None = None,
    *,
    fast: bool = False,
    steps: int | None = None,
    solver: Solver | None = None,
    spacing: Spacing | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    control_scale: float | None = None,
    window: int | None = None,
    overlap: int | None = None,
    crossfade: bool | None = None,
    reuse: Reuse | None = None,
    reuse_every: int | None = None,
    noise: np.ndarray | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    tf32: bool | None = None,
    devices: int | None = None,
    face: Face | None = None,
    face_sampling: FaceSampling | None = None,
    progress: bool = False,
) -> Images:
    """Generate a video of the anchor's person.

    Settings that are None come from `anchor.settings`.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images, uint8 (n, h, w, 3) RGB; h and w are multiples of the autoencoder's
            factor (8).
        appearance: a picture of the person, uint8 (h', w', 3) RGB, of any size; None takes
            `anchor.appearance`.
        fast: take the shortcuts of `Sampling.fast`, which other settings then change.
        steps: denoising steps.
        solver: "ddim" (published), "dpm++" or "unipc"; the last two need fewer steps.
        spacing: of the timesteps, "leading" (published) or "trailing", which suits few steps.
        guidance: scale of classifier-free guidance, 0 to 100; at 1 the unconditional prediction is
            not computed.
        guidance_interval: of t / T, 0 to 1, where guidance is applied.
        control_scale: W_c of equation (2) of the paper, 0 to 100.
        window: frames that are denoised together.
        overlap: frames that neighbouring windows share, less than `window`.
        crossfade: where windows overlap, weight their predictions so that one window fades into
            the next; published: equal weights.
        reuse: features that windows take from earlier steps, see `diffusion.shortcuts`.
        reuse_every: they are computed at each so many-th step.
        noise: initial latents, float32 (h/8, w/8, 4) for all frames or (n, h/8, w/8, 4).
        seed: seed of the initial noise, if `noise` is None; all frames start from the same noise.
        dtype: type that the networks compute in, "float32", "bfloat16" or "auto", which is bfloat16
            on GPUs and float32 elsewhere.
        tf32: compute in float32, and let GPUs round the factors of products to TF32.
        devices: number of devices that share the windows; None takes all that JAX sees.
        face: where to repaint faces (paper, section 3.3); None repaints none.
        face_sampling: settings of repainting; None takes `anchor.settings.face`.
        progress: show a progress bar.

    Returns:
        The frames, uint8 (n, h, w, 3) RGB. As published, values are truncated, not rounded.

    Raises:
        AnchorError: settings are out of range, arguments do not fit each other or the anchor, there
            is no appearance, sampling gave values that are not finite, or the device has too little
            memory.
    """
    sampling = anchor.settings.sampling.updated(
        fast=fast,
        steps=steps,
        solver=solver,
        spacing=spacing,
        guidance=guidance,
        guidance_interval=guidance_interval,
        control_scale=control_scale,
        window=window,
        overlap=overlap,
        crossfade=crossfade,
        reuse=reuse,
        reuse_every=reuse_every,
        seed=seed,
        dtype=dtype,
        tf32=tf32,
        devices=devices,
    )
    settings = Settings(sampling, face_sampling or anchor.settings.face)
    picture = picture_of(anchor, appearance)
    return generate_video(anchor, poses, picture, settings, face, noise, bars(progress))


def generate_video(
    anchor: Anchor,
    poses: Images,
    appearance: Images,
    settings: Settings,
    face: Face | None = None,
    noise: np.ndarray | None = None,
    progress: Progress = silent,
) -> Images:
    """Generate a video as `generate` does, with all settings as one value.

    Args:
        anchor: from `anchor_jax.load`.
        poses: pose images, uint8 (n, h, w, 3) RGB.
        appearance: a picture of the person, uint8 (h', w', 3) RGB.
        settings: settings of the body and of the face.
        face: where to repaint faces, or None.
        noise: initial latents as in `generate`, or None.
        progress: shows how many of `count_tasks` windows are done.

    Returns:
        The frames, uint8 (n, h, w, 3) RGB.

    Raises:
        AnchorError: as `generate`.
    """
    shape = check_inputs(anchor, poses.shape, settings, face)
    check_loaded(anchor, face is not None)
    settings = settings.resolved()
    latents = initial_latents(shape, noise, settings.sampling.seed)
    out = np.empty(poses.shape, np.uint8)
    transforms = [None] * len(poses) if face is None else face.track.transforms()
    total = count_tasks(settings, len(poses), face)
    with progress("generating", total, "window") as advance:
        frames = Frames(
            anchor,
            zip(poses, transforms, strict=True),
            appearance,
            settings,
            latents,
            face=face,
            num_frames=len(poses),
            on_windows=advance,
        )
        count = 0
        for batch in frames:
            out[count : count + len(batch)] = batch
            count += len(batch)
    return out


def count_tasks(settings: Settings, num_frames: int, face: Face | None) -> int:
    """Count the windows that are predicted for a video, in all steps, of the body and of faces."""
    body, of_face = settings.sampling, face_sampling(settings)
    usable = 0 if face is None else int(face.track.usable.sum())
    stages = (body, num_frames), (of_face, usable)
    return sum(each.steps * num_windows(count, each.stride) for each, count in stages)


def picture_of(anchor: Anchor, appearance: Images | None) -> Images:
    """Return the picture of the person: the given one, else the anchor's.

    Raises:
        AnchorError: there is none.
    """
    picture = anchor.appearance if appearance is None else appearance
    if picture is None:
        raise AnchorError(
            "the anchor has no picture of its person: give `appearance`, uint8 (h, w, 3)"
        )
    return picture


def networks_needed(face: bool) -> list[str]:
    """Return the names of the networks that generation uses; `face` includes the face part."""
    names = ["body/unet", "body/control", "vae", "image_encoder"]
    return [*names, "face/unet", "face/control"] if face else names


def check_loaded(anchor: Anchor, face: bool) -> None:
    """Raise AnchorError unless the parameters that generation needs are loaded."""
    networks = anchor.networks()
    if missing := [name for name in networks_needed(face) if not networks[name].params]:
        raise AnchorError(
            f"the anchor was loaded without the parameters of {', '.join(missing)}: load it with"
            " them (anchor_jax.load)"
        )
