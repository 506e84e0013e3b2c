"""Several devices and processes: a mesh of one axis, and arrays that are distributed over it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from anchor_jax.errors import AnchorError

AXIS = "data"  # of the mesh: every device has its part of the rows


def join_processes(coordinator: str | None) -> None:
    """Connect to the other processes of a distributed run, before JAX opens its devices.

    Args:
        coordinator: HOST:PORT,COUNT,INDEX of the first process, the number of processes and the
            index of this one; None is a run in one process.

    Raises:
        AnchorError: the text has another form.
    """
    if coordinator is None:
        return
    try:
        address, count, index = coordinator.split(",")
        numbers = int(count), int(index)
    except ValueError:
        raise AnchorError(
            f"--coordinator {coordinator}: expected HOST:PORT,COUNT,INDEX, such as"
            " 10.0.0.1:9876,2,0"
        ) from None
    jax.distributed.initialize(address, *numbers)


def is_first_process() -> bool:
    """Return whether this is the process that writes files and prints results."""
    return jax.process_index() == 0


def count_devices(wanted: int | None = None) -> int:
    """Return the number of devices that share the work: `wanted`, by default those of all
    processes.

    Raises:
        AnchorError: there are fewer, or `wanted` leaves out devices of other processes.
    """
    available = jax.device_count()
    if wanted is None or wanted == available:
        return available
    if wanted > available:
        raise AnchorError(f"devices is {wanted}: expected 1 to {available}, which JAX sees here")
    if jax.process_count() > 1:
        raise AnchorError(
            f"devices is {wanted}: expected all {available}, since several processes share the work"
        )
    return wanted


def shared_mesh(count: int | None) -> Mesh | None:
    """Make the mesh of the first `count` devices, or return None if one device works alone."""
    return None if count in (None, 1) else make_mesh(jax.devices()[:count])


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh of one axis with the given devices, by default all devices of all processes."""
    count = jax.device_count() if devices is None else len(devices)
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that gives each device the same number of rows of a batch."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def own_rows(mesh: Mesh, count: int) -> slice:
    """Return which of `count` rows the devices of this process have."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((count,)).values()
    bounds = [part[0].indices(count) for part in parts if part is not None]
    return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Make arrays over the whole mesh from this process's rows of a batch, a tree of arrays. Rows
    that are already on a device do not pass through the host."""
    sharding = batch_sharding(mesh)
    put = jax.make_array_from_process_local_data
    return jax.tree.map(lambda values: put(sharding, values), batch)


def put_copies(mesh: Mesh, tree: Any) -> Any:
    """Copy arrays of this process's first device to all devices of the mesh. Every process has the
    same arrays."""
    sharding = replicated(mesh)
    make = jax.make_array_from_callback
    return jax.tree.map(lambda leaf: make(np.shape(leaf), sharding, lambda _: leaf), tree)


def split_rows(function: Callable, mesh: Mesh | None) -> Callable:
    """Return `function(whole, *rows)`, computed by all devices, each for its rows; `whole` is a
    tree from `put_copies`. The rows of the results are then brought together on every device, the
    only collective. Without a mesh it is the function itself."""
    if mesh is None:
        return function

    def gathered(whole: Any, *rows: Any) -> Any:
        return _gather(function(whole, *rows))

    def split(whole: Any, *rows: Any) -> Any:
        places = PartitionSpec(), *[PartitionSpec(AXIS)] * len(rows)
        # The check does not know that all devices have gathered the same.
        share = jax.shard_map(
            gathered, mesh=mesh, in_specs=places, out_specs=PartitionSpec(), check_vma=False
        )
        return share(whole, *rows)

    return split


def _gather(tree: Any) -> Any:
    """Bring the rows of arrays of any types together, with one collective: as one array of bytes if
    there are several."""
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) == 1:
        return jax.tree.unflatten(structure, [lax.all_gather(leaves[0], AXIS, tiled=True)])
    as_bytes = [lax.bitcast_convert_type(x, jnp.uint8) for x in leaves]
    flat = [x.reshape(len(x), -1) for x in as_bytes]
    gathered = lax.all_gather(jnp.concatenate(flat, 1), AXIS, tiled=True)
    parts = jnp.split(gathered, np.cumsum([x.shape[1] for x in flat])[:-1], 1)
    whole = [
        lax.bitcast_convert_type(part.reshape(-1, *x.shape[1:]), leaf.dtype)
        for part, x, leaf in zip(parts, as_bytes, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)


def own_copy(array: jax.Array) -> jax.Array:
    """Return the copy of a replicated array that is on this process's first device."""
    first = jax.local_devices()[0]
    return next(shard.data for shard in array.addressable_shards if shard.device == first)
