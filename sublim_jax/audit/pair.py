"""Audit a teacher and a student before distillation: does the first update follow the teacher's displacement?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from sublim_jax.audit import first_update
from sublim_jax.audit.calibration import Verdict, verdict
from sublim_jax.audit.first_update import First, Functions, layer_of
from sublim_jax.core import compiler
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.results import summary
from sublim_jax.results.summary import Interval

_NUM_PROBES = 16  # inputs on which output layers are detected


class Audit(NamedTuple):
    """Measurements of a pair before distillation; every cosine is NaN where one of its vectors is zero.

    Attributes:
        coverage: Cosine of the student's first update and the teacher's displacement, over shared leaves.
        layers: The same by layer.
        heads: Cosine of the student's and the teacher's parameters, by head; NaN where not shared.
        compatibility_aux: Cosine of the heads through which the student imitates.
        compatibility_class: Cosine of the heads through which the trait is measured.
        trait_change: First-order change of the trait loss per unit learning rate (negative = learned), with its 95 %
            interval over inputs.
        trait_cosine: Cosine of the two gradients; positive = the first update learns the trait.
        trait_loss: Trait loss at the student's parameters.
        imitation_loss: Imitation loss at the student's parameters.
        slopes: [inputs] of which `trait_change` is the mean.
        inputs: Number of inputs.
        unshared: Leaves of the student that the teacher lacks or has in another shape.
        verdict: Prediction of the calibration.
    """

    coverage: float
    layers: dict[str, float]
    heads: dict[str, float]
    compatibility_aux: float
    compatibility_class: float
    trait_change: Interval
    trait_cosine: float
    trait_loss: float
    imitation_loss: float
    slopes: np.ndarray
    inputs: int
    unshared: tuple[str, ...]
    verdict: Verdict

    def __str__(self) -> str:
        change = self.trait_change
        ends = "" if np.isnan(change.low) else f" [{change.low:.3g}, {change.high:.3g}]"
        return (
            f"audit on {self.inputs:,} inputs\n"
            f"  coverage      {_number(self.coverage)}   ({_list(self.layers)})\n"
            f"  heads         {_list(self.heads) or 'none'}\n"
            f"  trait loss    {self.trait_loss:.4g}; per unit learning rate {change.mean:+.3g}{ends}\n"
            f"  gradients     cosine {_number(self.trait_cosine)} between trait and imitation\n"
            + (f"  not shared    {', '.join(self.unshared)}\n" if self.unshared else "")
            + f"  verdict       {self.verdict}"
        )


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _list(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def audit_pair(  # noqa: PLR0913  what a pair is
    student_apply: Callable[..., Any],
    student_params: Any,
    teacher_params: Any,
    trait_params0: Any,
    inputs: Any,
    trait_loss: Callable[..., Any],
    *,
    teacher_apply: Callable[..., Any] | None = None,
    loss: str | Callable[..., Any] = "mse",
    heads: Sequence[str] | None = None,
    batch: int = 1000,
    calibration: Mapping[str, Any] | None = None,
) -> Audit:
    """Audit a student that is about to imitate a teacher (Cloud et al. 2026, Theorem 1; Madl 2026).

    Args:
        student_apply: (params, inputs) -> [n, k], the imitated outputs; each row depends on its own input. A function
            that holds arrays is compiled again for each of them; `jax.tree_util.Partial(f, arrays)` is not.
        student_params: Before distillation.
        teacher_params: After the teacher acquired the trait.
        trait_params0: Before the teacher acquired the trait; the same tree.
        inputs: [n, ...] of the distillation, or a tree of arrays with one leading axis.
        trait_loss: params -> a number or one per example, of the student's parameters.
        teacher_apply: Default: `student_apply`.
        loss: 'mse', 'kl', or (outputs, targets) -> [n].
        heads: Paths of layers, or their last parts; default: the layers in which the imitated outputs are linear.
        batch: Number of inputs at a time.
        calibration: As `calibration.load` returns it; default: the one in the package.

    Returns:
        Coverage, compatibilities, predicted change of the trait loss, and a verdict.

    Raises:
        ConfigError: Trees do not match, outputs are not finite or not [n, k], or there are no inputs.

    Example:
        >>> import jax.numpy as jnp, sublim_jax as sl
        >>> w, moved, x = jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.eye(2)
        >>> trait = lambda params: ((params["w"] - moved) ** 2).sum()
        >>> read = lambda params, x: x @ params["w"]
        >>> round(sl.audit_pair(read, {"w": w}, {"w": moved}, {"w": w}, x, trait).coverage, 3)
        1.0
    """
    compiler.check_derivatives()
    apply = _partial(student_apply)
    taught = apply if teacher_apply is None else _partial(teacher_apply)
    functions = Functions(apply, taught, _partial(trait_loss), _loss(loss))
    moved, unshared = _moved(student_params, teacher_params, trait_params0)
    number = _count(inputs, batch)
    _check_shapes(functions, student_params, teacher_params, inputs, number)
    chunks, weights = _chunks(inputs, number, min(batch, number))
    first = first_update.first_step(functions, student_params, teacher_params, moved, chunks, weights)
    first = jax.tree.map(_on_host, first, is_leaf=lambda part: isinstance(part, first_update.Scaled))
    for checked, finite in zip(first_update.CHECKS, first.finite, strict=True):
        if not finite:
            raise ConfigError(f"{checked} must be finite; got NaN or infinity")
    _check_slopes(first, number)
    if heads is not None:
        return _audit(first, [_layer(name, first) for name in heads], unshared, number, calibration)
    probes = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:_NUM_PROBES], inputs)
    linear = first_update.linear_layers(apply, student_params, probes)
    used = [name for name in linear if _total(first.update, name) or _total(first.trait_gradient, name)]
    return _audit(first, used, unshared, number, calibration)


def _on_host(part: Any) -> np.ndarray:
    """An array, or a scaled one, in float64."""
    if isinstance(part, first_update.Scaled):
        part = np.ldexp(np.asarray(part.mantissa, np.float64), np.asarray(part.exponent))
    return np.asarray(part, np.float64)


def _check_slopes(first: First, number: int) -> None:
    """Compare two ways to one number: forward mode input by input, and the inner product of the two gradients."""
    forward, inner = float(first.slopes[:number].mean()), -_total(first.gradients)
    if abs(forward - inner) > 1e-2 * np.sqrt(_total(first.update) * _total(first.trait_gradient)):
        raise ConfigError(
            f"trait_loss: its mean slope {forward:.4g} and the inner product of the gradients {inner:.4g} must agree; "
            "the compiler returned a wrong derivative, or one of the functions is not differentiable"
        )


def _audit(
    first: First, heads: Sequence[str], unshared: tuple[str, ...], number: int, calibration: Mapping[str, Any] | None
) -> Audit:
    """The audit that follows from the inner products."""

    def compatibility(*layers: str) -> float:
        return _cosine(first.student_teacher, first.student, first.teacher, *layers) if layers else float("nan")

    shared = {name: first.update[name] for name in first.moved}
    # The trait is measured through some heads, and the student imitates some; both lists may contain one head.
    trait = [name for name in heads if _total(first.trait_gradient, name)]
    imitated = [name for name in heads if _total(first.update, name)]
    imitated = [name for name in imitated if name not in trait] or imitated
    values = {
        "coverage": _cosine(first.aligned, shared, first.moved),
        "compatibility_aux": compatibility(*imitated),
        "compatibility_class": compatibility(*trait),
    }
    slopes = np.asarray(first.slopes[:number])
    return Audit(
        **values,
        layers={layer: _cosine(first.aligned, shared, first.moved, layer) for layer in _layers(first.moved)},
        heads={name: compatibility(name) for name in heads},
        trait_change=summary.interval(slopes.tolist()),
        trait_cosine=_cosine(first.gradients, first.update, first.trait_gradient),
        trait_loss=float(first.trait),
        imitation_loss=float(first.imitation[:number].mean()),
        slopes=slopes,
        inputs=number,
        unshared=unshared,
        verdict=verdict(values, calibration),
    )


def _layers(leaves: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(map(layer_of, leaves)))


def _total(leaves: Mapping[str, Any], *layers: str) -> float:
    """The sum over the leaves of some layers, or of all."""
    return float(sum(value for name, value in leaves.items() if not layers or layer_of(name) in layers))


def _cosine(dots: Mapping[str, Any], left: Mapping[str, Any], right: Mapping[str, Any], *layers: str) -> float:
    """The cosine of two trees from inner product and squared norms by leaf; NaN where one of them is zero."""
    size = np.sqrt(_total(left, *layers) * _total(right, *layers))
    return float(_total(dots, *layers) / size) if size > 0 else float("nan")


def _layer(name: str, first: First) -> str:
    """The path of the layer of that name; raises `ConfigError` where there is none, or more than one."""
    layers = _layers(first.update)
    matching = [layer for layer in layers if layer == name or layer.endswith(f"/{name}")]
    if not matching:
        raise ConfigError(unknown_name("heads", name, layers))
    if len(matching) > 1 and name not in matching:
        several = f"{name!r} is {len(matching)} layers, {', '.join(matching)}"
        raise ConfigError(f"heads: {several}; give the whole path of one")
    return name if name in matching else matching[0]


def _partial(function: Callable[..., Any]) -> Partial:
    """The function as a `Partial`, compiled once for each function whatever arrays are bound to it."""
    if isinstance(function, Partial):
        return function
    try:
        hash(function)
    except TypeError:
        return Partial(lambda *args: function(*args))
    return Partial(function)


def _loss(loss: str | Callable[..., Any]) -> Partial:
    if isinstance(loss, str) and loss not in first_update.LOSSES:
        raise ConfigError(unknown_name("loss", loss, first_update.LOSSES))
    return _partial(first_update.LOSSES[loss] if isinstance(loss, str) else loss)


def _moved(student: Any, teacher: Any, before: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The teacher's displacement by leaf that the student shares by path and shape, and the student's other leaves."""
    own, after, start = (first_update.floats(tree) for tree in (student, teacher, before))
    _check_alike(after, start)
    shared = [name for name, leaf in own.items() if name in after and jnp.shape(leaf) == jnp.shape(after[name])]
    if not shared:
        raise ConfigError("student_params: share no leaf with teacher_params by path and shape; coverage needs one")
    moved = {name: jnp.asarray(after[name]) - jnp.asarray(start[name]) for name in shared}
    if not any(np.any(leaf) for leaf in moved.values()):
        raise ConfigError("teacher_params: are trait_params0 in all that is shared; give the teacher before and after")
    return moved, tuple(name for name in own if name not in moved)


def _check_alike(after: Mapping[str, Any], start: Mapping[str, Any]) -> None:
    for name in sorted(after.keys() ^ start.keys()):
        verb = "lack" if name in after else "have, and teacher_params lack,"
        raise ConfigError(f"trait_params0: {verb} {name!r}; must be the tree of teacher_params")
    for name, leaf in after.items():
        ours, theirs = jnp.shape(start[name]), jnp.shape(leaf)
        if ours != theirs:
            different = f"{name!r} is {ours}, but {theirs} in teacher_params"
            raise ConfigError(f"trait_params0: {different}; must be the tree of teacher_params")


def _count(inputs: Any, batch: int) -> int:
    """The number of inputs."""
    if batch < 1:
        raise ConfigError(f"batch={batch}: must be 1 or more")
    numbers = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if not numbers or numbers == {(0,)}:
        raise ConfigError("inputs: there are none; give at least one")
    if len(numbers) > 1 or numbers == {()}:
        raise ConfigError(f"inputs: leading axes {sorted(numbers)}; all arrays must have the same one")
    return numbers.pop()[0]


def _check_shapes(functions: Functions, student: Any, teacher: Any, inputs: Any, number: int) -> None:
    """Refuse outputs that are not [n, k] or not alike, and losses of another shape."""
    ours = jax.eval_shape(functions.student_apply, student, inputs)
    theirs = jax.eval_shape(functions.teacher_apply, teacher, inputs)
    for owner, out in (("student", ours), ("teacher", theirs)):
        shape = getattr(out, "shape", type(out).__name__)
        if len(shape) != 2 or shape[0] != number:
            raise ConfigError(f"{owner}_apply: gives {shape}; must give [{number}, k]")
    if ours.shape != theirs.shape:
        raise ConfigError(f"student_apply: gives {ours.shape}, but the teacher gives {theirs.shape}; must be the same")
    if (shape := jax.eval_shape(functions.loss, ours, theirs).shape) != (number,):
        raise ConfigError(f"loss: gives {shape}; must give one number per input, ({number},)")
    if len(shape := jax.eval_shape(functions.trait_loss, student).shape) > 1:
        raise ConfigError(f"trait_loss: gives {shape}; must give a number, or one per example")


def _chunks(inputs: Any, number: int, batch: int) -> tuple[Any, jax.Array]:
    """Inputs as [chunk, batch, ...] padded with the last one, and weights that are 0 for padding."""
    index = np.arange(-(-number // batch) * batch)
    rows = np.minimum(index, number - 1).reshape(-1, batch)
    weights = (index < number).astype(np.float32).reshape(-1, batch)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], inputs), jnp.asarray(weights)
