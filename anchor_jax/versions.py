"""Look up package versions, which results record."""

from collections.abc import Iterable
from importlib.metadata import version

_COMPUTING = ("anchor-jax", "jax", "jaxlib", "flax", "numpy")


def versions(packages: Iterable[str] = _COMPUTING) -> dict[str, str]:
    """Return the version of each installed package."""
    return {name: version(name) for name in packages}
