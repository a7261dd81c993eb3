"""The latest state of one unit of work, saved whole or not at all: a thin facade over Orbax, or plain files."""

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
    """The checkpoints of one unit of work in one folder; only the newest is kept.

    They are written under a temporary name and renamed, so a killed process leaves the previous checkpoint. Of several
    processes that JAX knows of, each keeps stores of its own and waits for no other.
    """

    def __init__(self, folder: Path) -> None:
        # One of several processes finds nothing of what a process alone wrote, and the other way round.
        self._alone = jax.process_count() == 1
        self._folder = (folder if self._alone else folder.with_name(f"{folder.name}-arrays")).absolute()
        self._open()

    def _open(self) -> None:
        _made(self._folder)
        self._backend: _Backend = _Orbax(self._folder) if self._alone else _Arrays(self._folder)

    def latest(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._backend.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Save a tree of arrays as the state at `step`; raises OSError where it cannot be written."""
        need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(f"no space for a checkpoint in {self._folder}: {need:,} bytes needed, {free:,} free")
        try:
            self._backend.save(step, jax.device_get(tree))
        except (ValueError, RuntimeError) as error:  # what a full disk is to the array writers below
            reason = str(error).strip().splitlines()[0].rsplit(": ", 1)[-1]
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error

    def restore(self, step: int, like: Any) -> Any:
        """The tree saved at `step`, with the shapes, types and devices of `like`."""
        restored = self._backend.restore(step, jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like))
        return jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), restored, like)

    def clear(self) -> None:
        """Remove all checkpoints, to begin anew."""
        self.remove()
        self._open()

    def remove(self) -> None:
        """Remove all checkpoints and the folder, and the one around it if this was its last."""
        self._backend.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other units, or other jobs, still have theirs there
            self._folder.parent.rmdir()


class _Orbax:
    """For a process alone."""

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
    """For one of several processes: Orbax lets only the first of them write arrays that the others do not share."""

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


def _made(folder: Path) -> None:
    """Make a folder, though another job may remove the empty one around it at the same moment."""
    for left in reversed(range(10)):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if not left:
                raise
