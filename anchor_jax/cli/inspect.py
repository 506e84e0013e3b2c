"""Implement `anchor-jax inspect`."""

from dataclasses import dataclass

from tyro.conf import Positional

from anchor_jax.cli.options import AnchorFolder


@dataclass(frozen=True)
class Inspect:
    """Show the networks, the recommended settings and the origin of an anchor.

        anchor-jax inspect anchors/seth

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
    """

    anchor: Positional[AnchorFolder]

    def run(self) -> None:
        """Print the description."""
        from anchor_jax import checkpoint

        print(checkpoint.describe(self.anchor))
