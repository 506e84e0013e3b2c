"""More than one device: the batch, and where asked parameters and optimizer, over a mesh."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def state_sharding(mesh: Mesh, state: Any, fsdp: bool) -> Any:
    """Where each leaf of a state lies: on every device whole or, with `fsdp`, cut along its longest
    axis that the devices divide (Zhao et al. 2023)."""

    def place(leaf) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        axes = [i for i, size in enumerate(leaf.shape) if size and size % mesh.size == 0]
        if fsdp and axes:
            spec[max(axes, key=lambda i: leaf.shape[i])] = AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, state)


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch as arrays over the whole mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
    }


def put_whole(places: Any, tree: Any) -> Any:
    """Arrays that every process has whole, put where `places` says, a tree like `tree`."""

    def put(leaf, place: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    return jax.tree.map(put, tree, places)


def gather(mesh: Mesh, tree: Any) -> Any:
    """The arrays of `tree` whole, on this process's first device. All processes have to call it."""
    if mesh.size == 1:
        return tree
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def any_process(flag: bool) -> bool:
    """Whether any process says so. All of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device whole."""
    return NamedSharding(mesh, PartitionSpec())
