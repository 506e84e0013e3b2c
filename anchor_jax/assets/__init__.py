"""The embedded default: a small trained anchor of a person who does not exist, and a test clip.

manifest.json   what there is: size and SHA-256 of every file, settings, provenance
LICENSE.md      terms and origin
anchor/         the finished ANCHOR, with a face part
pretrained/     the ANCHOR before finetuning, without a face part
test/           poses.mp4 and truth.mp4 (lossless), poses-conditions/, appearance.png, motion.npz
train/          target.mp4 and poses.mp4, frames of training; optional

`python -m benchmarks.synthetic.assets` writes such a folder.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchor_jax.errors import AnchorError, first_line, shorten

SHIPPED = Path(__file__).parent
MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Assets:
    """A folder of assets whose files are what was shipped."""

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
        """Frames of training, where they are shipped."""
        return self.folder / "train" if (self.folder / "train").is_dir() else None


def open_assets(folder: Path | None = None) -> Assets:
    """The assets in `folder`, by default those that are shipped, every file checked.

    Raises:
        AnchorError: there are none, or some are missing or not what was shipped.
    """
    folder = SHIPPED if folder is None else folder
    remedy = "install anchor-jax again" if folder == SHIPPED else "make them again"
    path = folder / MANIFEST
    if not path.is_file():
        raise AnchorError(
            f"{folder} holds no assets (no {MANIFEST}); expected what python -m"
            f" benchmarks.synthetic.assets writes: {remedy}"
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
        files = {
            str(name): (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()
        }
        provenance = dict(content["provenance"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorError(f"{path}: cannot be read: {first_line(error)}; {remedy}") from None
    found = describe_files(folder, files)
    missing = [name for name in files if name not in found]
    changed = [name for name in found if found[name] != files[name]]
    problems = [f"{shorten(missing)} missing"] if missing else []
    problems += [f"{shorten(changed)} not what was shipped"] if changed else []
    if problems:
        raise AnchorError(f"the assets in {folder} are damaged: {'; '.join(problems)}; {remedy}")
    return Assets(folder, provenance)


def describe_files(folder: Path, names) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of those of the files that are there."""
    found = {}
    for name in names:
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            found[name] = len(content), hashlib.sha256(content).hexdigest()
    return found


def write_manifest(folder: Path, provenance: dict[str, Any]) -> None:
    """Write the manifest of everything that is in `folder`."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = {
        name: {"bytes": size, "sha256": digest}
        for name, (size, digest) in describe_files(folder, names).items()
    }
    content = {"format": FORMAT, "provenance": provenance, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
