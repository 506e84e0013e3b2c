"""Distributes parameters and optimizer over a mesh of devices, whole or (FSDP) in parts."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anchor_jax.devices import AXIS, replicated


def state_sharding(mesh: Mesh, state: Any, fsdp: bool) -> Any:
    """Choose the sharding of each leaf of a state; returns a tree like `state`.

    Without `fsdp` every device holds every leaf whole. With it (fully sharded data parallel,
    https://arxiv.org/abs/2304.11277) a leaf is cut along its longest axis whose size is a multiple
    of the number of devices; a leaf without such an axis stays whole.
    """

    def choose(leaf) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        axes = [i for i, size in enumerate(leaf.shape) if size and size % mesh.size == 0]
        if fsdp and axes:
            spec[max(axes, key=lambda i: leaf.shape[i])] = AXIS
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(choose, state)


def put_whole(shardings: Any, tree: Any) -> Any:
    """Distribute arrays that every process holds whole; `shardings` is a tree like `tree`."""

    def put(leaf, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def gather(mesh: Mesh, tree: Any) -> Any:
    """Return whole arrays on this process's first device. All processes must call this together."""
    if mesh.size == 1:
        return tree
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def any_process(flag: bool) -> bool:
    """Return whether `flag` is true in any process. All processes must call this together."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())
