"""Runs of one pure function for many members: vectorised on accelerators, in threads on CPU.

A member is small (10^5 weights, some thousand lines) and its products do not fill a core; two members in two threads
take a quarter less time than two in one program (measured; see BUILD.md).
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sublim_jax.training import population

_SIDE_BY_SIDE = 256  # members per call on an accelerator


def map_members(function: Callable[..., Any], members: Sequence[tuple], at_once: int = _SIDE_BY_SIDE) -> list[Any]:
    """Compute function(*member) for every member, in order, with results on the host.

    Args:
        function: pure, and equal to itself when constructed again (a function or frozen dataclass); it is compiled once
            for all members of equal shapes.
        members: arguments of each call.
        at_once: members per call on an accelerator.
    """
    if not members:
        return []
    if not population.use_vmap():
        return _in_threads(_compiled(function), members)
    results: list[Any] = []
    size = min(at_once, len(members))
    for start in range(0, len(members), size):
        batch = list(members[start : start + size])
        stacked = _stacked([*batch, *[batch[-1]] * (size - len(batch))])
        result = jax.device_get(_side_by_side(function)(*stacked))
        results += [jax.tree.map(lambda leaf, index=index: leaf[index], result) for index in range(len(batch))]
    return results


def _in_threads(function: Callable[..., Any], members: Sequence[tuple]) -> list[Any]:
    compiled = _compiled(function)

    def one(member: tuple) -> Any:
        return jax.device_get(compiled(*member))

    shapes = jax.tree.structure(members[0]), tuple(np.shape(leaf) for leaf in jax.tree.leaves(members[0]))
    first = [] if (function, shapes) in _RUN else [one(members[0])]  # alone, so that it is compiled once
    _RUN.add((function, shapes))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*first, *pool.map(one, members[len(first) :])]


_RUN: set[Any] = set()  # functions with the shapes they were compiled for


@functools.lru_cache(maxsize=256)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


@functools.lru_cache(maxsize=256)
def _side_by_side(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(jax.vmap(function))


def _stacked(members: Sequence[tuple]) -> Any:
    def stack(*leaves: Any) -> Any:
        return jnp.stack(leaves) if isinstance(leaves[0], jax.Array) else jnp.asarray(np.stack(leaves))

    return jax.tree.map(stack, *members)
