"""The latest state of one unit of work, saved whole or not at all, by Orbax or as plain files."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Store:
    """The newest checkpoint of one unit of work, in one directory.

    A checkpoint is written under a temporary name and renamed, so that a killed process leaves the previous one.
    Several processes that JAX knows of have separate stores and do not wait for each other.
    """

    def __init__(self, folder: Path) -> None:
        self._single = jax.process_count() == 1
        self._folder = (folder if self._single else folder.with_name(f"{folder.name}-arrays")).absolute()
        self._open()

    def _open(self) -> None:
        _make_folder(self._folder)
        self._manager = _orbax_manager(self._folder) if self._single else _ArraysManager(self._folder)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Save a tree of arrays as the state at `step`; raises OSError where it cannot be written."""
        need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(f"no space for a checkpoint in {self._folder}: {need:,} bytes needed, {free:,} free")
        try:
            self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(tree)))
        except (ValueError, RuntimeError) as error:  # what array writers raise on a full disk
            reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the shapes, types and devices of `like`."""
        empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(empty))
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), restored, like)

    def clear(self) -> None:
        """Remove all checkpoints."""
        self.remove()
        self._open()

    def remove(self) -> None:
        """Remove all checkpoints and the directory, and its parent where that is empty then."""
        self._manager.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other units or jobs have checkpoints there
            self._folder.parent.rmdir()


def _orbax_manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder, options=options)


class _ArraysManager:
    """The same for one of several processes: Orbax lets only process 0 write arrays that processes do not share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def latest_step(self) -> int | None:
        return max((int(path.name) for path in self._folder.iterdir() if path.name.isdigit()), default=None)

    def save(self, step: int, args: Any) -> None:
        temporary, before = self._folder / f"{step}.tmp", self.latest_step()
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        np.savez(temporary / "arrays.npz", *jax.tree.leaves(args.item))
        os.replace(temporary, self._folder / str(step))
        if before is not None:
            shutil.rmtree(self._folder / str(before))

    def restore(self, step: int, args: Any) -> Any:
        with np.load(self._folder / str(step) / "arrays.npz") as arrays:
            return jax.tree.unflatten(jax.tree.structure(args.item), [arrays[name] for name in arrays.files])

    def close(self) -> None:
        pass


def _make_folder(folder: Path) -> None:
    """Make a directory, though another job may remove its empty parent at the same moment."""
    for attempts_left in reversed(range(10)):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if not attempts_left:
                raise
