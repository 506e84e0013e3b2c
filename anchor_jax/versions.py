"""Versions of what a result was made with."""

from collections.abc import Iterable
from importlib.metadata import version

COMPUTING = ("anchor-jax", "jax", "jaxlib", "flax", "numpy")


def versions(packages: Iterable[str] = COMPUTING) -> dict[str, str]:
    """Of the installed packages of these names."""
    return {name: version(name) for name in packages}
