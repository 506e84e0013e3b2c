"""How faces are repainted."""

from dataclasses import dataclass, replace
from typing import Any

from anchor_jax.errors import require, scale_condition

BLENDS = ("square", "face")
FITS = ("squash", "crop")


@dataclass(frozen=True)
class FaceSampling:
    """Settings of the face stage (paper, section 3.3); the defaults are the published system's.

    Steps, window, crossfade, seed and type of the computation are the body's.

    Attributes:
        guidance: scale of classifier-free guidance, 0 to 100.
        control_scale: W_c of equation (2), 0 to 100.
        size: side of the repainted crop, pixels; a multiple of the autoencoder's factor.
        windows: attend over the frames of overlapping windows, as the body does, against flicker;
            published: each frame alone.
        blend: what is pasted back: "square" the whole crop (published), or "face" the repainted
            region alone.
        fit: how the face's appearance picture is made square before the image encoder: "squash"
            resizes both sides to `size` (published; it changes the proportions of a picture that is
            not square), "crop" keeps the proportions and cuts out the middle.

    Raises:
        AnchorError: naming every setting that cannot work.
    """

    guidance: float = 3.5
    control_scale: float = 1.0
    size: int = 256
    windows: bool = False
    blend: str = "square"
    fit: str = "squash"

    def __post_init__(self) -> None:
        choices = {"blend": (self.blend, BLENDS), "fit": (self.fit, FITS)}
        require(
            scale_condition("the face's guidance", self.guidance),
            scale_condition("the face's control_scale", self.control_scale),
            (
                1 <= self.size <= 8192,
                f"the face's size is {self.size}: expected 1 to 8192 pixels",
            ),
            *(
                (
                    value in allowed,
                    f"the face's {name} is {value!r}: expected {' or '.join(allowed)}",
                )
                for name, (value, allowed) in choices.items()
            ),
        )

    def updated(self, **given: Any) -> "FaceSampling":
        """These settings with those that are given; None means not given."""
        return replace(self, **{name: x for name, x in given.items() if x is not None})
