"""`jax.jit` with the options that suit the device."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax


def jit(function: Callable, *, fusions: bool = False, **kwargs) -> Callable:
    """`jax.jit(function, **kwargs)`, its options chosen at the first call.

    On a CPU the fusions of XLA's YNNPACK are left out unless `fusions` asks for them: its
    convolutions take up to 1.4 times as long as Eigen's, because it splits output channels into
    blocks of 64, so that 320 channels keep two threads busy for five sixths of the time. But it
    fuses what attention does, which makes narrow networks almost twice as fast.
    """

    @cache
    def compiled() -> Any:
        eigen = jax.default_backend() == "cpu" and not fusions
        options = {"xla_cpu_experimental_ynn_fusion_type": ""} if eigen else None
        return jax.jit(function, compiler_options=options, **kwargs)

    @wraps(function)
    def call(*args, **kwargs):
        return compiled()(*args, **kwargs)

    call.cache_size = lambda: compiled()._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    return call
