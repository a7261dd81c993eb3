"""The latest state of one unit of work, saved whole or not at all."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import jax

from sublim_jax.core.files import DamagedFile, set_aside
from sublim_jax.engine.params import load_arrays, save_arrays


class Store:
    """The newest checkpoint of one unit of work: a safetensors file in a directory of its own.

    A killed process leaves the previous checkpoint. Several processes have separate stores and do not wait for each
    other.

    Args:
        folder: The directory; its name identifies the unit of work.
        identity: What the work belongs to; a checkpoint of something else is not read.
    """

    def __init__(self, folder: Path, identity: str = "") -> None:
        self._folder, self._identity = folder, identity

    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max((int(path.stem) for path in self._folder.glob("*.safetensors") if path.stem.isdigit()), default=None)

    def save(self, step: int, tree: Any) -> None:
        """Save a tree of arrays as the state at `step`; raises OSError where it cannot be written."""
        before = self.latest()
        try:
            _make_folder(self._folder)
            save_arrays(_by_name(jax.device_get(tree)), self._file(step), of=self._of(step))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"checkpoint {self._folder.name} at step {step} cannot be saved ({reason})") from error
        if before is not None and before != step:
            self._file(before).unlink(missing_ok=True)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest step and its tree, with the shapes, types and devices of `like`; None where there is none.

        A damaged checkpoint is set aside.
        """
        while (step := self.latest()) is not None:
            try:
                return step, self._load(step, like)
            except DamagedFile as error:
                set_aside(error)
                if self.latest() == step:  # the folder cannot be written
                    raise
        return None

    def _load(self, step: int, like: Any) -> Any:
        arrays, wanted = load_arrays(self._file(step), of=self._of(step), sealed=True), _by_name(like)
        if {name: (leaf.shape, leaf.dtype) for name, leaf in arrays.items()} != {
            name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()
        }:
            raise DamagedFile(self._file(step), "holds other arrays than this run saves")
        placed = [jax.device_put(arrays[name], leaf.sharding) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), placed)

    def clear(self) -> None:
        """Remove all checkpoints and the directory, and its parent where that is empty then."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other units or jobs have checkpoints there
            self._folder.parent.rmdir()

    def _file(self, step: int) -> Path:
        return self._folder / f"{step}.safetensors"

    def _of(self, step: int) -> str:
        return f"{self._identity}/{self._folder.name}/{step}"


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _make_folder(folder: Path) -> None:
    """Make a directory, though another job may remove its empty parent at the same moment."""
    for attempts_left in reversed(range(10)):
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if not attempts_left:
                raise
        except FileExistsError:
            set_aside(DamagedFile(folder, "is no folder"))
    return None
