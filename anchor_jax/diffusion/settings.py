"""The settings of sampling, passed as one value from the command to the solver."""

from dataclasses import dataclass, replace
from typing import Any

from anchor_jax.compiling import resolve_dtype
from anchor_jax.devices import count_devices
from anchor_jax.diffusion.shortcuts import REUSES, Reuse
from anchor_jax.diffusion.solvers import SOLVERS, SPACINGS, Solver, Spacing
from anchor_jax.errors import LARGEST_SEED, require, scale_condition

_DTYPES = ("auto", "float32", "bfloat16")

# Settings that belong to the machine, not to the person: an ANCHOR does not store them.
MACHINE_SETTINGS = ("dtype", "tf32", "devices")


@dataclass(frozen=True)
class Sampling:
    """Settings for denoising a video. The defaults are the published system's settings.

    Attributes:
        steps: denoising steps, at least 1.
        solver: "ddim" (published), "dpm++" or "unipc", see `solvers`.
        spacing: of the timesteps, "leading" (published) or "trailing", see `solver_steps`.
        guidance: scale g of classifier-free guidance, 0 to 100; at 1 the unconditional prediction
            is not computed.
        guidance_interval: of t / T, 0 to 1, where guidance is applied: outside it only the
            conditional prediction is computed, see `shortcuts`.
        control_scale: W_c of equation (2) of the paper, 0 to 100.
        window: frames that are denoised together, at least 1.
        overlap: frames that neighbouring windows share, less than `window`.
        crossfade: where windows overlap, weight their predictions so that one window fades into
            the next; published: equal weights.
        reuse: features that windows take from earlier steps, see `shortcuts`.
        reuse_every: they are computed at each so many-th step, from the first on; at least 2.
        seed: seed of the initial noise, 0 to 2^32 - 1.
        dtype: type that the networks compute in, "float32", "bfloat16" or "auto": bfloat16 on GPUs,
            float32 elsewhere.
        tf32: compute in float32, and let GPUs round the factors of products to TF32.
        devices: number of devices that share the windows; None: all that JAX sees, in all
            processes.

    Raises:
        AnchorError: settings are out of range; the message names all of them.
    """

    steps: int = 20
    solver: Solver = "ddim"
    spacing: Spacing = "leading"
    guidance: float = 7.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    control_scale: float = 2.0
    window: int = 16
    overlap: int = 4
    crossfade: bool = False
    reuse: Reuse = "none"
    reuse_every: int = 2
    seed: int = 42
    dtype: str = "auto"
    tf32: bool = False
    devices: int | None = None

    def __post_init__(self) -> None:
        require(
            scale_condition("guidance", self.guidance),
            scale_condition("control_scale", self.control_scale),
            (self.steps >= 1, f"steps is {self.steps}: expected at least 1"),
            (
                0 <= self.guidance_interval[0] <= self.guidance_interval[-1] <= 1
                and len(self.guidance_interval) == 2,
                f"guidance_interval is {self.guidance_interval}: expected two numbers from 0 to 1,"
                " the lower one first",
            ),
            (self.reuse in REUSES, f"reuse is {self.reuse!r}: expected {', '.join(REUSES)}"),
            (self.reuse_every >= 2, f"reuse_every is {self.reuse_every}: expected at least 2"),
            (self.window >= 1, f"window is {self.window}: expected at least 1 frame"),
            (
                self.window < 1 or 0 <= self.overlap < self.window,
                f"overlap is {self.overlap}: expected 0 to {self.window - 1}, less than the window",
            ),
            (
                0 <= self.seed <= LARGEST_SEED,
                f"seed is {self.seed}: expected 0 to {LARGEST_SEED}",
            ),
            (
                self.devices is None or self.devices >= 1,
                f"devices is {self.devices}: expected at least 1",
            ),
            (
                self.solver in SOLVERS,
                f"solver is {self.solver!r}: expected {', '.join(SOLVERS)}",
            ),
            (
                self.spacing in SPACINGS,
                f"spacing is {self.spacing!r}: expected {' or '.join(SPACINGS)}",
            ),
            (self.dtype in _DTYPES, f"dtype is {self.dtype!r}: expected {' or '.join(_DTYPES)}"),
            (
                not (self.tf32 and self.dtype == "bfloat16"),
                "tf32 goes with dtype float32, but dtype is 'bfloat16': leave one of them out",
            ),
        )

    @property
    def stride(self) -> int:
        """Frames from the start of a window to the start of the next."""
        return self.window - self.overlap

    def updated(self, **given: Any) -> "Sampling":
        """Return a copy with the `given` settings; None keeps the present value. `fast=True` keeps
        the values of the preset `fast` instead."""
        start = self.fast() if given.pop("fast", False) else self
        return replace(start, **{name: x for name, x in given.items() if x is not None})

    def fast(self) -> "Sampling":
        """Return a copy that generates in a fraction of the time: UniPC with a quarter of the
        steps, at least two, from the last timestep of training on. `docs/shortcuts.md` has its
        cost."""
        steps = max(2, round(self.steps / 4))
        return replace(self, steps=min(self.steps, steps), solver="unipc", spacing="trailing")

    def resolved(self, device: Any = None) -> "Sampling":
        """Return a copy with the type that a device computes in, in place of "auto", and the number
        of devices.

        Args:
            device: one device, which may be absent; by default all that JAX sees.

        Raises:
            AnchorError: there are fewer devices.
        """
        dtype = "float32" if self.tf32 else resolve_dtype(self.dtype, device)
        devices = count_devices(self.devices) if device is None else self.devices or 1
        return replace(self, dtype=dtype, devices=devices)
