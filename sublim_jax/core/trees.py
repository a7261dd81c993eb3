"""Operations on trees of arrays: stack trees, index them, set one number per layer, transpose and merge layers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Params


@struct.dataclass
class Stack:
    """Several trees of one structure stored as one tree; a leaf that is equal in all trees is stored once.

    `vmap` then computes once whatever depends on unstacked leaves only, such as noise and teacher outputs.

    Attributes:
        tree: leaves [size, ...] where the trees differ, [...] where they are equal.
        axes: for each leaf 0 (stacked) or None (stored once).
        size: number of trees.
    """

    tree: Any
    axes: tuple[int | None, ...] = struct.field(pytree_node=False)
    size: int = struct.field(pytree_node=False)

    def in_axes(self) -> Any:
        """Return the axes as a tree, in the form that `vmap` takes as `in_axes`."""
        return jax.tree.unflatten(jax.tree.structure(self.tree), self.axes)

    def member(self, index: int) -> Any:
        """Return the tree at `index`."""
        leaves, structure = jax.tree.flatten(self.tree)
        own = [leaf if axis is None else leaf[index] for leaf, axis in zip(leaves, self.axes, strict=True)]
        return jax.tree.unflatten(structure, own)

    def zip(self, other: "Stack") -> "Stack":
        """Return the stack of pairs (tree of this stack, tree of `other`)."""
        return Stack((self.tree, other.tree), self.axes + other.axes, self.size)


def stack(trees: Sequence[Any]) -> Stack:
    """Stack trees as NumPy arrays; raises `ValueError` where structures or leaf shapes differ."""
    rows, structures = zip(*map(jax.tree.flatten, trees), strict=True)
    if len(set(structures)) > 1:
        raise ValueError(f"trees differ in structure: {set(structures)}")
    leaves, axes = [], []
    for column in zip(*rows, strict=True):
        arrays = [np.asarray(leaf) for leaf in column]
        equal = all(np.array_equal(arrays[0], array) for array in arrays)
        axes.append(None if equal else 0)
        leaves.append(arrays[0] if equal else np.stack(arrays))
    return Stack(jax.tree.unflatten(structures[0], leaves), tuple(axes), len(trees))


def per_layer(layers: Iterable[str], default: float, changes: Mapping[str, float], field: str) -> dict[str, Any]:
    """Return one float32 number per layer: that of `changes` where it names the layer, else `default`.

    A layer of `changes` that does not exist raises `ConfigError`; the message begins with `field`.
    """
    names = tuple(layers)
    for name in changes:
        if name not in names:
            raise ConfigError(unknown_name(field, name, names))
    return jax.device_put({name: np.float32(changes.get(name, default)) for name in names})  # compiles nothing


def index(tree: Any, index: int) -> Any:
    """Return the tree of `leaf[index]` for every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def transpose_kernels(tree: Any, stacked: int = 0) -> Any:
    """Transpose every `kernel` that is a matrix (not of a convolution) behind `stacked` leading batch axes."""

    def turn(path: tuple[Any, ...], leaf: Any) -> Any:
        is_matrix = getattr(path[-1], "key", None) == "kernel" and leaf.ndim - stacked == 2
        return jnp.swapaxes(leaf, -1, -2) if is_matrix else leaf

    return jax.tree_util.tree_map_with_path(turn, tree)


def merge_layers(below: Params, above: Params) -> dict[str, Any]:
    """Return all layers of both trees; a layer that both contain is taken from `above`."""
    return {**below, **above}


_LOOSE = "./"  # before the name of an array that a module holds itself, in no layer


def flatten_layers(params: Params) -> dict[str, dict[str, Any]]:
    """A Linen module's parameters by layer and array; an array of a submodule is named by its path, `query/kernel`."""
    layers = {name: part if isinstance(part, Mapping) else {f"{_LOOSE}{name}": part} for name, part in params.items()}
    return {name: traverse_util.flatten_dict(dict(layer), sep="/") for name, layer in layers.items()}


def unflatten_layers(params: Params) -> dict[str, Any]:
    """Parameters as the Linen module has them: the inverse of `flatten_layers`."""
    return {
        name: layer.get(f"{_LOOSE}{name}", traverse_util.unflatten_dict(dict(layer), sep="/"))
        for name, layer in params.items()
    }


def all_finite(tree: Any) -> Any:
    """Return whether no array holds NaN or infinity, as a traced boolean."""
    # One reduction of all numbers, because on CPU each is a dozen operations to compile; without the barrier XLA
    # divides it into one for each array again.
    joined = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    return jnp.isfinite(jax.lax.optimization_barrier(joined)).all()


def count(tree: Any) -> int:
    """Count the elements of all arrays (or shapes) in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
