"""Shortcuts: what a step computes, and what it takes from earlier ones. All are off by default.

- Guidance on an interval (https://arxiv.org/abs/2404.07724, equation 5): guidance hardly matters
  at high and at low noise. Outside the interval only the conditional prediction is computed.
- Reuse of features: they change little from step to step. Each window keeps some of them at every
  n-th step, and takes them at the steps between:
    - "deep": everything but the first convolution and the last layer of the UNet, whose input is
      kept (DeepCache, https://arxiv.org/abs/2312.00858, equation 7).
    - "encoder": the encoder's skips and the mid block's output; the decoder is computed, with the
      time of the step (Faster Diffusion, https://arxiv.org/abs/2312.09608, section 3.2). The noisy
      latents then only matter for the solver.
    - "attention": results of the UNet's self-attention, over all frames for the body (Pyramid
      Attention Broadcast, https://arxiv.org/abs/2408.12588, section 3.2).
    - "control": the residuals of the control branch.
    - "control+attention": both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchor_jax.diffusion.guidance import num_halves
from anchor_jax.diffusion.schedule import Step
from anchor_jax.shapes import Array

if TYPE_CHECKING:
    from anchor_jax.diffusion.settings import Sampling

Reuse = Literal["none", "deep", "encoder", "attention", "control", "control+attention"]
REUSES: tuple[Reuse, ...] = (
    "none",
    "deep",
    "encoder",
    "attention",
    "control",
    "control+attention",
)


class Mode(NamedTuple):
    """What is computed for a window at a step.

    Attributes:
        halves: 2 for both predictions of guidance, 1 for the conditional one.
        reuse: see the module.
        fresh: the features are computed and kept; else taken.
    """

    halves: int
    reuse: Reuse = "none"
    fresh: bool = True


def step_modes(steps: Sequence[Step], num_train_timesteps: int, sampling: "Sampling") -> list[Mode]:
    """List what each step computes.

    Features are fresh at each n-th step, and where guidance begins, since the step before has none
    of the unconditional half.

    Args:
        steps: the solver's steps.
        num_train_timesteps: T, timesteps of training.
        sampling: guidance, its interval of t / T, and what is reused.
    """
    low, high = sampling.guidance_interval
    modes: list[Mode] = []
    for i, step in enumerate(steps):
        inside = low <= step.timestep / num_train_timesteps <= high
        halves = num_halves(sampling.guidance) if inside else 1
        fresh = i % sampling.reuse_every == 0 or halves > modes[-1].halves
        modes.append(Mode(halves, sampling.reuse, fresh or sampling.reuse == "none"))
    return modes


@dataclass(frozen=True)
class Switch:
    """Predicts a window with the shortcuts of its step, in the place of `denoise`. Its condition is
    that of `denoise` together with what the window has kept and the index of its mode.

    Attributes:
        denoise: see `sample`, with a method `shortcut`.
        modes: the different modes, those with both halves of guidance first. The compiled program
            has a branch for each.
        mode_of: index of each step's mode.
    """

    denoise: Any
    modes: tuple[Mode, ...]
    mode_of: tuple[int, ...]

    @classmethod
    def of(cls, denoise: Any, modes: Sequence[Mode]) -> "Switch | None":
        """Make a switch for the modes of all steps; None if there is no shortcut."""
        different = tuple(sorted(set(modes), reverse=True))
        if len(different) == 1 and different[0].reuse == "none":
            return None
        return cls(denoise, different, tuple(map(different.index, modes)))

    def condition(self, condition: Any, kept: Any, at: np.ndarray) -> Any:
        """Return the conditions of windows (g, ...) at their steps `at` (g,)."""
        return condition, kept, np.array(self.mode_of, np.int32)[at]

    def kept_shapes(self, params: Any, *inputs: Any) -> Any:
        """Return the shapes of what a window keeps, a tree of `jax.ShapeDtypeStruct`; `inputs` are
        those of `predict_windows`."""
        fresh = self.modes[0]._replace(fresh=True)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
        keep = lambda params, *window: self.denoise.shortcut(fresh, {}, params, *window)[1]
        return jax.eval_shape(keep, params, *first)

    def __call__(
        self, params: Any, latents: Array, condition: Any, timestep: Array, num_real: Array
    ) -> tuple[Array, Any]:
        """Predict a window: float32 (b, f, h, w, c), and what it keeps."""
        condition, kept, which = condition
        branches = [partial(self._run, mode) for mode in self.modes]
        window = latents, condition, timestep, num_real
        return lax.switch(which, branches, params, kept, window)

    def _run(self, mode: Mode, params: Any, before: Any, window: Any) -> tuple[Array, Any]:
        taken = {} if mode.fresh else jax.tree.map(lambda x: x[-mode.halves :], before)
        prediction, after = self.denoise.shortcut(mode, taken, params, *window)
        fill = lambda x, shape: jnp.broadcast_to(x, shape)
        # Of one half, the other is a copy, so that guidance does not change it.
        prediction = fill(prediction, (self.modes[0].halves, *prediction.shape[1:]))
        if not mode.fresh:
            return prediction, before
        return prediction, jax.tree.map(lambda x, like: fill(x, like.shape), after, before)
