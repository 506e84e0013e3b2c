"""The tiny published weights as an anchor, by the way a user would take."""

from pathlib import Path

import pytest

from anchor_jax.checkpoint import Anchor, load
from anchor_jax.convert import convert


@pytest.fixture(scope="session")
def anchor_folder(tiny_dir, tmp_path_factory) -> Path:
    """Converted from half-precision files, with a face part."""
    out = tmp_path_factory.mktemp("golden") / "anchor"
    convert(
        base=tiny_dir / "sd",
        image_encoder=tiny_dir / "clip-vision",
        body=tiny_dir / "body",
        face=tiny_dir / "head",
        out=out,
        progress=False,
    )
    return out


@pytest.fixture(scope="session")
def anchor(anchor_folder) -> Anchor:
    """In float32, with all networks of the body."""
    names = ["body/unet", "body/control", "vae", "image_encoder", "text_encoder"]
    return load(anchor_folder, networks=names)


@pytest.fixture(scope="session")
def face_anchor(anchor_folder) -> Anchor:
    """In float32, with the networks of the face."""
    return load(anchor_folder, networks=["face/unet", "face/control", "vae"])
