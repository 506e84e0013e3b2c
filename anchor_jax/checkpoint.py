"""Our own format: an ANCHOR is a folder of everything that generation and training need.

anchor.json        format version, configs, schedule, stored types, provenance
empty_text.npy     float32 (tokens, width): the embedding of the empty text
tokenizer/         the text tokenizer's files, where the base had them
params/<network>/  one Orbax tree per network, in the type that its source had
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchor_jax.diffusion.schedule import ScheduleConfig
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.models import (
    CLIPTextConfig,
    CLIPVisionConfig,
    ControlConfig,
    NetworkConfig,
    UNetConfig,
    VAEConfig,
)
from anchor_jax.parameters import abstract_params, read_params, stored_params, write_params
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
            "stored": {name: _stored_types(anchor.params[name]) for name in anchor.networks},
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
    anchor, _ = read_header(path)
    if networks is None:
        networks = [name for name in anchor.networks if name != "text_encoder"]
    unknown = sorted(set(networks) - set(anchor.networks))
    if unknown:
        known = ", ".join(anchor.networks)
        raise AnchorError(f"{path}: no network {', '.join(unknown)}; it has {known}")
    for name in networks:
        folder = path / "params" / name
        stored = stored_params(folder, anchor.networks[name])
        anchor.params[name] = read_params(folder, stored, dtype)
    return anchor


def read_header(path: Path) -> tuple[Anchor, dict[str, dict[str, int]]]:
    """Everything but the parameters, and for each network the number of tensors of each type.

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
        name: _config(NETWORKS[name], sections["networks"][name], name, problems)
        for name in NETWORKS
        if name in named
    }
    schedule = _config(ScheduleConfig, sections["schedule"], "schedule", problems)
    problems += [] if problems else impossible(configs)
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


def describe(path: str | Path) -> str:
    """What is in an ANCHOR, as aligned text: configs, sizes, types, provenance.

    Raises:
        AnchorError: as `load`; but the parameters' data are not read.
    """
    path = Path(path)
    anchor, stored = read_header(path)
    rows = [("network", "parameters", "on disk", "stored as")]
    configs = []
    total = [0, 0]
    for name, config in anchor.networks.items():
        count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract_params(config)))
        size = _disk_size(path / "params" / name)
        total = [total[0] + count, total[1] + size]
        types = ", ".join(sorted(_plain(key) for key in stored.get(name, {})))
        values = " ".join(f"{key}={_short(value)}" for key, value in asdict(config).items())
        rows.append((name, f"{count:,}", _megabytes(size), types))
        configs.append((name, values))
    rows.insert(1 + len(anchor.networks), ("total", f"{total[0]:,}", _megabytes(total[1]), ""))
    lines = [f"{path}: ANCHOR, format version {FORMAT_VERSION}", "", *_table(rows), ""]
    lines += [*_table(configs), ""]
    schedule = " ".join(f"{key}={value}" for key, value in asdict(anchor.schedule).items())
    lines += [f"schedule    {schedule}"]
    lines += [f"empty text  {' x '.join(map(str, anchor.empty_text.shape))}, float32"]
    lines += [f"tokenizer   {', '.join(anchor.tokenizer) or 'none'}", ""]
    for key, value in anchor.provenance.items():
        if isinstance(value, list):
            lines.append(f"{_plain(key)}:")
            lines += [f"  {_plain(item)}" for item in value]
        else:
            lines.append(f"{_plain(key)}: {_plain(value)}")
    return "\n".join(lines).rstrip()


def check_new(path: Path) -> None:
    """Raise AnchorError unless a folder `path` can be made: it must not exist, its parent must."""
    if os.path.lexists(path):
        raise AnchorError(f"{path}: exists already; remove it or choose another place")
    if not path.absolute().parent.is_dir():
        raise AnchorError(f"{path}: there is no folder {path.absolute().parent} to put it in")


def impossible(networks: Mapping[str, NetworkConfig]) -> list[str]:
    """What is wrong with configs that no network can have: counts of zero, widths that do not
    split into heads or groups."""
    problems = []
    for name, config in networks.items():
        zero = [key for key, value in asdict(config).items() if _has_zero(value)]
        problems += [f"{name}.{key} is zero or has a zero" for key in zero]
        widths = getattr(config, "channels", (getattr(config, "width", 0),))
        for key in {"num_heads", "norm_groups"} - set(zero):
            divisor = getattr(config, key, 1)
            if any(width % divisor for width in widths):
                problems.append(f"{name}: {key}={divisor} does not divide {_short(widths)}")
    return problems


@contextmanager
def new_folder(path: Path, needed: int) -> Iterator[Path]:
    """A hidden folder beside `path` to write about `needed` bytes into. It becomes `path` if the
    block ends well, and is removed if it does not.

    Raises:
        AnchorError: as `check_new`; it cannot be written; or the disk is full.
    """
    check_new(path)
    free = shutil.disk_usage(path.absolute().parent).free
    if free < needed:  # asked before: Orbax's threads are noisy when a disk fills up
        raise AnchorError(
            f"{path}: no space left on the disk: {_megabytes(needed)} needed,"
            f" {_megabytes(free)} free; nothing was written"
        )
    partial = path.absolute().parent / f".{path.name}.partial-{secrets.token_hex(4)}"
    try:
        partial.mkdir()
        yield partial
        os.rename(partial, path)
    except BaseException as error:
        for _ in range(20):  # Orbax's threads may still be writing
            shutil.rmtree(partial, ignore_errors=True)
            if not partial.exists():
                break
            time.sleep(0.1)
        if "No space left on device" in str(error):
            raise AnchorError(f"{path}: no space left on the disk; nothing was written") from None
        if isinstance(error, OSError):
            raise AnchorError(f"{path}: cannot be written: {first_line(error)}") from None
        raise


def _stored_types(params: Params) -> dict[str, int]:
    names = [np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(params)]
    return {name: names.count(name) for name in sorted(set(names))}


def _config(cls: type, values: Any, where: str, problems: list[str]) -> Any:
    """Build a config dataclass from JSON, holding every value against the type of its default."""
    if not isinstance(values, dict):
        problems.append(f"{where} is not an object")
        return cls()
    known = {item.name: item.default for item in fields(cls)}
    problems += [
        f"{where} has an unknown entry {key!r}" for key in sorted(set(values) - set(known))
    ]
    arguments = {}
    for key, default in known.items():
        value = values.get(key)
        if isinstance(default, tuple) and isinstance(value, list) and 1 <= len(value) <= 8:
            value = tuple(value)
        # Tracing a network takes time for every layer: a damaged file must not ask for a million.
        few = not key.startswith(("num_layers", "layers_")) or value in range(257)
        if few and _alike(value, default):
            arguments[key] = value
        else:
            problems.append(f"{where}.{key} is {_short(value)}, expected something like {default}")
    try:
        return cls(**arguments)
    except (ValueError, AnchorError) as error:
        problems.append(f"{where}: {first_line(error)}")
        return cls()


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_alike(item, default[0]) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and 0 <= value < 1 << 20
    if isinstance(default, float):
        return isinstance(value, int | float) and abs(value) < 1e6
    return isinstance(value, type(default))


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


def _has_zero(value: Any) -> bool:
    return (
        value == 0
        if isinstance(value, int | float)
        else any(type(x) is int and not x for x in value)
    )


def _disk_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _short(value: Any) -> str:
    text = "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return _plain(text)[:60]


def _plain(value: Any) -> str:
    """Text from a file without anything that a terminal would obey."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isprintable() else "?" for c in text)


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
