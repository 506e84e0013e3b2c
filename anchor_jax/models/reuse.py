"""Features that a network keeps at one denoising step and takes at the next instead of computing
them: `diffusion.shortcuts` says which, and has the papers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

COLLECTION = "reused"  # Flax's collection of the features


@dataclass(frozen=True)
class Reuse:
    """What is reused.

    Attributes:
        kind: "none", "deep", "encoder", "attention", "control" or "control+attention".
        fresh: the features are computed and kept; else taken.
    """

    kind: str = "none"
    fresh: bool = True

    def has(self, kind: str) -> bool:
        """Return whether the features of a kind are kept or taken."""
        return kind in self.kind.split("+")

    def takes(self, kind: str) -> bool:
        """Return whether the features of a kind are taken."""
        return self.has(kind) and not self.fresh

    def keeps(self, kind: str) -> bool:
        """Return whether the features of a kind are computed and kept."""
        return self.has(kind) and self.fresh

    def of(self, module: nn.Module, kind: str, compute: Callable[[], Any]) -> Any:
        """Return a module's features of a kind, taken or computed."""
        if self.takes(kind):
            return module.get_variable(COLLECTION, kind)
        value = compute()
        if self.keeps(kind):
            module.put_variable(COLLECTION, kind, value)
        return value


NO_REUSE = Reuse()
