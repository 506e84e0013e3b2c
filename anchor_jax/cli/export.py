"""Implement `anchor-jax export`."""

from dataclasses import dataclass

from tyro.conf import Positional

from anchor_jax.cli.options import AnchorFolder, Folder, without_logs


@dataclass(frozen=True)
class Export:
    """Convert an anchor back to the published folder layout.

        anchor-jax export anchors/seth --out seth-pytorch

    Files beside the published ones keep what that layout has no place for, such as the recommended
    settings: `anchor-jax convert` makes an equal anchor of the result.

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`, or `shipped`.
        out: the new folder, with `body`, `head`, `sd` and `clip-vision`.
    """

    anchor: Positional[AnchorFolder]
    out: Folder

    def run(self) -> None:
        """Export."""
        from anchor_jax.convert import export

        with without_logs():
            export(self.anchor, self.out)
        print(f"{self.out}: complete")
