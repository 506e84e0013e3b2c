"""Our own format: an ANCHOR is a folder of everything that generation and training need.

anchor.json        format version, configs, schedule, stored types, provenance
empty_text.npy     float32 (tokens, width): the embedding of the empty text
tokenizer/         the text tokenizer's files, where the base had them
params/<network>/  one Orbax tree per network, in the type that its source had
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.checkpoint.config_json import brief, impossible, parse_config, plain
from anchor_jax.checkpoint.parameters import (
    abstract_params,
    read_params,
    stored_params,
    write_params,
)
from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.files import new_folder
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.shapes import Params

FORMAT_VERSION = 1
NETWORKS: dict[str, type[NetworkConfig]] = {
    "body/unet": UNetConfig,
    "body/control": ControlConfig,
    "face/unet": UNetConfig,
    "face/control": ControlConfig,
    "vae": VAEConfig,
    "image_encoder": CLIPVisionConfig,
    "text_encoder": CLIPTextConfig,
}
OPTIONAL = {"face/unet", "face/control"}  # both or neither
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Anchor:
    """One person's model: what `generate` needs, and what a checkpoint holds.

    Attributes:
        networks: config of each network, by the names in `NETWORKS`.
        schedule: the noise schedule that the weights were trained with.
        empty_text: float32 (tokens, width), the text encoder's last hidden state for the empty
            text, of as many tokens as one image has: guidance's unconditional half.
        params: parameter tree of each network that was loaded, by the same names.
        provenance: where it came from, free-form JSON.
        tokenizer: file name to content, for export alone; empty where the base had none.
    """

    networks: dict[str, NetworkConfig]
    schedule: ScheduleConfig
    empty_text: np.ndarray
    params: dict[str, Params]
    provenance: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, bytes] = field(default_factory=dict)


def save(path: str | Path, anchor: Anchor) -> None:
    """Write `anchor`, with the parameters of every network in it, as the new folder `path`.

    Leaves of `anchor.params` are arrays or `Lazy`; they keep their types. The folder appears when
    it is complete.

    Raises:
        AnchorError: `path` exists, the disk is full, or parameters are missing or not finite.
    """
    path = Path(path)
    missing = sorted(set(anchor.networks) - set(anchor.params))
    if missing:
        raise AnchorError(f"{path}: no parameters to save for {', '.join(missing)}")
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(anchor.params))
    with new_folder(path, needed) as partial:
        not_finite: list[str] = []
        for name in anchor.networks:
            bad = write_params(partial / "params" / name, anchor.params[name])
            not_finite += [f"{name}/{leaf}" for leaf in bad]
        if not_finite:
            raise AnchorError(f"{path}: NaN or infinite weights in {shorten(not_finite)}")
        for name, content in anchor.tokenizer.items():
            if name not in TOKENIZER_FILES:
                raise AnchorError(f"{path}: {name!r} is no file of a tokenizer")
            (partial / "tokenizer").mkdir(exist_ok=True)
            (partial / "tokenizer" / name).write_bytes(content)
        np.save(partial / "empty_text.npy", np.asarray(anchor.empty_text, np.float32))
        content = {
            "format": "anchor-jax",
            "version": FORMAT_VERSION,
            "networks": {name: asdict(config) for name, config in anchor.networks.items()},
            "schedule": asdict(anchor.schedule),
            "stored": {
                name: {
                    "types": _stored_types(anchor.params[name]),
                    "files": _file_sizes(partial / "params" / name),
                }
                for name in anchor.networks
            },
            "provenance": anchor.provenance,
        }
        (partial / "anchor.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def load(
    path: str | Path,
    networks: Collection[str] | None = None,
    dtype: Any = jnp.float32,
) -> Anchor:
    """Read an ANCHOR.

    Args:
        path: its folder.
        networks: whose parameters to load; default: all but the text encoder's.
        dtype: of the parameters in memory; None keeps the types they are stored in.

    Raises:
        AnchorError: it is not an ANCHOR, of a newer format, incomplete or damaged.
    """
    path = Path(path)
    anchor, stored = read_header(path)
    if networks is None:
        networks = [name for name in anchor.networks if name != "text_encoder"]
    unknown = sorted(set(networks) - set(anchor.networks))
    if unknown:
        known = ", ".join(anchor.networks)
        raise AnchorError(f"{path}: no network {', '.join(unknown)}; it has {known}")
    for name in networks:
        folder = params_folder(path, name, stored)
        wanted = stored_params(folder, anchor.networks[name])
        anchor.params[name] = read_params(folder, wanted, dtype)
    return anchor


def read_header(path: Path) -> tuple[Anchor, dict[str, dict[str, dict[str, int]]]]:
    """Everything but the parameters, and what is stored of each network's: under "types" the
    number of tensors of each type, under "files" the size of each file.

    Nothing in the files is trusted: types and names are checked, and no path comes from them.
    """
    if not path.exists():
        raise AnchorError(f"{path}: no such folder")
    if not (path / "anchor.json").is_file():
        raise AnchorError(
            f"{path}: not an ANCHOR (no anchor.json); make one with anchor-jax convert"
        )
    try:
        content = json.loads((path / "anchor.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnchorError(f"{path}/anchor.json: cannot be read: {first_line(error)}") from None
    problems: list[str] = []
    if not isinstance(content, dict) or content.get("format") != "anchor-jax":
        raise AnchorError(f'{path}/anchor.json: not of an ANCHOR ("format" is not "anchor-jax")')
    version = content.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise AnchorError(
            f"{path}: format version {version!r}, but this anchor-jax reads {FORMAT_VERSION}:"
            " install a newer one"
        )
    sections = {}
    for key in ("networks", "schedule", "stored", "provenance"):
        sections[key] = content.get(key)
        if not isinstance(sections[key], dict):
            problems.append(f"{key} is not an object")
            sections[key] = {}
    named = set(sections["networks"])
    problems += [f"unknown network {name!r}" for name in sorted(named - set(NETWORKS))]
    wanted = set(NETWORKS) - (set() if named & OPTIONAL else OPTIONAL)
    problems += [f"network {name!r} is missing" for name in sorted(wanted - named)]
    configs = {
        name: parse_config(NETWORKS[name], sections["networks"][name], name, problems)
        for name in NETWORKS
        if name in named
    }
    schedule = parse_config(ScheduleConfig, sections["schedule"], "schedule", problems)
    problems += [] if problems else impossible(configs)
    for name in configs:
        entry = sections["stored"].get(name)
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), dict) for key in ("types", "files")
        ):
            problems.append(f'stored.{name} has no "types" and "files"')
    if problems:
        raise AnchorError(f"{path}/anchor.json: {'; '.join(problems)}")
    empty_text = _read_empty_text(path, configs["image_encoder"], configs["text_encoder"])
    tokenizer = {
        name: (path / "tokenizer" / name).read_bytes()
        for name in TOKENIZER_FILES
        if (path / "tokenizer" / name).is_file()
    }
    anchor = Anchor(configs, schedule, empty_text, {}, sections["provenance"], tokenizer)
    return anchor, sections["stored"]


def params_folder(path: Path, name: str, stored: dict[str, dict[str, dict[str, int]]]) -> Path:
    """Where the parameters of network `name` are, all files there and of the size they had.

    Raises:
        AnchorError: some are not. (Orbax would say so too, in a thousand lines.)
    """
    folder = path / "params" / name
    found = _file_sizes(folder)
    damaged = [file for file, size in stored[name]["files"].items() if found.get(file) != size]
    if damaged or not found:
        raise AnchorError(
            f"{folder}: {len(damaged)} files are missing or of another size than was written"
            f" ({plain(shorten(damaged))}); copy or convert the ANCHOR again"
        )
    return folder


def describe(path: str | Path) -> str:
    """What is in an ANCHOR, as aligned text: configs, sizes, types, provenance.

    Raises:
        AnchorError: as `load`; but the parameters' data are not read.
    """
    path = Path(path)
    anchor, stored = read_header(path)
    rows = [("network", "parameters", "on disk", "stored as")]
    total = [0, 0]
    for name, config in anchor.networks.items():
        count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract_params(config)))
        size = sum(_file_sizes(path / "params" / name).values())
        total = [total[0] + count, total[1] + size]
        types = ", ".join(sorted(plain(key) for key in stored[name]["types"]))
        rows.append((name, f"{count:,}", _megabytes(size), types))
    rows.insert(1 + len(anchor.networks), ("total", f"{total[0]:,}", _megabytes(total[1]), ""))
    lines = [f"{path}: ANCHOR, format version {FORMAT_VERSION}", "", *_table(rows), ""]
    for name, config in (*anchor.networks.items(), ("schedule", anchor.schedule)):
        values = " ".join(f"{key}={brief(value)}" for key, value in asdict(config).items())
        lines.append(f"{name:<15}{values}")
    lines.append(f"{'empty text':<15}{' x '.join(map(str, anchor.empty_text.shape))}, float32")
    lines += [f"{'tokenizer':<15}{', '.join(anchor.tokenizer) or 'none'}", ""]
    for key, value in anchor.provenance.items():
        if isinstance(value, list) and value:
            lines += [f"{plain(key)}:", *(f"  {_entries(item)}" for item in value)]
        elif value:
            lines.append(f"{plain(key)}: {_entries(value)}")
    return "\n".join(lines).rstrip()


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


def _file_sizes(folder: Path) -> dict[str, int]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _entries(value: Any) -> str:
    if not isinstance(value, dict):
        return plain(value)
    return ", ".join(f"{plain(key)} {plain(item)}" for key, item in value.items())


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {1, 2}  # numbers
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
