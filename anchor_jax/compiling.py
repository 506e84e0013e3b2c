"""`jax.jit` with the options of the platform; the type and the precision of a computation.

XLA compiles in a thread, see `threads`.
"""

import ctypes
import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, wraps
from typing import Any

import jax
from jax.core import Tracer

from anchor_jax.errors import AnchorError
from anchor_jax.threads import Work

# With YNNPACK a block of attention (two products and the exponential between them) is one pass over
# tiles that stay in the cache, and its sums and maxima take half the time. Convolutions stay with
# Eigen: YNNPACK splits output channels into blocks of 64, so that 64 channels keep one thread busy
# and 320 keep two busy for five sixths of the time. Linear layers stay with Eigen too
# (`models.products`).
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    # LLVM compiles element-wise loops, which unrolling does not speed up. Not unrolling them saves
    # a ninth of the compile time.
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_prefer_vector_width": 512,  # if the CPU has such vectors; XLA's default is 256
}

# A training step has thousands of small loops. With fewer passes of LLVM it compiles in three
# quarters of the time, and takes as long as before.
_TRAINING_CPU_OPTIONS = _CPU_OPTIONS | {"xla_backend_optimization_level": 1}

# What to change if the memory of the device does not suffice, by command.
LESS_MEMORY = {
    "generate": "a smaller window or size, or dtype bfloat16",
    "train": "a smaller batch (more accumulate keeps the step the same), remat, or dtype bfloat16",
}

_announced = False  # whether a clock is shown while a program compiles


def options(training: bool = False) -> dict[str, str | int | bool] | None:
    """Return the `compiler_options` of `jax.jit`. Unlike an algorithm, they cannot be chosen inside
    the program (`lax.platform_dependent`). Do not call it while importing: it starts the devices.

    Args:
        training: for a training step.
    """
    if jax.default_backend() != "cpu":
        return None
    return _TRAINING_CPU_OPTIONS if training else _CPU_OPTIONS


def jit(function: Callable, **kwargs) -> Callable:
    """Compile as `jax.jit(function, **kwargs)` does, with options chosen at the first call.

    Signals are handled while it compiles, see `announce`.
    """
    ready = set()

    @cache
    def compiled() -> Any:
        return jax.jit(function, compiler_options=options(), **kwargs)

    @wraps(function)
    def call(*args, **kwargs):
        kind = _kind_of(args, kwargs)
        if kind is not None and kind not in ready:
            # JAX keeps the program, so that the call below finds it.
            Work(compiled().lower(*args, **kwargs).compile).wait("compiling", _announced)
            ready.add(kind)
        return compiled()(*args, **kwargs)

    call.cache_size = lambda: compiled()._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    call.lower = lambda *args, **kwargs: compiled().lower(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
    return call


def resolve_dtype(dtype: str, device: Any = None) -> str:
    """Return the type that networks compute in: "auto" is "bfloat16" if the device is a GPU, else
    "float32"; the other types stay. Do not call it while importing, as `options`.

    >>> resolve_dtype("bfloat16")
    'bfloat16'

    Args:
        dtype: the type, or "auto".
        device: the device, which may be absent; None takes the first local one.
    """
    if dtype != "auto":
        return dtype
    device = jax.local_devices()[0] if device is None else device
    return "bfloat16" if device.platform == "gpu" else "float32"


def matmul_precision(dtype: str, tf32: bool = False) -> AbstractContextManager[None]:
    """Set the precision of float32 matrix products and convolutions while programs are traced.

    By default JAX lets a GPU round the factors of a float32 product to TF32, which has 10 bits of
    mantissa instead of 23. Then float32 results do not agree with PyTorch's. On CPUs neither
    results nor speed depend on the precision.

    Args:
        dtype: type that the networks compute in. For "bfloat16" JAX's default stays, since few
            products are float32 then.
        tf32: round to TF32, where the device has it, also for "float32".
    """
    if tf32:
        return jax.default_matmul_precision("tensorfloat32")
    return jax.default_matmul_precision("highest") if dtype == "float32" else nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether XLA, or a library that passes its error on, found too little memory of the
    device. A kernel that needs too much shared memory is another matter."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text and "shared memory" not in text.lower()


@contextmanager
def explained_memory(command: str) -> Iterator[None]:
    """Raise XLA's out-of-memory error as an AnchorError that tells what to change.

    Args:
        command: "generate" or "train".
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"allocat\w+ (\d[\d.]* ?\w+)", str(error))
        raise AnchorError(
            f"the device has too little memory{f' (for {asked[1]} more)' if asked else ''}: use"
            f" {LESS_MEMORY[command]}; anchor-jax plan {command} --help tells how to compute what"
            " they need"
        ) from error


def run_once(function: Callable, *args) -> Any:
    """Compute `function(*args)` as one program that runs only once, such as random parameters: a
    short compile time matters more than a fast program."""
    short = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
    Work(short.lower(*args).compile).wait("compiling", _announced)
    return short(*args)


def announce() -> None:
    """Show from now on a clock on standard error while a program compiles."""
    global _announced
    _announced = True


class Compilation:
    """Compiles the result of `jax.jit` for such arguments in a thread.

    Args:
        jitted: the result of `jax.jit`. It is traced without this thread's settings, such as the
            precision.
        args: its arguments or their shapes.
    """

    def __init__(self, jitted: Any, *args: Any):
        self._work = Work(lambda: jitted.lower(*args).compile())

    def wait(self, stop: Callable[[], object] = lambda: False, show: bool = False) -> Any:
        """Wait for the program, and release the compiler's memory.

        Args:
            stop: asked meanwhile whether the program is still wanted.
            show: show a clock on standard error.

        Returns:
            The program, or None if it is no longer wanted.
        """
        compiled = self._work.wait("compiling", show or _announced, stop)
        return_freed_memory()
        return compiled


def _kind_of(*args: Any) -> Hashable:
    """Return what a program for such arguments depends on, or None for arguments that another
    program traces."""
    leaves, structure = jax.tree.flatten(args)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return None
    number = bool, int, float, complex
    return structure, *(
        (leaf.shape, leaf.dtype)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        else type(leaf)
        if isinstance(leaf, number)
        else leaf
        for leaf in leaves
    )


def return_freed_memory() -> None:
    """Return freed memory to the operating system. After compiling, glibc would otherwise keep some
    hundred megabytes beside the buffers of the computation."""
    with suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
