"""The latest state of one unit of work, saved whole or not at all, by Orbax or as plain files."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp


class _Backend(Protocol):
    def latest_step(self) -> int | None: ...
    def save(self, step: int, tree: Any) -> None: ...
    def restore(self, step: int, like: Any) -> Any: ...
    def close(self) -> None: ...


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
        self._backend: _Backend = _Orbax(self._folder) if self._single else _Arrays(self._folder)

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._backend.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Save a tree of arrays as the state at `step`; raises OSError where it cannot be written."""
        need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(f"no space for a checkpoint in {self._folder}: {need:,} bytes needed, {free:,} free")
        try:
            self._backend.save(step, jax.device_get(tree))
        except (ValueError, RuntimeError) as error:  # what array writers raise on a full disk
            reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the shapes, types and devices of `like`."""
        restored = self._backend.restore(step, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like))
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), restored, like)

    def clear(self) -> None:
        """Remove all checkpoints."""
        self.remove()
        self._open()

    def remove(self) -> None:
        """Remove all checkpoints and the directory, and its parent where that is empty then."""
        self._backend.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other units or jobs have checkpoints there
            self._folder.parent.rmdir()


class _Orbax:
    """For a single process."""

    def __init__(self, folder: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder, options=options)
        self.latest_step, self.close = self._manager.latest_step, self._manager.close

    def save(self, step: int, tree: Any) -> None:
        self._manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, step: int, like: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))


class _Arrays:
    """For several processes: Orbax lets only process 0 write arrays that are not shared among processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def latest_step(self) -> int | None:
        return max((int(path.name) for path in self._folder.iterdir() if path.name.isdigit()), default=None)

    def save(self, step: int, tree: Any) -> None:
        temporary = self._folder / f"{step}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        np.savez(temporary / "arrays.npz", *jax.tree.leaves(tree))
        before = self.latest_step()
        os.replace(temporary, self._folder / str(step))
        if before is not None:
            shutil.rmtree(self._folder / str(before))

    def restore(self, step: int, like: Any) -> Any:
        with np.load(self._folder / str(step) / "arrays.npz") as arrays:
            leaves = [arrays[name] for name in arrays.files]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

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
