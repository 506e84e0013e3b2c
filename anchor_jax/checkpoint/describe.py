"""Describe an ANCHOR as text for `anchor-jax inspect`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchor_jax.assets import find_anchor
from anchor_jax.checkpoint.anchor import Anchor
from anchor_jax.checkpoint.config_json import brief, printable
from anchor_jax.checkpoint.folder import file_sizes, megabytes, parse_header, read_json
from anchor_jax.checkpoint.parameters import abstract_params
from anchor_jax.checkpoint.settings import settings_to_json


def describe(path: str | Path) -> str:
    """Describe an ANCHOR as aligned text: settings, sizes, types, configs and provenance.

    Args:
        path: the folder, or `shipped`. Its parameters are not read.

    Raises:
        AnchorError: as `load`.
    """
    path = find_anchor(path)
    content = read_json(path)
    anchor, stored = parse_header(path, content)
    networks = anchor.networks()
    rows = [("network", "parameters", "on disk", "stored as")]
    total = [0, 0]
    for name, network in networks.items():
        shapes = jax.tree.leaves(abstract_params(network.config))
        count = sum(int(np.prod(leaf.shape)) for leaf in shapes)
        size = sum(file_sizes(path / "params" / name).values())
        total = [total[0] + count, total[1] + size]
        types = ", ".join(sorted(printable(key) for key in stored[name]["types"]))
        rows.append((name, f"{count:,}", megabytes(size), types))
    rows.append(("total", f"{total[0]:,}", megabytes(total[1]), ""))
    lines = [f"{path}: ANCHOR, format version {content['version']}", *_settings(anchor), ""]
    lines += [*_table(rows), ""]
    configs = {name: network.config for name, network in networks.items()}
    for name, config in (*configs.items(), ("schedule", anchor.schedule)):
        lines.append(f"{name:<15}{_values(asdict(config))}")
    lines.append(f"{'empty text':<15}{' x '.join(map(str, anchor.empty_text.shape))}, float32")
    lines += [f"{'tokenizer':<15}{', '.join(anchor.tokenizer) or 'none'}", ""]
    for key, value in anchor.provenance.items():
        if isinstance(value, list) and value:
            lines += [f"{printable(key)}:", *(f"  {_items(item)}" for item in value)]
        elif value:
            lines.append(f"{printable(key)}: {_items(value)}")
    return "\n".join(lines).rstrip()


def _settings(anchor: Anchor) -> list[str]:
    """List the recommended settings, what is known of the person, and the untrained parts."""
    stored = settings_to_json(anchor)
    lines = [f"{'sampling':<15}{_values(stored['sampling'])}"]
    if anchor.face is not None:
        lines.append(f"{'face sampling':<15}{_values(stored['face_sampling'])}")
    if framing := anchor.framing:
        middle = {"size": framing.size} | asdict(framing.middle)
        lines.append(f"{'framing':<15}{_values(middle)}")
        if framing.shape:
            lines.append(f"{'body shape':<15}{_values(dict(framing.shape))}")
    if anchor.appearance is not None:
        height, width = anchor.appearance.shape[:2]
        lines.append(f"{'appearance':<15}{width}x{height}")
    parts = {"body": anchor.body, "face": anchor.face}
    untrained = [name for name, part in parts.items() if part is not None and not part.trained]
    if untrained:
        lines.append(f"{'never trained':<15}{', '.join(untrained)}: not used by generate")
    return lines


def _values(config: dict[str, Any]) -> str:
    return " ".join(f"{key}={brief(value)}" for key, value in config.items())


def _items(value: Any) -> str:
    if not isinstance(value, dict):
        return printable(value)
    return ", ".join(f"{printable(key)} {printable(item)}" for key, item in value.items())


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
