"""Record what sampling makes of the latents."""

import numpy as np

from anchor_jax.diffusion.tasks import Task
from anchor_jax.shapes import Array


class LatentsOfSteps:
    """The latents after every step, whatever the order of the tasks. Pass `add` as `on_group`.

    Args:
        noise: the initial latents (n, h, w, c).
    """

    def __init__(self, noise: np.ndarray):
        self.latents: list[np.ndarray] = []
        self._noise = np.asarray(noise)

    def add(self, tasks: list[Task], blocks: Array) -> None:
        for (window, step), block in zip(tasks, np.asarray(blocks), strict=True):
            while len(self.latents) <= step:
                self.latents.append(np.full_like(self._noise, np.nan))
            start = window * len(block)
            here = self.latents[step][start : start + len(block)]
            here[:] = block[: len(here)]
