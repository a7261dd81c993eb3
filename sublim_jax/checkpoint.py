"""A thin facade over Orbax: the latest state of one unit of work, saved whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Store:
    """The checkpoints of one unit of work in one folder; only the newest is kept.

    Orbax writes under a temporary name and renames, so a killed process leaves the previous checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._open()

    def _open(self) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Save a tree of arrays as the state at `step`; raises OSError where it cannot be written."""
        need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(f"no space for a checkpoint in {self._folder}: {need:,} bytes needed, {free:,} free")
        try:
            self._manager.save(step, args=ocp.args.StandardSave(tree))
        except (ValueError, RuntimeError) as error:  # what a full disk is to the array writers below
            reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the shapes, types and devices of `like`."""
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def clear(self) -> None:
        """Remove all checkpoints."""
        self._manager.close()
        clear(self._folder)
        self._open()


def clear(folder: Path) -> None:
    """Remove a folder of checkpoints with everything in it."""
    shutil.rmtree(folder, ignore_errors=True)
