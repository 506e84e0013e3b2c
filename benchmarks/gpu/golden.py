"""Videos that were recorded of the published code, generated on this device.

`../shared/golden` holds the recordings and the tiny weights. They contain files of third parties
and are not part of the repository; without them the section is skipped.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint import Anchor, load
from anchor_jax.compiling import matmul_precision
from anchor_jax.diffusion import Sampling, sample
from anchor_jax.generation.autoencoder import decode
from anchor_jax.generation.networks import WindowDenoiser
from anchor_jax.models import Denoiser
from benchmarks.gpu.report import ROOT, Section

_FOLDER = ROOT.parent / "shared" / "golden"
# The first has windows shorter than the others, the second a window of 16 frames.
_VIDEOS = ("N9_ws4_os2", "N16_ws16_os4", "N11_ws4_os1", "N4_ws16_os4")


def measure_golden(section: Section, toy: bool) -> None:
    """Compare latents after the last step and frames with each recording, float32 and bfloat16."""
    if not _FOLDER.is_dir():
        section.notes.append("Skipped: ../shared/golden is not there.")
        return
    section.notes.append(
        "latents: L2 distance to the recording, relative; frames: differences of 8-bit values."
    )
    anchor = _tiny_anchor()
    for name in _VIDEOS[:1] if toy else _VIDEOS:
        for dtype in ("float32", "bfloat16"):
            if section.out_of_time(f"{name}, {dtype}"):
                continue
            with section.measuring(f"{name}, {dtype}") as result:
                result |= _compare(anchor, name, dtype)


def _tiny_anchor() -> Anchor:
    """Convert the tiny weights, which are in the published layout."""
    # The name in a checkout that is not installed; installed it is anchor_jax.convert.
    from convert import convert

    tiny = _FOLDER / "tiny"
    with tempfile.TemporaryDirectory() as folder:
        convert(
            base=tiny / "sd",
            image_encoder=tiny / "clip-vision",
            body=tiny / "body",
            out=Path(folder) / "anchor",
            progress=False,
        )
        return load(Path(folder) / "anchor", networks=["body/unet", "body/control", "vae"])


def _compare(anchor: Anchor, name: str, dtype: str) -> dict[str, Any]:
    """Sample and decode one recorded video."""
    arrays = np.load(_FOLDER / f"C_video_{name}.npz")
    settings = json.loads((_FOLDER / f"C_video_{name}.json").read_text("utf-8"))["params"]
    params = {
        "unet": anchor.body.unet.params,
        "control": anchor.body.control.params,
        "context": jnp.concatenate([anchor.empty_text[None], arrays["prompt_embeds"]]),
        "control_scale": jnp.float32(2.0),
    }
    sampling = Sampling(
        steps=settings["num_inference_steps"],
        guidance=settings["guidance_scale"],
        window=settings["window_size"],
        overlap=settings["window_overlap"],
        dtype=dtype,
    )
    poses = np.round(arrays["control_frames"].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    unet, control = anchor.body.unet.config, anchor.body.control.config
    with matmul_precision(dtype):
        latents = sample(
            WindowDenoiser(Denoiser(unet, control, dtype)),
            params,
            _channels_last(arrays["latents_init"]),
            {"poses": poses},
            anchor.schedule,
            sampling,
        )
        frames = decode(anchor.vae, latents, dtype)
    expected = _channels_last(arrays["latents_steps"][-1])
    difference = np.asarray(latents, np.float64) - expected
    recorded = (_channels_last(arrays["frames"]) * 255).astype(np.uint8)
    wrong = np.abs(frames.astype(int) - recorded)
    return {
        "latents": float(np.linalg.norm(difference) / np.linalg.norm(expected)),
        "largest": int(wrong.max()),
        "mean": float(wrong.mean()),
        "equal": float((wrong == 0).mean()),
    }


def _channels_last(array: np.ndarray) -> np.ndarray:
    """PyTorch's (1, c, f, h, w) to (f, h, w, c)."""
    return np.moveaxis(array, 1, -1)[0]
