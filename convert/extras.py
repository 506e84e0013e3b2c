"""Keeps what the published layout has no place for, in files of ours beside the published ones.

body/anchor-jax.json   the recommended settings, whether the body is trained, the provenance
head/anchor-jax.json   the recommended settings of the face, whether the face is trained
sd/empty_text.npy      the embedding of the empty text, as the ANCHOR stores it

`export` writes them and `convert` reads them where they exist. Diffusers and transformers ignore
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax.checkpoint import Anchor, Settings
from anchor_jax.checkpoint.settings import settings_from_json, settings_to_json
from anchor_jax.errors import AnchorError, first_line

from .sources import read_json

FILE = "anchor-jax.json"
EMPTY_TEXT = "empty_text.npy"
# Types of fewer bits change the empty text that is computed from the text encoder by up to a
# percent; that of another text encoder differs by far more.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Extras:
    """What the files of exported parts hold.

    Attributes:
        settings: the recommended settings; by default the published ones.
        trained: for "body" and "face", whether the part is trained; True where no file says.
        provenance: the provenance of the exported anchor.
    """

    settings: Settings = field(default_factory=Settings)
    trained: Mapping[str, bool] = field(default_factory=lambda: {"body": True, "face": True})
    provenance: Mapping[str, Any] = field(default_factory=dict)


def extra_files(anchor: Anchor) -> dict[str, dict[str, Any]]:
    """Make the contents of the JSON files of an export, by their relative paths."""
    sections = settings_to_json(anchor)
    trained = sections.pop("trained")
    body = {**sections, "trained": {"body": trained["body"]}, "provenance": anchor.provenance}
    files = {f"body/{FILE}": body}
    if "face" in trained:
        face = {"face_sampling": sections["face_sampling"], "trained": {"face": trained["face"]}}
        files[f"head/{FILE}"] = face
    return files


def read_extras(body: Path | None, face: Path | None, problems: list[str]) -> Extras:
    """Read the JSON files of an exported body and face.

    Args:
        body: folder of the body, or None.
        face: folder of the face, or None. What it says of the face holds before the body's file.
        problems: receives one line for each mistake in a file.

    Raises:
        AnchorError: a file is no JSON object.
    """
    extras = Extras()
    for part, folder in (("body", body), ("face", face)):
        if folder is None or not (folder / FILE).exists():
            continue
        values, found = read_json(folder / FILE), []
        if not isinstance(values.get("provenance", {}), dict):
            found.append("provenance is not an object")
        settings, trained = settings_from_json(values, found)
        problems += [f"{folder / FILE}: {problem}" for problem in found]
        if found:
            continue
        if part == "face":
            settings = replace(extras.settings, face=settings.face)
        extras = replace(
            extras,
            settings=settings,
            trained={**extras.trained, part: trained[part]},
            provenance={**extras.provenance, **values.get("provenance", {})},
        )
    return extras


def stored_empty_text(base: Path, computed: np.ndarray, notes: list[str]) -> np.ndarray:
    """Read the empty text of an exported base. Without one, or if it belongs to another text
    encoder or length, return what was computed.

    Args:
        base: folder or file of the base.
        computed: float32 (tokens, width), computed from the text encoder.
        notes: receives a line if the file is not used.

    Returns:
        float32 (tokens, width).

    Raises:
        AnchorError: the file cannot be read.
    """
    path = base / EMPTY_TEXT
    if not path.is_file():
        return computed
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}; remove it") from None
    if stored.shape == computed.shape and stored.dtype == np.float32:
        difference = np.linalg.norm(stored - computed)
        if difference <= _TOLERANCE * np.linalg.norm(computed):
            return stored
    notes.append(f"{EMPTY_TEXT} belongs to other CLIP encoders: computed the empty text anew")
    return computed
