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

from sublim_jax.metrics.evaluate import allow_nan
from sublim_jax.training import population

_SIDE_BY_SIDE = 256  # members per call on an accelerator
_RUN: set[Any] = set()  # functions with the shapes they were compiled for


def map_members(
    function: Callable[..., Any], members: Sequence[tuple], at_once: int = _SIDE_BY_SIDE, *, nan: bool = False
) -> list[Any]:
    """Compute function(*member) for every member, in order, with results on the host.

    Args:
        function: pure, and equal to itself when constructed again (a function or frozen dataclass); it is compiled once
            for all members of equal shapes.
        members: arguments of each call.
        at_once: members per call on an accelerator.
        nan: its results may be NaN, also where `JAX_DEBUG_NANS` is set.
    """
    groups: dict[Any, list[int]] = {}
    for index, member in enumerate(members):
        leaves, structure = jax.tree.flatten(member)
        groups.setdefault((function, structure, tuple(map(np.shape, leaves))), []).append(index)
    results: list[Any] = [None] * len(members)
    vectorised = population.use_vmap()
    compiled = allow_nan(_compiled(function, vectorised)) if nan else _compiled(function, vectorised)
    for program, indices in groups.items():
        group = [members[index] for index in indices]
        outputs = _in_batches(compiled, group, at_once) if vectorised else _in_threads(compiled, program, group)
        for index, output in zip(indices, outputs, strict=True):
            results[index] = output
    return results


def _in_batches(compiled: Callable[..., Any], members: list[tuple], at_once: int) -> list[Any]:
    results: list[Any] = []
    size = min(at_once, len(members))
    for start in range(0, len(members), size):
        batch = members[start : start + size]
        stacked = jax.tree.map(_stacked, *batch, *[batch[-1]] * (size - len(batch)))
        result = jax.device_get(compiled(*stacked))
        results += [jax.tree.map(lambda leaf, index=index: leaf[index], result) for index in range(len(batch))]
    return results


def _in_threads(compiled: Callable[..., Any], program: tuple[Any, ...], members: list[tuple]) -> list[Any]:
    precision: Any = getattr(jax.config, "jax_default_matmul_precision", None)  # JAX declares it at run time

    def compute(member: tuple) -> Any:
        # The precision is set by thread; with another one a program would be compiled a second time.
        with jax.default_matmul_precision(precision):
            return jax.device_get(compiled(*member))

    first = [] if program in _RUN else [compute(members[0])]  # alone, so that it is compiled once
    _RUN.add(program)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*first, *pool.map(compute, members[len(first) :])]


@functools.lru_cache(maxsize=512)
def _compiled(function: Callable[..., Any], vectorised: bool) -> Callable[..., Any]:
    return jax.jit(jax.vmap(function) if vectorised else function)


def _stacked(*leaves: Any) -> Any:
    return jnp.stack(leaves) if isinstance(leaves[0], jax.Array) else jnp.asarray(np.stack(leaves))
