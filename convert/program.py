"""Convert published PyTorch weights to an ANCHOR (`anchor-jax convert`)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.checkpoint import (
    FRESH_NOTE,
    TOKENIZER_FILES,
    Anchor,
    Network,
    assemble,
    save,
    with_networks,
)
from anchor_jax.checkpoint.fresh_control import fresh_control, fresh_control_config
from anchor_jax.checkpoint.parameters import Lazy
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.errors import AnchorError, shorten
from anchor_jax.files import check_new
from anchor_jax.models import NetworkConfig, VAEConfig
from anchor_jax.progress import BYTES, Advance, bars
from anchor_jax.shapes import Params
from anchor_jax.versions import versions

from . import configs, ldm, names
from .extras import read_extras, stored_empty_text
from .sources import Weights, find_weights, open_weights, sha256
from .text import begin_and_end, empty_text

_DTYPES = ("keep", "float32", "float16", "bfloat16")
_DIFFUSERS, _TEXT_ENCODER = "diffusion_pytorch_model", ("model", "pytorch_model")


@dataclass
class _Source:
    """The source of one network.

    Attributes:
        config: config of the network.
        weights: the weight file, opened.
        key_of: converts diffusers' or transformers' name of a tensor to its name in the file.
        ignored: descriptions of tensors that are left out, with regular expressions of their names.
    """

    config: NetworkConfig
    weights: Weights
    key_of: Callable[[str], str] = lambda key: key
    ignored: dict[str, str] = field(default_factory=dict)


def convert(
    *,
    base: str | Path,
    image_encoder: str | Path,
    out: str | Path,
    body: str | Path | None = None,
    face: str | Path | None = None,
    dtype: str = "keep",
    seed: int = 0,
    progress: bool = True,
) -> list[str]:
    """Convert published weights to an ANCHOR, one tensor at a time.

    Args:
        base: Stable Diffusion 1.5: a folder in diffusers layout or one `.safetensors`/`.ckpt` file.
        image_encoder: folder of the CLIP vision encoder.
        out: the new folder.
        body: folder with `unet/` and `controlnet/`. None makes a fresh anchor: the base's UNet, and
            a control branch with a copy of its encoder and zero convolutions.
        face: the same for the head, whose UNet has 9 input channels for 4 latent channels, or None.
        dtype: "keep" (each tensor in its own type), "float32", "float16" or "bfloat16".
        seed: seed of the pose embedding of a fresh control branch.
        progress: show a progress bar.

    Returns:
        Notes, one line each: tensors that were left out, and values that were assumed.

    Raises:
        AnchorError: tensors are missing, unsupported, unused, not finite or have wrong shapes;
            nothing is written then.
    """
    if dtype not in _DTYPES:
        raise AnchorError(f"dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
    base, out = Path(base), Path(out)
    body, face = (None if part is None else Path(part) for part in (body, face))
    check_new(out)
    notes: list[str] = []
    sources, anchor = _open_sources(base, Path(image_encoder), body, face, seed, notes)
    params, buffers = _match(sources, dtype, notes)
    if body is None:
        config = anchor.body.control.config
        params["body/control"] = fresh_control(config, params["body/unet"], seed)
    text, num_tokens = anchor.text_encoder.config, anchor.image_encoder.config.num_tokens
    ends = begin_and_end(anchor.tokenizer, text)
    empty = empty_text(text, params["text_encoder"], num_tokens, ends)
    empty = stored_empty_text(base, empty, notes)
    files = {source.weights.path: name for name, source in sources.items()}
    size = sum(path.stat().st_size for path in files)
    size += sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    with bars(None if progress else False, delay=2)("convert", size, BYTES) as advance:
        made = {
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC by anchor-jax convert",
            "versions": versions(("anchor-jax", "jax", "flax", "numpy")),
            "dtype": dtype,
            "sources": _describe_files(files, advance),
            "notes": notes,
            "buffers": buffers,
        }
        params = jax.tree.map(lambda leaf: _reporting(leaf, advance), params)
        networks = {
            name: replace(network, params=params[name])
            for name, network in anchor.networks().items()
        }
        provenance = _continued(anchor.provenance, made)
        anchor = replace(anchor, empty_text=empty, provenance=provenance)
        save(out, with_networks(anchor, networks))
    return notes


def _open_sources(
    base: Path,
    image_encoder: Path,
    body: Path | None,
    face: Path | None,
    seed: int,
    notes: list[str],
) -> tuple[dict[str, _Source], Anchor]:
    """Open the files of `convert`, and make the anchor without parameters and empty text.

    Raises:
        AnchorError: a config is not supported, or configs do not fit each other.
    """
    problems: list[str] = []
    sources, schedule, tokenizer = _open_base(base, body is None, problems, notes)
    sources["image_encoder"] = _open_image_encoder(image_encoder, problems)
    vae = sources["vae"].config
    assert isinstance(vae, VAEConfig)
    latents = vae.latent_channels
    for part, folder, channels in (("body", body, latents), ("face", face, 2 * latents + 1)):
        if folder is not None:
            sources |= _open_part(part, folder, channels, latents, problems)
    extras = read_extras(body, face, problems)
    networks = {name: Network[Any](source.config) for name, source in sources.items()}
    if body is None:
        control = fresh_control_config(networks["body/unet"].config)
        networks["body/control"] = Network(control)
        notes.append(f"{FRESH_NOTE}: a copy of the UNet's encoder, pose embedding seed {seed}")
    trained = {**extras.trained, "body": body is not None and extras.trained["body"]}
    # The text encoder is not checked yet, so the embedding of the empty text is computed later.
    fields = {"schedule": schedule, "empty_text": np.zeros(0), "tokenizer": tokenizer}
    fields |= {"settings": extras.settings, "provenance": dict(extras.provenance)}
    anchor = assemble(networks, trained, **fields)
    problems += [] if problems else configs.cross_check(anchor)
    if problems:
        raise AnchorError(f"not a supported checkpoint: {shorten(problems, 8, '; ')}")
    return sources, anchor


def _continued(before: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of an exported anchor with that of this conversion, `made`. Of entries
    that both have, the first conversion's are kept as "first_conversion"."""
    first = {key: value for key, value in before.items() if key in made}
    return ({"first_conversion": first} if first else {}) | {**before, **made}


def _describe_files(files: Mapping[Path, str], advance: Advance) -> list[dict[str, Any]]:
    """Describe the weight files of networks, with their hashes, for the provenance."""
    return [
        {
            "network": name,
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": sha256(path, advance),
        }
        for path, name in files.items()
    ]


def _open_base(
    base: Path, fresh: bool, problems: list[str], notes: list[str]
) -> tuple[dict[str, _Source], ScheduleConfig, dict[str, bytes]]:
    """Open the base: VAE and text encoder, for a fresh anchor also the UNet.

    Returns:
        The sources, the noise schedule, and the files of the tokenizer.
    """
    if not base.exists():
        raise AnchorError(f"{base}: no such file or folder")
    if base.is_file():
        notes.append("single-file base: 8 attention heads, 32 norm groups, published schedule")
        return _open_single_file(base, fresh), ScheduleConfig(), {}
    if (base / "text_encoder_2").exists() or (base / "transformer").exists():
        raise AnchorError(f"{base}: a newer family of models, expected Stable Diffusion 1.5")
    if not (base / "vae").is_dir() or not (base / "text_encoder").is_dir():
        raise AnchorError(
            f"{base}: expected vae/ and text_encoder/ inside (a Stable Diffusion 1.5 base in"
            " diffusers layout)"
        )
    vae_config = configs.read_vae(base / "vae" / "config.json", problems)
    vae = _Source(vae_config, open_weights(find_weights(base / "vae", _DIFFUSERS, _DIFFUSERS)))
    if any(key.endswith(".query.weight") for key in vae.weights.tensors):
        vae.key_of = names.old_vae_key
    text = _Source(
        configs.read_text_encoder(base / "text_encoder" / "config.json", problems),
        open_weights(find_weights(base / "text_encoder", *_TEXT_ENCODER)),
    )
    sources = {"vae": vae, "text_encoder": text}
    if fresh:
        sources["body/unet"] = _Source(
            configs.read_unet(base / "unet" / "config.json", vae_config.latent_channels, problems),
            open_weights(find_weights(base / "unet", _DIFFUSERS, _DIFFUSERS)),
        )
    schedule = ScheduleConfig()
    if (base / "scheduler").exists():
        path = base / "scheduler" / "scheduler_config.json"
        schedule = configs.read_schedule(path, problems)
    else:
        notes.append(f"no scheduler/ in {base.name}: published schedule")
    tokenizer = {
        name: (base / "tokenizer" / name).read_bytes()
        for name in TOKENIZER_FILES
        if (base / "tokenizer" / name).is_file()
    }
    return sources, schedule, tokenizer


def _open_single_file(base: Path, fresh: bool) -> dict[str, _Source]:
    """Open a base that is one file in the layout of the original Stable Diffusion."""
    weights = open_weights(base)
    ldm.refuse_other_families(weights)
    vae = ldm.infer_vae(weights)
    ignored = dict(names.LDM_IGNORED)
    if not fresh:
        ignored["the base's UNet, which the body replaces"] = re.escape(names.LDM_UNET) + ".*"
    text = ldm.infer_text_encoder(weights)
    sources = {
        "vae": _Source(vae, weights, lambda key: names.ldm_vae_key(key, vae), ignored),
        "text_encoder": _Source(text, weights, lambda key: names.LDM_TEXT + key),
    }
    if fresh:
        unet = ldm.infer_unet(weights)
        key_of = lambda key: names.ldm_unet_key(key, unet)
        sources["body/unet"] = _Source(unet, weights, key_of)
    return sources


def _open_image_encoder(folder: Path, problems: list[str]) -> _Source:
    """Open the CLIP vision encoder."""
    weights = open_weights(find_weights(folder, *_TEXT_ENCODER))
    config = configs.read_image_encoder(folder / "config.json", problems)
    if (folder / "preprocessor_config.json").exists():
        configs.check_preprocessor(folder / "preprocessor_config.json", config.image_size, problems)
    return _Source(config, weights, ignored=names.CLIP_IGNORED)


def _open_part(
    part: str, folder: Path, channels: int, latents: int, problems: list[str]
) -> dict[str, _Source]:
    """Open UNet, with `channels` of input, and control branch of the body or the face."""
    if not (folder / "unet").is_dir() or not (folder / "controlnet").is_dir():
        raise AnchorError(f"{folder}: expected unet/ and controlnet/ inside (--{part})")
    unet, control = folder / "unet", folder / "controlnet"
    return {
        f"{part}/unet": _Source(
            configs.read_unet(unet / "config.json", channels, problems),
            open_weights(find_weights(unet, _DIFFUSERS, _DIFFUSERS)),
        ),
        f"{part}/control": _Source(
            configs.read_control(control / "config.json", latents, problems),
            open_weights(find_weights(control, _DIFFUSERS, _DIFFUSERS)),
        ),
    }


def _match(
    sources: dict[str, _Source], dtype: str, notes: list[str]
) -> tuple[dict[str, Params], dict[str, str]]:
    """Find the tensors of all networks. Each tensor of a file must be used, or left out by name.

    Returns:
        The parameters of each network, and the types of position ids, which export writes again.

    Raises:
        AnchorError: tensors are missing, unused or have wrong shapes.
    """
    params, buffers, problems = {}, {}, []
    leftover = {s.weights.path: dict(s.weights.tensors) for s in sources.values()}
    ignored: dict[Path, dict[str, str]] = {path: {} for path in leftover}
    for name, source in sources.items():
        path = source.weights.path
        matched = names.match(source.config, source.weights, dtype, source.key_of)
        params[name] = matched.tree
        problems += [f"{name} ({path}): {problem}" for problem in matched.problems]
        for key in matched.used:
            del leftover[path][key]
        ids = source.key_of(names.POSITION_IDS.get(name, ""))
        if ids in leftover[path]:
            del leftover[path][ids]
            buffer = source.weights.tensors[ids]
            if names.is_counting(buffer, source.config):
                buffers[name] = buffer.dtype
            else:
                notes.append(f"{path.name}: left out position ids that are not 0, 1, 2, ...")
        ignored[path] |= source.ignored
    for path, keys in leftover.items():
        rest, counts = names.leave_out(keys, ignored[path])
        if rest:
            problems.append(f"{path}: {len(rest)} unused ({shorten(rest)})")
        notes += [f"{path.name}: left out {count} of {label}" for label, count in counts.items()]
    if problems:
        raise AnchorError(f"weights do not fit their configs: {'; '.join(problems)}")
    return params, buffers


def _reporting(leaf: Any, advance: Advance) -> Lazy:
    """Make a parameter that advances the progress when it is read."""

    def read() -> np.ndarray:
        advance(leaf.nbytes)
        return leaf.read() if isinstance(leaf, Lazy) else leaf

    return Lazy(leaf.shape, leaf.dtype, read)
