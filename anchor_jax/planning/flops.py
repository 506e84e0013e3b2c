"""Count the multiplications and additions of a computation from its jaxpr.

XLA's own count of a compiled program counts the body of each loop once. Here attention runs in
loops, so that count is too small, and a kernel in Pallas has none.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *args: Any) -> int:
    """Count the floating-point operations of the matrix products and convolutions in a function.

    A multiplication with its addition counts as two. The body of a `scan` counts once for each
    iteration. The body of a `while` does not count, since its number of iterations is unknown. Of
    the algorithms of several platforms the one for any platform counts, which has no such loops;
    of the branches of another `cond` the largest.

    Args:
        function: the function, which is traced and not computed.
        args: its arguments, arrays or `jax.ShapeDtypeStruct`.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    """Count the operations of a jaxpr and of the jaxprs in its equations."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            inputs: list[Any] = [value.aval for value in equation.invars]
            output: Any = equation.outvars[0].aval
            numbers = equation.params["dimension_numbers"]
            if name == "dot_general":
                terms = math.prod(inputs[0].shape[axis] for axis in numbers[0][0])
            else:  # all axes of the kernel but that of the output channels
                terms = inputs[1].size // inputs[1].shape[numbers.rhs_spec[0]]
            total += 2 * output.size * terms
        elif equation.params.get("branches_platforms"):
            any_platform = equation.params["branches_platforms"].index(None)
            total += _count(equation.params["branches"][any_platform].jaxpr)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        else:
            times = {"scan": equation.params.get("length"), "while": 0}.get(name, 1)
            total += times * sum(map(_count, _inner(equation.params)))
    return total


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yield the jaxprs in the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
