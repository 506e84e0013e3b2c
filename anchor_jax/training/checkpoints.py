"""Checkpoints of a run: Orbax, asynchronous, complete or not there at all."""

import math
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from anchor_jax.errors import AnchorError, first_line


class Checkpoints:
    """The last and the best checkpoints in `folder`, each the state of the run and of its data.

    Args:
        folder: made if it is not there.
        keep_last: how many of the newest stay.
        keep_best: how many with the highest score stay.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 1):
        self.folder = folder
        score = lambda metrics: metrics["score"]
        best = policies.BestN(
            get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False
        )
        keep = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=score,  # or scores would not be written, and lost with the process
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,  # of a process that was killed
            ),
            item_names=("state", "data"),
        )

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """The state and the state of the data at `step`.

        Args:
            step: from `latest`.
            state: a state whose leaves have the shapes, types and places that are wanted.

        Raises:
            AnchorError: the checkpoint is damaged or of another model.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored: Any = self._manager.restore(step, args=arguments)
        except Exception as error:  # whatever Orbax and TensorStore make of damaged files
            raise AnchorError(
                f"{self.folder / str(step)}: cannot be read ({first_line(error)}); remove this"
                " checkpoint to go on from the one before"
            ) from None
        return restored.state, restored.data

    def save(self, step: int, state: Any, data: dict[str, Any], score: float | None) -> None:
        """Begin to write a checkpoint; the state's values are copied before this returns.

        Raises:
            AnchorError: this one or the one before could not be written. Older ones stay.
        """
        if score is None:
            score = -math.inf  # Orbax warns of a checkpoint without one
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed:  # asked before: Orbax's threads are noisy when a disk fills up
            raise AnchorError(self._told(step, "no space left on the disk"))
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
            raise AnchorError(self._told(step, _reason(error))) from None

    def wait(self) -> None:
        """Until all is written.

        Raises:
            AnchorError: it could not be. Older checkpoints stay.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise AnchorError(self._told(None, _reason(error))) from None

    def close(self) -> None:
        """End the threads that write.

        Raises:
            AnchorError: what they were at could not be written. Older checkpoints stay.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise AnchorError(self._told(None, _reason(error))) from None

    def _told(self, step: int | None, reason: str) -> str:
        which = "the checkpoint" if step is None else f"the checkpoint of step {step}"
        last = self.latest()
        kept = "there is none yet" if last is None else f"that of step {last} is kept"
        return f"{self.folder}: {which} cannot be written: {reason}; {kept}"


def _reason(error: Exception) -> str:
    if "No space left on device" in str(error):
        return "no space left on the disk"
    return first_line(error)
