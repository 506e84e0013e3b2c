"""How a video is sampled: the one value that travels from the command to the solver."""

import math
from dataclasses import dataclass, replace
from typing import Any

from anchor_jax.errors import AnchorError, shorten

DTYPES = ("float32", "bfloat16")
LARGEST_SCALE = 100.0  # of guidance and control: far beyond it latents are no longer finite
LARGEST_SEED = (1 << 32) - 1


@dataclass(frozen=True)
class Sampling:
    """Settings of the denoising of a video; the defaults are the published system's.

    Attributes:
        steps: denoising steps (DDIM).
        guidance: scale g of classifier-free guidance, 0 to 100; at 1 the unconditional half is not
            computed.
        control_scale: W_c of equation (2) of the paper, 0 to 100.
        window: frames denoised together.
        overlap: frames that neighbouring windows share, less than `window`.
        crossfade: weigh the predictions for shared frames so that each window passes gradually into
            the next; published: equal weights.
        seed: of the initial noise, 0 to 2^32 - 1.
        dtype: of the networks' computation, "float32" or "bfloat16".

    Raises:
        AnchorError: naming every setting that cannot work.
    """

    steps: int = 20
    guidance: float = 7.5
    control_scale: float = 2.0
    window: int = 16
    overlap: int = 4
    crossfade: bool = False
    seed: int = 42
    dtype: str = "float32"

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}: expected 0 to {LARGEST_SCALE:g}"
            for name in ("guidance", "control_scale")
            if not is_scale(value := getattr(self, name))
        ]
        if self.steps < 1:
            problems.append(f"steps is {self.steps}: expected at least 1")
        if self.window < 1:
            problems.append(f"window is {self.window}: expected at least 1 frame")
        elif not 0 <= self.overlap < self.window:
            problems.append(
                f"overlap is {self.overlap}: expected 0 to {self.window - 1}, less than the window"
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            problems.append(f"seed is {self.seed}: expected 0 to {LARGEST_SEED}")
        if self.dtype not in DTYPES:
            problems.append(f"dtype is {self.dtype!r}: expected {' or '.join(DTYPES)}")
        if problems:
            raise AnchorError(shorten(problems, 8, "; "))

    def updated(self, **given: Any) -> "Sampling":
        """These settings with those that are given; None means not given."""
        return replace(self, **{name: x for name, x in given.items() if x is not None})


def is_scale(value: float) -> bool:
    """Whether guidance or control can work at this scale."""
    return math.isfinite(value) and 0 <= value <= LARGEST_SCALE
