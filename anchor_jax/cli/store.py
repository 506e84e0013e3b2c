"""Implement `anchor-jax store`."""

from dataclasses import asdict, dataclass, field

from tyro.conf import OmitArgPrefixes, Positional

from anchor_jax.cli.options import AnchorFolder, AnchorsInt, FaceOptions, StoredOptions
from anchor_jax.errors import AnchorError


@dataclass(frozen=True, kw_only=True)
class Store:
    """Store settings in an anchor, for all later videos.

        anchor-jax store anchors/seth --guidance 2.5 --control-scale 1 --steps 10

    `anchor-jax generate` then gives without these options what it gives with them. To find settings
    see `anchor-jax bench settings --help`; `anchor-jax inspect` shows what is stored.

    Attributes:
        anchor: an ANCHOR, from `convert` or `train`.
        window: frames that are denoised together; more need more memory.
        overlap: frames that neighbouring windows share.
        seed: seed of the noise.
    """

    anchor: Positional[AnchorFolder]
    sampling: OmitArgPrefixes[StoredOptions] = field(default_factory=StoredOptions)
    window: AnchorsInt = None
    overlap: AnchorsInt = None
    seed: AnchorsInt = None
    faces: OmitArgPrefixes[FaceOptions] = field(default_factory=FaceOptions)

    def run(self) -> None:
        """Check and store the settings, and print what changed."""
        if self == Store(anchor=self.anchor):
            raise AnchorError("no setting is given: give at least one, such as --guidance 2.5")
        from anchor_jax import checkpoint
        from anchor_jax.checkpoint import Settings
        from anchor_jax.generation.settings import check_settings

        anchor = checkpoint.load(self.anchor, networks=())
        old = anchor.settings
        sampling = self.sampling.over(
            old.sampling, window=self.window, overlap=self.overlap, seed=self.seed
        )
        new = Settings(sampling, self.faces.over(old.face))
        check_settings(anchor, new)
        checkpoint.store_settings(self.anchor, new)
        pairs = ("", old.sampling, new.sampling), ("face ", old.face, new.face)
        for prefix, before, after in pairs:
            values = asdict(after)
            for name, value in asdict(before).items():
                if values[name] != value:
                    print(f"{prefix}{name}: {value} -> {values[name]}")
        print(f"{self.anchor}: stored")
