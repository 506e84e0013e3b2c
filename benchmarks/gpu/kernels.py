"""The matmul rate of the device, and attention: its error and speed at the shapes of the networks.

Axis letters are those of `anchor_jax.shapes`. Errors are measured against a plain softmax in
float32 with full precision ("highest") of the same inputs, computed on the same device for one
block of queries after the other. `plain` is this computation in the type that is measured: a
kernel's error is to be judged by it.
"""

import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anchor_jax.compiling import matmul_precision
from anchor_jax.models import attention as attention_module
from anchor_jax.models.attention import attention
from anchor_jax.shapes import Array
from benchmarks.gpu.report import Section, seconds_of

_BLOCK_BYTES = 1 << 30  # of the float32 scores of one block of queries


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention: rows, queries, keys, heads, width of a head."""

    what: str
    b: int
    s: int
    t: int
    m: int
    d: int

    @property
    def flops(self) -> int:
        """Operations of the two products of a forward pass."""
        return 4 * self.b * self.m * self.s * self.t * self.d


# Stable Diffusion 1.5 at 512x512, 16 frames, both halves of guidance. The first levels have the
# most operations.
SHAPES = (
    Shape("joint, 64x64 latents", 2, 65_536, 65_536, 8, 40),
    Shape("joint, 32x32", 2, 16_384, 16_384, 8, 80),
    Shape("joint, 16x16", 2, 4096, 4096, 8, 160),
    Shape("per frame, 64x64", 32, 4096, 4096, 8, 40),
    Shape("per frame, 32x32", 32, 1024, 1024, 8, 80),
    Shape("per frame, 16x16", 32, 256, 256, 8, 160),
    Shape("per frame, 8x8", 32, 64, 64, 8, 160),
    Shape("appearance, 64x64", 2, 65_536, 50, 8, 40),
    Shape("decoder, 64x64", 4, 4096, 4096, 1, 512),
)
TOY_SHAPES = (Shape("toy", 2, 96, 96, 2, 8),)


def measure_products(section: Section, toy: bool) -> None:
    """Measure the rate of large square matrix products, which other rates are compared with."""
    side = 128 if toy else 8192
    cases = {
        "bfloat16": (jnp.bfloat16, None),
        "float32, TF32 where the device has it": (jnp.float32, "tensorfloat32"),
        "float32, full precision": (jnp.float32, "highest"),
    }
    for name, (dtype, precision) in cases.items():
        if section.out_of_time(name):
            continue
        with section.measuring(name) as result, jax.default_matmul_precision(precision):
            x, y = (_normal(i, (side, side), dtype) for i in range(2))
            seconds = seconds_of(partial(jax.jit(jnp.matmul), x, y))
            result |= {"side": side, "seconds": seconds, "tflops": 2 * side**3 / seconds / 1e12}


def measure_attention(section: Section, toy: bool) -> None:
    """Measure error and speed of each kernel, forward and backward, at each shape and type."""
    section.notes.append(
        "error: largest difference to a plain softmax in float32, over its largest value; dq, dk,"
        " dv: the same for the gradients, for normally distributed upstream gradients. plain: a"
        " plain softmax in the measured type."
    )
    section.notes.append(
        "Operations: two products of a forward pass, and seven of forward and backward together."
    )
    for dtype in ("bfloat16", "float32"):
        for shape in TOY_SHAPES if toy else SHAPES:
            if section.out_of_time(f"{shape.what}, {dtype}"):
                continue
            for name, kernel in _kernels(shape, dtype).items():
                measuring = section.measuring(f"{shape.what}, {dtype}, {name}")
                with measuring as result, matmul_precision(dtype):
                    result |= _measure(shape, dtype, kernel, _reference(shape, dtype))
        _reference.cache_clear()


@dataclass(frozen=True)
class _Kernel:
    """What is measured: a function of queries, keys and values, with or without its gradients, and
    its time or its error alone."""

    function: Callable
    gradients: bool = True
    timed: bool = True


def _measure(
    shape: Shape, dtype: str, kernel: _Kernel, expected: tuple[Array, ...]
) -> dict[str, float]:
    """Measure one kernel. `expected` are the output and the three gradients."""
    inputs, gradient = _inputs(shape, dtype)
    result: dict[str, float] = {}
    forward, both = jax.jit(kernel.function), jax.jit(partial(_with_gradients, kernel.function))
    if kernel.timed:
        seconds = seconds_of(partial(forward, *inputs))
        result |= {"forward_ms": 1e3 * seconds, "forward_tflops": shape.flops / seconds / 1e12}
    if not kernel.gradients:
        return result | {"error": float(_difference(forward(*inputs), expected[0]))}
    outputs = both(inputs, gradient)
    for name, ours, theirs in zip(("error", "dq", "dk", "dv"), outputs, expected, strict=True):
        result[name] = float(_difference(ours, theirs))
    if kernel.timed:
        seconds = seconds_of(partial(both, inputs, gradient))
        rate = 3.5 * shape.flops / seconds / 1e12
        result |= {"both_ms": 1e3 * seconds, "both_tflops": rate}
    return result


def _kernels(shape: Shape, dtype: str) -> dict[str, _Kernel]:
    """Return what is measured at a shape: the library's function, the kernels of its files, cuDNN's
    and XLA's attention where they serve, and the plain softmax."""
    kernels = {"attention": _Kernel(lambda q, k, v: attention(q, k, v))}
    query = jax.ShapeDtypeStruct((shape.b, shape.s, shape.m, shape.d), dtype)
    for name, module in _kernel_modules():
        if jax.default_backend() == "gpu" and module.serves(query):
            function = lambda q, k, v, run=module.forward: run(q, k, v)[0]
            kernels[name] = _Kernel(function, gradients=False)
    names: list[Any] = ["cudnn"] if _cudnn_serves(shape, dtype) else []
    if 4 * shape.b * shape.m * shape.s * shape.t <= 4 * _BLOCK_BYTES:
        names.append("xla")
    for name in names:
        function = partial(jax.nn.dot_product_attention, implementation=name)
        kernels[name] = _Kernel(function)
    return kernels | {"plain": _Kernel(plain, timed=False)}


def _kernel_modules() -> Iterator[tuple[str, Any]]:
    """Yield the files of `anchor_jax.models.attention` that hold a kernel: `serves`, `forward`."""
    for info in pkgutil.iter_modules(getattr(attention_module, "__path__", ())):
        module = import_module(f"{attention_module.__name__}.{info.name}")
        if all(inspect.isfunction(getattr(module, name, None)) for name in ("serves", "forward")):
            yield info.name, module


def _cudnn_serves(shape: Shape, dtype: str) -> bool:
    """Return whether cuDNN's attention takes such inputs on this device: 16 bits, and widths to 128
    (from Hopper on to 256) that are multiples of 8."""
    device = jax.local_devices()[0]
    if device.platform != "gpu" or dtype == "float32":
        return False
    hopper = float(device.compute_capability) >= 9
    return shape.d % 8 == 0 and shape.d <= (256 if hopper else 128)


def plain(query: Array, key: Array, value: Array) -> Array:
    """Compute attention block by block of the queries, with a softmax over all keys in float32."""
    b, s, m, d = query.shape
    block = max(1, min(s, _BLOCK_BYTES // (4 * b * m * key.shape[1])))
    block = math.gcd(s, 1 << (block.bit_length() - 1))

    @jax.checkpoint
    def attend(part: Array) -> Array:
        scores = jnp.einsum("bsmd,btmd->bmst", part, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(d), axis=-1).astype(value.dtype)
        return jnp.einsum("bmst,btmd->bsmd", weights, value)

    blocks = query.reshape(b, s // block, block, m, d).swapaxes(0, 1)
    return lax.map(attend, blocks).swapaxes(0, 1).reshape(query.shape)


class _Cached:
    """The last result of a function, computed once for all kernels of a shape."""

    def __init__(self, function: Callable):
        self._function, self._key, self._value = function, None, None

    def __call__(self, *key: Any) -> Any:
        if key != self._key:
            self._key, self._value = None, None  # before the next result takes memory
            self._value = self._function(*key)
            self._key = key
        return self._value

    def cache_clear(self) -> None:
        self._key, self._value = None, None


@_Cached
def _reference(shape: Shape, dtype: str) -> tuple[Array, ...]:
    """Compute output and gradients of the plain softmax, float32, of inputs of type `dtype`."""
    inputs, gradient = _inputs(shape, dtype)
    wide = [x.astype(jnp.float32) for x in (*inputs, gradient)]
    with jax.default_matmul_precision("highest"):
        return jax.jit(partial(_with_gradients, plain))(tuple(wide[:3]), wide[3])


def _with_gradients(
    kernel: Callable, inputs: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, ...]:
    """Return the output, and the gradients of queries, keys and values."""
    output, backward = jax.vjp(kernel, *inputs)
    return output, *backward(gradient)


def _inputs(shape: Shape, dtype: str) -> tuple[tuple[Array, Array, Array], Array]:
    """Draw queries, keys and values, and the upstream gradient. All are standard normal, so that
    scores are, too."""
    queries, keys = ((shape.b, count, shape.m, shape.d) for count in (shape.s, shape.t))
    query, key, value, gradient = (
        _normal(i, size, dtype) for i, size in enumerate((queries, keys, keys, queries))
    )
    return (query, key, value), gradient


@partial(jax.jit, static_argnums=(1, 2))
def _normal(seed: int, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@jax.jit
def _difference(ours: Array, theirs: Array) -> Array:
    """Return the largest difference, over the largest value."""
    return jnp.abs(ours.astype(jnp.float32) - theirs).max() / jnp.abs(theirs).max()
