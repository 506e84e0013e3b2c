"""Parameter trees on disk: one Orbax tree a network, written and read without a second copy."""

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
from anchor_jax.errors import AnchorError, first_line, shorten
from anchor_jax.models import NetworkConfig
from anchor_jax.shapes import Params

GROUP_BYTES = 64 << 20  # tensors go to and from disk in groups of about this size

# Without this, Orbax logs every step of a save, and warns of damage that our errors tell.
logging.set_verbosity(logging.ERROR)


@dataclass(frozen=True)
class Lazy:
    """A parameter that is read when it is written: a tree of them can be saved without ever being
    in memory as a whole."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


# Tracing a UNet takes a second, and nothing changes these trees.
abstract_params = functools.cache(models.abstract_params)


def write_params(folder: Path, params: Params) -> list[str]:
    """Write one network's parameters, whose leaves are arrays or `Lazy`, in their own types.

    Returns:
        The names of those that hold NaN or infinity.
    """
    not_finite = []

    def checked(path: tuple[str, ...], leaf: Any) -> Lazy:
        def read() -> np.ndarray:
            array = leaf.read() if isinstance(leaf, Lazy) else np.asarray(leaf)
            with np.errstate(invalid="ignore"):  # ml_dtypes warns of the NaN it is asked about
                finite = bool(np.isfinite(array).all())
            if not finite:
                not_finite.append("/".join(path))
            return np.ascontiguousarray(array)

        return Lazy(tuple(leaf.shape), np.dtype(leaf.dtype), read)

    tree = unflatten({path: checked(path, leaf) for path, leaf in flatten(params).items()})
    registry = ocp.type_handlers.create_type_handler_registry(
        (Lazy, _LazyHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    # Compression would save a tenth of float weights, and loading would take longer.
    with _checkpointer(use_compression=False, type_handler_registry=registry) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
    return not_finite


def stored_params(folder: Path, config: NetworkConfig) -> Params:
    """The tree in `folder` as `jax.ShapeDtypeStruct`, in the stored types.

    Raises:
        AnchorError: it is not there, damaged, or of other names or shapes than `config` wants.
    """
    wanted = flatten(abstract_params(config))
    with _open(folder) as checkpointer:
        metadata = checkpointer.metadata(folder.absolute()).item_metadata
        stored = flatten(metadata.tree if metadata else {})
        problems = [f"{'/'.join(path)} is unknown" for path in stored if path not in wanted]
        for path, leaf in wanted.items():
            shape = getattr(stored.get(path), "shape", "missing")
            if shape != leaf.shape:
                problems.append(f"{'/'.join(path)} is {shape}, expected {leaf.shape}")
        if problems:
            raise AnchorError(f"does not fit its config: {shorten(problems)}")
        return unflatten(
            {
                path: jax.ShapeDtypeStruct(leaf.shape, stored[path].dtype)
                for path, leaf in wanted.items()
            }
        )


def read_params(folder: Path, wanted: Params, dtype: Any = None) -> Params:
    """Read the leaves of `wanted`, which is what `stored_params` gave or a part of it, as `dtype`
    or, with None, as stored. They are put on the first device.

    Raises:
        AnchorError: they are not there or damaged.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    args = jax.tree.map(
        lambda _: ocp.ArrayRestoreArgs(restore_type=jax.Array, dtype=dtype, sharding=sharding),
        wanted,
    )
    restore = ocp.args.PyTreeRestore(wanted, restore_args=args, partial_restore=True)
    with _open(folder) as checkpointer:
        return checkpointer.restore(folder.absolute(), args=restore)


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Nested dicts as one dict whose keys are paths."""
    return {
        tuple(str(key.key) if isinstance(key, DictKey) else str(key) for key in path): leaf
        for path, leaf in tree_leaves_with_path(tree)
    }


def unflatten(leaves: Mapping[tuple[str, ...], Any]) -> Params:
    """The inverse of `flatten`."""
    tree: Params = {}
    for (*modules, name), leaf in leaves.items():
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return tree


def groups(items: Sequence[Any], nbytes: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Cut `items`, in order, into lists of about `GROUP_BYTES`."""
    group, size = [], 0
    for item in items:
        group.append(item)
        size += nbytes(item)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Writes `Lazy` leaves as Orbax writes numpy arrays, one group of them in memory at a time."""

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
    if not folder.is_dir():
        raise AnchorError(f"{folder}: the parameters are missing, copy the ANCHOR again")
    try:
        with _checkpointer() as checkpointer:
            yield checkpointer
    except Exception as error:  # whatever Orbax and TensorStore make of damaged files
        raise AnchorError(
            f"{folder}: cannot be read, convert or copy the ANCHOR again: {first_line(error)}"
        ) from None


def _checkpointer(**options: Any) -> ocp.Checkpointer:
    """Reads and writes for this process alone: Orbax else waits for all others to do so, too."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, **options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
