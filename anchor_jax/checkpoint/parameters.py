"""Write and read parameters, one Orbax tree for each network, without a second copy in memory."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.tree_util import DictKey, tree_leaves_with_path

from anchor_jax import models
from anchor_jax.compiling import is_out_of_memory
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.models import NetworkConfig
from anchor_jax.shapes import Params, misfits

_GROUP_BYTES = 64 << 20  # tensors go to and from disk in groups of about this size

# Orbax logs every step of a save, and warnings about damage that our errors report already.
logging.set_verbosity(logging.ERROR)


@dataclass(frozen=True)
class Lazy:
    """A parameter that is read only when it is saved, so that a tree of them need not fit into
    memory.

    Attributes:
        shape: shape of the array.
        dtype: type of the array.
        read: returns the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


# Tracing a UNet takes a second. Nobody changes the returned trees, so one copy serves all.
abstract_params = functools.cache(models.abstract_params)


def write_params(folder: Path, params: Params) -> list[str]:
    """Write the parameters of one network in their own types.

    Args:
        folder: the new folder.
        params: tree of arrays or `Lazy`.

    Returns:
        The names of parameters with NaN or infinite values.
    """
    not_finite = []

    def checked(path: tuple[str, ...], leaf: Any) -> Lazy:
        def read() -> np.ndarray:
            array = leaf.read() if isinstance(leaf, Lazy) else np.asarray(leaf)
            with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
                finite = bool(np.isfinite(array).all())
            if not finite:
                not_finite.append("/".join(path))
            return np.ascontiguousarray(array)

        return Lazy(tuple(leaf.shape), np.dtype(leaf.dtype), read)

    tree = unflatten({path: checked(path, leaf) for path, leaf in flatten(params).items()})
    registry = ocp.type_handlers.create_type_handler_registry(
        (Lazy, _LazyHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    # Compression would make the files a tenth smaller and loading slower.
    with _checkpointer(use_compression=False, type_handler_registry=registry) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
    return not_finite


def stored_params(folder: Path, config: NetworkConfig) -> Params:
    """Read the tree in `folder` as `jax.ShapeDtypeStruct`, in the stored types.

    Args:
        folder: the parameter folder of a network.
        config: config of the network.

    Raises:
        AnchorError: the tree is missing or damaged, or its names or shapes do not fit `config`.
    """
    wanted = flatten(abstract_params(config))
    with _open(folder) as checkpointer:
        metadata = checkpointer.metadata(folder.absolute()).item_metadata
        stored = flatten(metadata.tree if metadata else {})
        if problems := misfits(stored, wanted):
            raise AnchorError(f"does not fit its config: {shorten(problems)}")
        return unflatten(
            {
                path: jax.ShapeDtypeStruct(leaf.shape, stored[path].dtype)
                for path, leaf in wanted.items()
            }
        )


def is_kernel(leaf: Any) -> bool:
    """Return whether a parameter is a matrix or a convolution kernel. These are almost all bytes of
    a network, and they keep the type that a network computes in. Biases and the scales of norms
    are float32 for every type of the computation."""
    return len(leaf.shape) > 1


def with_types(wanted: Params, dtype: Any, kernels: Any) -> Params:
    """Return a tree of `jax.ShapeDtypeStruct` with other types: `kernels` for kernels, `dtype` for
    the other parameters. None keeps the present types."""

    def typed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        wanted_type = kernels if is_kernel(leaf) else dtype
        return leaf if wanted_type is None else jax.ShapeDtypeStruct(leaf.shape, wanted_type)

    return jax.tree.map(typed, wanted)


def read_params(folder: Path, wanted: Params) -> Params:
    """Read parameters onto the first device. Each is cast on the way, so that the device never has
    it in its stored type.

    Args:
        folder: the parameter folder of a network.
        wanted: the result of `stored_params`, or a part of that tree, in the types of the result.

    Raises:
        AnchorError: the parameters are missing or damaged.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    args = jax.tree.map(
        lambda leaf: ocp.ArrayRestoreArgs(
            restore_type=jax.Array, dtype=leaf.dtype, sharding=sharding
        ),
        wanted,
    )
    restore = ocp.args.PyTreeRestore(wanted, restore_args=args, partial_restore=True)
    with _open(folder) as checkpointer:
        return checkpointer.restore(folder.absolute(), args=restore)


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Make one dict from nested dicts. The keys are paths.

    >>> flatten({"conv": {"bias": 1, "kernel": 2}})
    {('conv', 'bias'): 1, ('conv', 'kernel'): 2}
    """
    return {
        tuple(str(key.key) if isinstance(key, DictKey) else str(key) for key in path): leaf
        for path, leaf in tree_leaves_with_path(tree)
    }


def unflatten(leaves: Mapping[tuple[str, ...], Any]) -> Params:
    """Make nested dicts from one dict whose keys are paths, the inverse of `flatten`."""
    tree: Params = {}
    for (*modules, name), leaf in leaves.items():
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return tree


def groups(items: Sequence[Any], nbytes: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Split `items`, in order, into lists of about 64 MiB. `nbytes` returns the size of an item."""
    group, size = [], 0
    for item in items:
        group.append(item)
        size += nbytes(item)
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Writes `Lazy` leaves as Orbax writes NumPy arrays, with one group of them in memory."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        for group in groups(list(zip(values, infos, args, strict=True)), lambda x: x[0].nbytes):
            lazies, group_infos, group_args = zip(*group, strict=True)
            arrays = [lazy.read() for lazy in lazies]
            for future in await super().serialize(arrays, group_infos, group_args):
                future.result()
        return []


@contextmanager
def _open(folder: Path) -> Iterator[ocp.Checkpointer]:
    """Open a checkpointer; all errors while it reads `folder` become an AnchorError."""
    if not folder.is_dir():
        raise AnchorError(f"{folder}: the parameters are missing, copy the ANCHOR again")
    try:
        with _checkpointer() as checkpointer:
            yield checkpointer
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        if is_out_of_memory(error):
            raise AnchorError(
                f"{folder}: the device has too little memory for the parameters: free some, or use"
                " dtype bfloat16"
            ) from error
        raise AnchorError(
            f"{folder}: cannot be read, convert or copy the ANCHOR again: {first_line(error)}"
        ) from None


def _checkpointer(**options: Any) -> ocp.Checkpointer:
    """Make a checkpointer for this process only. By default Orbax waits for all processes."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, **options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
