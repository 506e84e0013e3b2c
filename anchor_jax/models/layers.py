"""Flax's layers, traced in half of the time.

Flax traces the initialiser of each parameter, also of those that are given: to learn the shape that
it must have. These layers know the shape that they ask for.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import flax.linen as nn
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

from anchor_jax.shapes import Array

Layer = TypeVar("Layer", bound=nn.Module)

_Module = nn.Module if TYPE_CHECKING else object


class Shaped(_Module):
    """Mix-in, before `nn.Module`, for parameters whose initialisers take a shape."""

    def param(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, name: str, init: Callable[..., Array], shape: Sequence[int], *args: Any, **kwargs: Any
    ) -> Array:
        """Return a parameter that is given, else make it: zeros if there is no random key.

        Raises:
            ScopeParamShapeError: it is given in another shape.
        """
        if not self.has_variable("params", name):
            if self.is_initializing() and not self.has_rng("params"):  # for shapes alone
                self.put_variable("params", name, jnp.zeros(shape, *args))
                return self.get_variable("params", name)
            made: Any = super().param(name, init, shape, *args, **kwargs)
            return made
        value: Array = self.get_variable("params", name)
        if value.shape != tuple(shape):
            assert self.scope is not None
            raise ScopeParamShapeError(name, self.scope.path_text, value.shape, tuple(shape))
        return value


def _shaped(layer: type[Layer]) -> type[Layer]:
    """Mix `Shaped` into a layer of Flax."""
    return cast(type[Layer], type(layer.__name__, (Shaped, layer), {"__module__": __name__}))


Conv = _shaped(nn.Conv)
Dense = _shaped(nn.Dense)
Embed = _shaped(nn.Embed)
LayerNorm = _shaped(nn.LayerNorm)
