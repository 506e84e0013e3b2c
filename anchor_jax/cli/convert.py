"""Implement `anchor-jax convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from anchor_jax.cli.options import AnchorFolder, Folder, check_seed, without_logs
from anchor_jax.errors import note


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert published PyTorch weights to an anchor.

    A person of the published system:

        anchor-jax convert --body mya/body --face mya/head --base sd15 \\
            --image-encoder clip-vit-base-patch32 --out anchors/seth

    Without --body, a fresh anchor to train: the base's UNet, and a control
    branch copied from its encoder.

        anchor-jax convert --base v1-5-pruned-emaonly.safetensors \\
            --image-encoder clip-vit-base-patch32 --out anchors/fresh

    Reading .bin and .ckpt files needs torch: pip install 'anchor-jax[torch]'.

    Attributes:
        base: Stable Diffusion 1.5: a diffusers folder, or one .safetensors or .ckpt file.
        image_encoder: folder of the CLIP vision encoder (openai/clip-vit-base-patch32).
        out: the anchor, a new folder.
        body: folder with `unet` and `controlnet` of a trained body.
        face: folder with `unet` and `controlnet` of a trained head.
        dtype: type of the stored weights; `keep` keeps the types of the source.
        seed: seed of the random weights of a fresh anchor.
    """

    base: Annotated[Path, arg(metavar="DIR|FILE")]
    image_encoder: Folder
    out: AnchorFolder
    body: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: fresh)")] = None
    face: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"
    seed: int = 0

    def run(self) -> None:
        """Convert, and print notes on what was left out."""
        check_seed(self.seed)
        from anchor_jax.convert import convert

        with without_logs():
            notes = convert(
                base=self.base,
                image_encoder=self.image_encoder,
                out=self.out,
                body=self.body,
                face=self.face,
                dtype=self.dtype,
                seed=self.seed,
            )
        for line in notes:
            note(line)
        print(f"{self.out}: complete; `anchor-jax inspect` shows what it holds")
