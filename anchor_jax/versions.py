"""Look up package versions, which results record."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_COMPUTING = ("anchor-jax", "jax", "jaxlib", "flax", "numpy")


def versions(packages: Iterable[str] = _COMPUTING) -> dict[str, str]:
    """Return the version of each package. A package that is not installed, as anchor-jax itself in
    a checkout, has none and is left out."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
