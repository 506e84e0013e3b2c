"""Examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"anchor_jax": "anchor_jax", "train": "anchor_jax.train", "convert": "anchor_jax.convert"}


def modules() -> list[str]:
    """Names of all modules whose source has an example."""
    return sorted(
        ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
        if ">>>" in path.read_text("utf-8")
    )


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str):
    """Catches an example that is out of date."""
    result = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert result.attempted and not result.failed
