"""The embedded default: a small trained anchor of a person who does not exist, and a test clip.

manifest.json   size and SHA-256 of every file, provenance
LICENSE.md      licence and origin
anchor/         the finetuned ANCHOR, with a face part; its name is `shipped`
pretrained/     the ANCHOR before finetuning, without a face part
test/           poses.mp4 and truth.mp4 (lossless), poses-conditions/, appearance.png, motion.npz
train/          training frames, target.mp4 and poses.mp4; optional

`python -m benchmarks.synthetic.assets` writes this folder.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchor_jax.errors import AnchorError, first_line, shorten

SHIPPED = Path(__file__).parent
SHIPPED_NAME = "shipped"  # what commands and `anchor_jax.load` take in place of a folder
MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class Assets:
    """A folder of assets whose files were checked against the manifest."""

    folder: Path
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> Path:
        return self.folder / "anchor"

    @property
    def pretrained(self) -> Path:
        return self.folder / "pretrained"

    @property
    def test(self) -> Path:
        return self.folder / "test"

    @property
    def train(self) -> Path | None:
        """The folder of training frames, or None if they are not shipped."""
        return self.folder / "train" if (self.folder / "train").is_dir() else None


def open_assets(folder: Path | None = None) -> Assets:
    """Open the assets in `folder`, by default the shipped ones, and check every file.

    Raises:
        AnchorError: there is no readable manifest, or a file is missing or differs from it.
    """
    folder = SHIPPED if folder is None else folder
    remedy = "install anchor-jax again" if folder == SHIPPED else "make the assets again"
    path = folder / MANIFEST
    if not path.is_file():
        raise AnchorError(
            f"{folder} holds no assets (no {MANIFEST}); expected a folder of python -m"
            f" benchmarks.synthetic.assets: {remedy}"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {_FORMAT}")
        files = {
            str(name): (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()
        }
        provenance = dict(content["provenance"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}; {remedy}") from None
    found = _describe_files(folder, files)
    missing = [name for name in files if name not in found]
    changed = [name for name in found if found[name] != files[name]]
    problems = [f"{shorten(missing)} missing"] if missing else []
    problems += [f"{shorten(changed)} not what was shipped"] if changed else []
    if problems:
        raise AnchorError(f"the assets in {folder} are damaged: {'; '.join(problems)}; {remedy}")
    return Assets(folder, provenance)


def find_anchor(path: str | Path) -> Path:
    """Find the folder of an ANCHOR by what a user wrote: a path, or the name `shipped`.

    A folder of the user that is called `shipped` and is an ANCHOR comes first.

    Raises:
        AnchorError: as `open_assets`, for the name.
    """
    path = Path(path)
    if path == Path(SHIPPED_NAME) and not (path / "anchor.json").is_file():
        return open_assets().anchor
    return path


def is_shipped(path: str | Path) -> bool:
    """Return whether what a user wrote is the ANCHOR, or one of the ANCHORs, of the package."""
    return find_anchor(path).resolve().is_relative_to(SHIPPED.resolve())


def _describe_files(folder: Path, names) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of the files `names` in `folder`; missing ones are left out."""
    found = {}
    for name in names:
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            found[name] = len(content), hashlib.sha256(content).hexdigest()
    return found


def write_manifest(folder: Path, provenance: dict[str, Any]) -> None:
    """Write the manifest of all files in `folder`."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = {
        name: {"bytes": size, "sha256": digest}
        for name, (size, digest) in _describe_files(folder, names).items()
    }
    content = {"format": _FORMAT, "provenance": provenance, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
