"""`jax.jit` with the options that suit the device."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps
from typing import Any

import jax

# With YNNPACK a block of attention (two products and the exponential between them) is one pass over
# tiles that stay in the cache, and its sums and maxima take half the time. Convolutions stay with
# Eigen: YNNPACK splits output channels into blocks of 64, so that 64 channels keep one thread busy
# and 320 keep two busy for five sixths of the time. So do linear layers (`models.products`).
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # What LLVM compiles are element-wise loops, no faster unrolled: a ninth of the compiling.
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_prefer_vector_width": 512,  # where the CPU has such vectors; XLA's default is 256
}


def options() -> dict[str, str | int | bool] | None:
    """`compiler_options` of `jax.jit`. Asks for the devices, so not for use while importing."""
    return CPU_OPTIONS if jax.default_backend() == "cpu" else None


def jit(function: Callable, **kwargs) -> Callable:
    """`jax.jit(function, **kwargs)`, its options chosen at the first call."""

    @cache
    def compiled() -> Any:
        return jax.jit(function, compiler_options=options(), **kwargs)

    @wraps(function)
    def call(*args, **kwargs):
        return compiled()(*args, **kwargs)

    call.cache_size = lambda: compiled()._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    return call


def compile_ahead(jitted: Any, *args) -> Callable:
    """What `jax.jit` made, compiled for such arguments, without the memory that compiling took."""
    compiled = jitted.lower(*args).compile()
    return_freed_memory()
    return compiled


def return_freed_memory() -> None:
    """Hand back to the system what the compiler has freed: some hundred megabytes, which glibc
    would keep beside the buffers of the computation."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
