"""A thin facade over Orbax: the latest state of one unit of work, saved whole or not at all."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Store:
    """The checkpoints of one unit of work in one folder; only the newest is kept.

    Orbax writes under a temporary name and renames, so a killed process leaves the previous checkpoint. Where several
    processes work together, each keeps stores of its own and waits for no other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._open()

    def _open(self) -> None:
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            create=False,  # Orbax makes folders for all processes or none
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
            multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
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
            # From host memory: of several processes, Orbax lets none save arrays that live on its own devices only.
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(tree)))
        except (ValueError, RuntimeError) as error:  # what a full disk is to the array writers below
            reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the shapes, types and devices of `like`."""
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), restored, like)

    def clear(self) -> None:
        """Remove all checkpoints, to begin anew."""
        self.remove()
        self._open()

    def remove(self) -> None:
        """Remove all checkpoints and the folder, and the one around it if this was its last."""
        self._manager.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other units, or other jobs, still have theirs there
            self._folder.parent.rmdir()
