"""Finds the weight files of metrics' networks, and fits their arrays to our modules."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from anchor_jax.errors import AnchorError, shorten
from anchor_jax.files import cache_folder
from anchor_jax.shapes import Params, misfits
from anchor_jax.unpickle import read_tensors

_TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Unavailable(AnchorError):
    """A metric cannot be measured: a file or package is missing, or the videos are too small."""


@dataclass(frozen=True)
class WeightFile:
    """A file that a metric needs. Others than the known one are read too: its user may have
    retrained the network.

    Attributes:
        name: its name in the folder of weights.
        sha256: of the known file, if it is known.
        use: the metric.
        origin: where it usually comes from, or the command that gets it; {folder} is the folder.
    """

    name: str
    sha256: str | None
    use: str
    origin: str

    def path(self, folder: Path | None) -> Path:
        """Return the place of the file, which may be missing.

        Args:
            folder: the folder of weights; None: `metrics` in the user's cache folder.

        Raises:
            AnchorError: there is no such folder.
        """
        if folder is None:
            return cache_folder() / "metrics" / self.name
        check_folder(folder)
        return folder / self.name

    def find(self, folder: Path | None) -> Path:
        """Return the place of the file, which exists.

        Raises:
            Unavailable: the file is missing.
            AnchorError: as `path`.
        """
        path = self.path(folder)
        if path.is_file():
            return path
        digest = f" (SHA-256 {self.sha256[:16]}...)" if self.sha256 else ""
        origin = self.origin.format(folder=shlex.quote(str(path.parent)))
        raise Unavailable(
            f"{self.use} needs {self.name}{digest}, which is not in {path.parent}; get {origin}"
        )


def check_folder(folder: Path) -> None:
    """Raise AnchorError if there is no such folder of weights."""
    if not folder.is_dir():
        raise AnchorError(f"{folder} is no folder; expected one with weights of metrics")


def read_torch(path: Path, network: str, ignored: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read the tensors of a network of torch, kernels as (h, w, in, out).

    Args:
        path: a state dict.
        network: its name, for errors.
        ignored: patterns of names that are left out.

    Raises:
        AnchorError: as `read_tensors`.
    """
    tensors = read_tensors(path, f"the weights of {network}")
    return {
        name: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
        for name, x in tensors.items()
        if not any(fnmatch(name, pattern) for pattern in ignored)
    }


def torch_name(names: tuple[str, ...]) -> str:
    """Return torch's name of an array of a module that has torch's module names.

    >>> torch_name(("batch_stats", "Mixed_5b", "branch1x1", "bn", "mean"))
    'Mixed_5b.branch1x1.bn.running_mean'
    """
    return ".".join([*names[1:-1], _TORCH_NAMES[names[-1]]])


def fit(
    given: Mapping[str, np.ndarray],
    shapes: Params,
    name_of: Callable[[tuple[str, ...]], str],
    source: str,
) -> Params:
    """Put arrays where a network has them.

    Args:
        given: the arrays of the file by its names, all of which the network must need.
        shapes: the network's variables, or their shapes.
        name_of: the name in the file for the path of a variable.
        source: what and where the arrays are, for the error.

    Returns:
        The variables, float32.

    Raises:
        AnchorError: arrays are unknown, missing or of another shape.
    """
    wanted = flatten_dict(shapes)
    names = {path: name_of(path) for path in wanted}
    found = {path: given[name] for path, name in names.items() if name in given}
    found |= {(name,): given[name] for name in sorted(given.keys() - set(names.values()))}
    if problems := misfits(found, wanted):
        raise AnchorError(f"{source}: {shorten(problems)}")
    return unflatten_dict({path: jnp.asarray(x, jnp.float32) for path, x in found.items()})
