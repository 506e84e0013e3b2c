"""The format of an ANCHOR, a folder with everything that generation and training need.

anchor.json        format version, configs, schedule, recommended settings, trained parts, stored
                   types, provenance, and the framing of the training if it is known
empty_text.npy     float32 (tokens, width): the embedding of the empty text
appearance.png     a picture of the person, if there is one
tokenizer/         the files of the text tokenizer, if the base had them
params/<network>/  one Orbax tree for each network, in the types of its source
"""

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from anchor_jax.assets import find_anchor, is_shipped
from anchor_jax.checkpoint.anchor import (
    FACE_NETWORKS,
    NETWORKS,
    Anchor,
    Network,
    Settings,
    assemble,
    with_networks,
)
from anchor_jax.checkpoint.config_json import invalid_configs, parse_config, printable
from anchor_jax.checkpoint.parameters import read_params, stored_params, with_types, write_params
from anchor_jax.checkpoint.settings import (
    framing_from_json,
    framing_to_json,
    settings_from_json,
    settings_of_version_1,
    settings_to_json,
)
from anchor_jax.compiling import resolve_dtype
from anchor_jax.data.pictures import read_image
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import new_folder, write_text
from anchor_jax.models import CLIPTextConfig, CLIPVisionConfig
from anchor_jax.shapes import Params

FORMAT_VERSION = 2  # version 1 stored no settings
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

_APPEARANCE = "appearance.png"
_ENCODERS = ("image_encoder", "text_encoder")  # they compute in float32

# For each network: "types" maps each type to its number of tensors, "files" each file to its size.
Stored = dict[str, dict[str, dict[str, int]]]


def save(path: str | Path, anchor: Anchor) -> None:
    """Write an anchor with all its parameters as a new folder, which appears when complete.

    Args:
        path: the new folder.
        anchor: its parameters are arrays or `Lazy`; they are stored in their own types.

    Raises:
        AnchorError: `path` exists, the disk is full, or parameters are missing or not finite.
    """
    path = Path(path)
    networks = anchor.networks()
    if missing := [name for name, network in networks.items() if not network.params]:
        raise AnchorError(f"{path}: no parameters to save for {', '.join(missing)}")
    params = {name: network.params for name, network in networks.items()}
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    with new_folder(path, needed) as partial:
        not_finite: list[str] = []
        for name in networks:
            bad = write_params(partial / "params" / name, params[name])
            not_finite += [f"{name}/{leaf}" for leaf in bad]
        if not_finite:
            raise AnchorError(f"{path}: NaN or infinite weights in {shorten(not_finite)}")
        for name, content in anchor.tokenizer.items():
            if name not in TOKENIZER_FILES:
                raise AnchorError(f"{path}: {name!r} is not a tokenizer file")
            (partial / "tokenizer").mkdir(exist_ok=True)
            (partial / "tokenizer" / name).write_bytes(content)
        if anchor.appearance is not None:
            Image.fromarray(anchor.appearance).save(partial / _APPEARANCE)
        np.save(partial / "empty_text.npy", np.asarray(anchor.empty_text, np.float32))
        stored = {
            name: {
                "types": _stored_types(params[name]),
                "files": file_sizes(partial / "params" / name),
            }
            for name in networks
        }
        _write_header(partial, anchor, stored)


def store_settings(path: str | Path, settings: Settings) -> None:
    """Store `settings` as the recommended settings of the ANCHOR at `path`. What else its
    `anchor.json` says stays; if it cannot be written, all of it stays.

    Raises:
        AnchorError: as `read_header`, the folder cannot be written, or it belongs to the package.
    """
    shipped, path = is_shipped(path), find_anchor(path)
    if shipped:
        raise AnchorError(
            f"the anchor that comes with anchor-jax keeps its settings: copy {path} and store them"
            " in the copy"
        )
    content = read_json(path)
    anchor, _ = parse_header(path, content)
    content |= {
        "version": FORMAT_VERSION,
        **settings_to_json(replace(anchor, settings=settings)),
    }
    _write_json(path, content)


def _write_header(path: Path, anchor: Anchor, stored: Stored) -> None:
    """Write `anchor.json` of a new ANCHOR."""
    content = {
        "format": "anchor-jax",
        "version": FORMAT_VERSION,
        **settings_to_json(anchor),
        **framing_to_json(anchor.framing),
        "networks": {name: asdict(item.config) for name, item in anchor.networks().items()},
        "schedule": asdict(anchor.schedule),
        "stored": stored,
        "provenance": anchor.provenance,
    }
    _write_json(path, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `anchor.json`; if that fails, an older file stays."""
    write_text(path / "anchor.json", json.dumps(content, indent=1) + "\n")


def load(
    path: str | Path,
    networks: Collection[str] | None = None,
    dtype: Any = jnp.float32,
    kernels: str | None = None,
) -> Anchor:
    """Read an ANCHOR.

    Args:
        path: the folder, or `shipped`: the anchor that comes with the package.
        networks: names of the networks whose parameters are loaded; None: all but the text
            encoder. The others have empty parameters.
        dtype: type of the parameters in memory; None keeps the stored types.
        kernels: type that generation computes in, "float32", "bfloat16" or "auto" as `Sampling`
            has it. Matrices and convolution kernels of body, face and autoencoder then have this
            type, which spares a copy of them; a later float32 computation does not get back what
            bfloat16 has rounded. None: `dtype` holds for them too.

    Returns:
        The anchor, with its parameters on the first device.

    Raises:
        AnchorError: the folder is not an ANCHOR, has a newer format, or is incomplete or damaged;
            `networks` names one that it does not have.
    """
    path = find_anchor(path)
    anchor, stored = read_header(path)
    present = anchor.networks()
    if networks is None:
        networks = [name for name in present if name != "text_encoder"]
    if unknown := sorted(set(networks) - set(present)):
        raise AnchorError(f"{path}: no network {', '.join(unknown)}; it has {', '.join(present)}")
    kernels = None if kernels is None else resolve_dtype(kernels)
    for name in networks:
        folder = params_folder(path, name, stored)
        wanted = stored_params(folder, present[name].config)
        typed = with_types(
            wanted, dtype, dtype if kernels is None or name in _ENCODERS else kernels
        )
        present[name] = replace(present[name], params=read_params(folder, typed))
    return with_networks(anchor, present)


def read_header(path: Path) -> tuple[Anchor, Stored]:
    """Read everything except the parameters. Also return the parameters' types and file sizes.

    The files are not trusted: types and names are checked, and no path is taken from them.

    Raises:
        AnchorError: as `load`; all mistakes in `anchor.json` are listed together.
    """
    return parse_header(path, read_json(path))


def parse_header(path: Path, content: dict[str, Any]) -> tuple[Anchor, Stored]:
    """Parse what `read_json` returned for the ANCHOR at `path`; see `read_header`."""
    problems: list[str] = []
    sections = {}
    for key in ("networks", "schedule", "stored", "provenance"):
        sections[key] = content.get(key)
        if not isinstance(sections[key], dict):
            problems.append(f"{key} is not an object")
            sections[key] = {}
    configs = _read_configs(sections["networks"], problems)
    schedule = parse_config(ScheduleConfig, sections["schedule"], "schedule", problems)
    if content["version"] == 1:
        settings, trained = settings_of_version_1(sections["provenance"])
    else:
        settings, trained = settings_from_json(content, problems)
    framing = framing_from_json(content, problems)
    problems += [] if problems else invalid_configs(configs)
    for name in configs:
        entry = sections["stored"].get(name)
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), dict) for key in ("types", "files")
        ):
            problems.append(f'stored.{name} has no "types" and "files"')
    if problems:
        raise AnchorError(f"{path}/anchor.json: {'; '.join(problems)}")
    anchor = assemble(
        {name: Network(config) for name, config in configs.items()},
        trained,
        schedule=schedule,
        empty_text=_read_empty_text(path, configs["image_encoder"], configs["text_encoder"]),
        settings=settings,
        framing=framing,
        appearance=read_image(path / _APPEARANCE) if (path / _APPEARANCE).is_file() else None,
        provenance=sections["provenance"],
        tokenizer={
            name: (path / "tokenizer" / name).read_bytes()
            for name in TOKENIZER_FILES
            if (path / "tokenizer" / name).is_file()
        },
    )
    return anchor, sections["stored"]


def read_json(path: Path) -> dict[str, Any]:
    """Read `anchor.json`, whose format must be of a supported version.

    Raises:
        AnchorError: it is missing, damaged, of another format or of a newer version.
    """
    if not path.exists():
        raise AnchorError(
            f"{path}: no such folder; expected an ANCHOR, or `shipped`, the name of the one that"
            " comes with anchor-jax"
        )
    if not (path / "anchor.json").is_file():
        raise AnchorError(f"{path}: not an ANCHOR (no anchor.json); {_remedy(path)}")
    try:
        content = json.loads((path / "anchor.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}/anchor.json: cannot be read: {first_line(error)}") from None
    if not isinstance(content, dict) or content.get("format") != "anchor-jax":
        raise AnchorError(f'{path}/anchor.json: not of an ANCHOR ("format" is not "anchor-jax")')
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise AnchorError(
            f"{path}: format version {version!r}, but this anchor-jax reads {FORMAT_VERSION}:"
            " install a newer one"
        )
    return content


def _remedy(path: Path) -> str:
    """Say what to do with a folder that is no ANCHOR: it may be the run that made one."""
    if (path / "anchor" / "anchor.json").is_file():
        return f"it is the run of a training: give {path / 'anchor'}"
    with suppress(OSError, ValueError, TypeError):
        if {"settings", "command"} <= set(json.loads((path / "config.json").read_text("utf-8"))):
            return "it is the run of a training that is not complete: repeat its command to go on"
    return "make one with anchor-jax convert, or take `shipped`"


def _read_configs(section: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Read the config of each network."""
    names = set(section)
    problems += [f"unknown network {name!r}" for name in sorted(names - set(NETWORKS))]
    wanted = set(NETWORKS) - (set() if names & FACE_NETWORKS else FACE_NETWORKS)
    problems += [f"network {name!r} is missing" for name in sorted(wanted - names)]
    return {
        name: parse_config(cls, section[name], name, problems)
        for name, cls in NETWORKS.items()
        if name in names
    }


def params_folder(path: Path, name: str, stored: Stored) -> Path:
    """Return the parameter folder of network `name`, after checking the size of every file.

    Raises:
        AnchorError: a file is missing or has another size. Orbax would find this too, but its
            message has a thousand lines.
    """
    folder = path / "params" / name
    sizes = file_sizes(folder)
    damaged = [file for file, size in stored[name]["files"].items() if sizes.get(file) != size]
    if damaged or not sizes:
        raise AnchorError(
            f"{folder}: {len(damaged)} files are missing or of another size than was written"
            f" ({printable(shorten(damaged))}); copy or convert the ANCHOR again"
        )
    return folder


def check_stored(path: Path, networks: Collection[str]) -> None:
    """Check the stored parameters of `networks` before long work, without reading the data.

    Raises:
        AnchorError: names, shapes or file sizes differ from what was written.
    """
    path = find_anchor(path)
    anchor, stored = read_header(path)
    present = anchor.networks()
    for name in networks:
        stored_params(params_folder(path, name, stored), present[name].config)


def _stored_types(params: Params) -> dict[str, int]:
    names = [np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(params)]
    return {name: names.count(name) for name in sorted(set(names))}


def _read_empty_text(path: Path, image: CLIPVisionConfig, text: CLIPTextConfig) -> np.ndarray:
    shape = (image.num_tokens, text.width)
    try:
        array = np.load(path / "empty_text.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AnchorError(f"{path}/empty_text.npy: cannot be read: {first_line(error)}") from None
    if array.shape != shape or array.dtype != np.float32:
        raise AnchorError(
            f"{path}/empty_text.npy: {array.dtype} {array.shape}, expected float32 {shape}"
        )
    return array


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every file below a folder, by its relative path."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def megabytes(size: int) -> str:
    """Format a number of bytes.

    >>> megabytes(1_234_500_000)
    '1,234.5 MB'
    """
    return f"{size / 1e6:,.1f} MB"
