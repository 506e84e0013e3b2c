"""Saves and restores checkpoints of a run with Orbax, asynchronously.

A checkpoint is complete or does not exist: one that a process did not finish is removed.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from anchor_jax.compiling import is_out_of_memory
from anchor_jax.errors import AnchorError, first_line
from anchor_jax.files import NO_SPACE, check_space


class Checkpoints:
    """The newest and the best checkpoints in a folder. Each holds the states of run and data.

    Args:
        folder: created if it is missing.
        keep_last: number of newest checkpoints to keep.
        keep_best: number of checkpoints with the highest scores to keep.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 1):
        self.folder = folder
        self._most = keep_last + keep_best + 1  # one is being written
        score = lambda metrics: metrics["score"]
        best = policies.BestN(
            get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False
        )
        keep = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=score,  # without it Orbax does not write the scores to disk
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,  # left by a process that was killed
            ),
            item_names=("state", "data"),
        )

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """Return the states of the run and of its data at `step`.

        Args:
            step: from `latest`.
            state: a state whose leaves have the required shapes, types and shardings.

        Raises:
            AnchorError: the checkpoint is damaged or of another model.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored: Any = self._manager.restore(step, args=arguments)
        except Exception as error:  # damaged files raise errors of many types
            if is_out_of_memory(error):
                raise
            raise AnchorError(
                f"{self.folder / str(step)}: cannot be read ({first_line(error)}); remove this"
                " checkpoint to go on from the one before"
            ) from None
        return restored.state, restored.data

    def check_space(self, state: Any, count: int) -> None:
        """Check before training that the disk has space for checkpoints.

        Args:
            state: a state, or the shapes and types of one.
            count: number of checkpoints to come. No more than are kept at a time need space, and
                the one that is being written.

        Raises:
            AnchorError: the disk has less. Older checkpoints stay.
        """
        count = min(count, self._most - len(self._manager.all_steps()))
        check_space({self.folder: max(count, 1) * _nbytes(state)})

    def save(self, step: int, state: Any, data: dict[str, Any], score: float | None) -> None:
        """Start to write a checkpoint. The state's values are copied before this returns.

        Args:
            step: number of steps done.
            state: state of the run.
            data: state of the data, as JSON.
            score: result of the validation at this step, higher is better, or None.

        Raises:
            AnchorError: this checkpoint or the one before cannot be written. Older ones stay.
        """
        if score is None:
            score = -math.inf  # Orbax warns about a checkpoint without a score
        free = shutil.disk_usage(self.folder).free
        if free < _nbytes(state):  # checked first: Orbax's threads print errors on a full disk
            raise AnchorError(self._message(step, "no space left on the disk"))
        try:
            self._manager.check_for_errors()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
                ),
                metrics={"score": score},
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AnchorError(self._message(step, _reason(error))) from None

    def wait(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            AnchorError: one cannot be written. Older checkpoints stay.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise AnchorError(self._message(None, _reason(error))) from None

    def close(self) -> None:
        """End the threads that write checkpoints.

        Raises:
            AnchorError: a checkpoint cannot be written. Older checkpoints stay.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise AnchorError(self._message(None, _reason(error))) from None

    def _message(self, step: int | None, reason: str) -> str:
        which = "the checkpoint" if step is None else f"the checkpoint of step {step}"
        last = self.latest()
        kept = "there is none yet" if last is None else f"that of step {last} is kept"
        return f"{self.folder}: {which} cannot be written: {reason}; {kept}"


def _nbytes(state: Any) -> int:
    """Return the size of a state in bytes, all devices together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _reason(error: Exception) -> str:
    if NO_SPACE in str(error):
        return "no space left on the disk"
    return first_line(error)
