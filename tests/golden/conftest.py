"""The tiny published weights as an anchor, by the way a user would take."""

import pytest

from anchor_jax.checkpoint import Anchor, load
from anchor_jax.convert import convert


@pytest.fixture(scope="session")
def anchor(tiny_dir, tmp_path_factory) -> Anchor:
    """Converted from half-precision files, in float32, with every network."""
    out = tmp_path_factory.mktemp("golden") / "anchor"
    convert(
        base=tiny_dir / "sd",
        image_encoder=tiny_dir / "clip-vision",
        body=tiny_dir / "body",
        out=out,
        progress=False,
    )
    names = ["body/unet", "body/control", "vae", "image_encoder", "text_encoder"]
    return load(out, networks=names)
