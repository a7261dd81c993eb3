"""Divide a function into stages: each operation runs when the arguments that it depends on are known.

The arguments of a measurement become known one after another: data, the teacher of a seed, the initial student of a
condition, the student at a step. What does not depend on the step is then computed once and not at every step.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

DATA, SEED, CONDITION, STEP = range(4)  # what an argument belongs to; later stages know the arguments of earlier ones
_CONSTANT = -1  # the stage of what depends on no argument, which is never kept

_CALLS = {"jit", "pjit", "closed_call", "custom_jvp_call"}  # calls of functions, whose operations are divided too
# Cheaper to repeat than to keep.
_VIEWS = {"transpose", "reshape", "squeeze", "broadcast_in_dim", "expand_dims", "iota", "slice", "copy"}

Values = dict[core.Var, Any]


class Stages:
    """The operations of a function by stage.

    Args:
        function: A function of one tuple of arguments; returns a dictionary of arrays.
        arguments: The arguments, or their shapes, as one tuple.
        stages: The stage of every leaf of the arguments.
        kept: Stages whose intermediate results are kept for later stages, which otherwise repeat the operations.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: Any, stages: Sequence[int], kept: Iterable[int] = (0, 1, 2)
    ) -> None:
        leaves, structure = jax.tree.flatten(arguments)
        names: list[str] = []

        def flat(*leaves: Any) -> list[Any]:
            results = function(jax.tree.unflatten(structure, leaves))
            names[:] = results
            return [*results.values()]

        nested = jax.make_jaxpr(flat)(*leaves)
        closed = jax.make_jaxpr(lambda *values: _inline(nested.jaxpr, nested.consts, values))(*leaves)
        self._jaxpr, self.names = closed.jaxpr, tuple(names)
        self._constants: Values = dict(zip(self._jaxpr.constvars, closed.consts, strict=True))
        self._stage = _stages(self._jaxpr, stages)
        self._argument_stages = tuple(stages)
        self._made_by = {var: equation for equation in self._jaxpr.eqns for var in equation.outvars}
        self._kept_stages = set(kept)
        self._wanted = self._results()

    def arguments(self, leaves: Sequence[Any], stage: int) -> Values:
        """The values of the arguments that become known at a stage, from one value for each of these."""
        own = [var for var, when in zip(self._jaxpr.invars, self._argument_stages, strict=True) if when == stage]
        return dict(zip(own, leaves, strict=True)) | (self._constants if stage == DATA else {})

    def kept(self, values: Sequence[Any], stage: int) -> Values:
        """The values that `run` returned for a stage, as known values."""
        return dict(zip(self._wanted[stage], values, strict=True))

    def run(self, stage: int, known: Values) -> tuple[list[Any], dict[str, Any]]:
        """Compute what later stages need of a stage, and the results that are known at it.

        Args:
            stage: The stage.
            known: Values of all arguments up to this stage, and what was kept of earlier stages.
        """
        wanted, columns = self._wanted[stage], self._columns(stage)
        operations = self._operations(wanted, set(known))
        values = known | _bind(self._jaxpr, operations, wanted, known)
        return [values[var] for var in wanted], {name: _read(var, values) for name, var in columns}

    def kept_bytes(self, stage: int) -> int:
        """The memory of what is kept of a stage, in bytes."""
        shapes: list[Any] = [var.aval for var in self._wanted[stage]]
        return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in shapes)

    def _columns(self, stage: int) -> list[tuple[str, Any]]:
        """Names and variables of the results that are known at a stage and not before."""
        results = zip(self.names, self._jaxpr.outvars, strict=True)
        return [(name, var) for name, var in results if self._when(var) == stage]

    def _when(self, var: Any) -> int:
        return DATA if isinstance(var, core.Literal) else max(DATA, self._stage[var])

    def _results(self) -> dict[int, list[core.Var]]:
        """What each stage hands to later ones, and its results."""
        wanted: dict[int, list[core.Var]] = {}
        needed: set[core.Var] = set()
        for stage in (STEP, CONDITION, SEED, DATA):
            own = [var for _, var in self._columns(stage) if not isinstance(var, core.Literal)]
            own += [var for var in needed if self._when(var) == stage]
            # In the order of the program: a compiled program is found on disk by its text.
            chosen = set(own)
            wanted[stage] = [var for var in self._made_by if var in chosen]
            needed |= self._inputs(wanted[stage], stage)
        return wanted

    def _inputs(self, wanted: Iterable[core.Var], stage: int) -> set[core.Var]:
        """Kept values of earlier stages from which a stage computes what is wanted."""
        return {
            var
            for equation in self._operations(wanted, set(), stage)
            for var in equation.invars
            if not isinstance(var, core.Literal) and self._is_kept(var, stage)
        }

    def _is_kept(self, var: core.Var, stage: int) -> bool:
        made_by, when = self._made_by.get(var), self._stage[var]
        if made_by is None or when >= stage:
            return False
        return when in self._kept_stages and made_by.primitive.name not in _VIEWS

    def _operations(self, wanted: Iterable[core.Var], known: set[core.Var], stage: int | None = None) -> list[Any]:
        """The operations, in order, that compute what is wanted from known values or from what is kept for a stage."""
        needed = {var for var in wanted if var not in known}
        operations = []
        for equation in reversed(self._jaxpr.eqns):
            if needed.isdisjoint(equation.outvars):
                continue
            operations.append(equation)
            inputs = {var for var in equation.invars if not isinstance(var, core.Literal)} - known
            needed |= {var for var in inputs if stage is None or not self._is_kept(var, stage)}
        return operations[::-1]


def _stages(jaxpr: core.Jaxpr, stages: Sequence[int]) -> dict[core.Var, int]:
    """The earliest stage at which each variable is known."""
    known = dict.fromkeys(jaxpr.constvars, DATA) | dict(zip(jaxpr.invars, stages, strict=True))
    for equation in jaxpr.eqns:
        inputs = [known[var] for var in equation.invars if not isinstance(var, core.Literal)]
        known |= dict.fromkeys(equation.outvars, max(inputs, default=_CONSTANT))
    return known


def _inline(
    jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], done: dict[Any, Any] | None = None
) -> list[Any]:
    """Compute a program with the operations of the functions that it calls in place of the calls.

    An operation on the same inputs is computed once; `done` holds the results of earlier ones.
    """
    values: Values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    done = {} if done is None else done
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        inputs = [_read(var, values) for var in equation.invars]
        if equation.primitive.name in _CALLS and isinstance(inner, core.ClosedJaxpr):
            outputs = _inline(inner.jaxpr, inner.consts, inputs, done)
        else:
            operation = equation.primitive, str(equation.params), tuple(map(_name, inputs))
            if operation not in done:
                results = _bind(jaxpr, [equation], equation.outvars, values)
                done[operation] = [results[var] for var in equation.outvars], inputs
            outputs = done[operation][0]
        values |= zip(equation.outvars, outputs, strict=True)
    return [_read(var, values) for var in jaxpr.outvars]


def _bind(jaxpr: core.Jaxpr, equations: Sequence[Any], outputs: Sequence[core.Var], values: Values) -> Values:
    """The outputs of some operations of a program."""
    made = {var for equation in equations for var in equation.outvars}
    used = (var for equation in equations for var in equation.invars if not isinstance(var, core.Literal))
    inputs = list(dict.fromkeys(var for var in used if var not in made))
    info = jaxpr.debug_info.with_unknown_names()
    part = jaxpr.replace(constvars=[], invars=inputs, outvars=[*outputs], eqns=[*equations], debug_info=info)
    results = core.jaxpr_as_fun(core.ClosedJaxpr(part, []))(*(values[var] for var in inputs))
    return dict(zip(outputs, results, strict=True))


def _name(value: Any) -> Any:
    """What tells a value from others: of a literal its type and value, else its identity, so that it must be kept."""
    return (value.dtype, value.item()) if isinstance(value, np.ndarray) and not value.ndim else id(value)


def _read(var: Any, values: Values) -> Any:
    """The value of a variable; a literal with its type."""
    aval: Any = var.aval
    return np.asarray(var.val, aval.dtype) if isinstance(var, core.Literal) else values[var]
