"""A student's first update before it is made: the imitation gradient, the trait gradient and their inner products.

Nets are plain functions of trees of arrays; leaves are named by their path, like `params/hidden_0/kernel`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

CHECKS = (  # what must be finite, causes before effects
    "student_apply: the student's outputs",
    "teacher_apply: the teacher's outputs",
    "trait_loss: its value",
    "trait_loss: its gradient",
    "loss: its gradient",
)
Leaves = dict[str, Any]  # arrays by path


class First(NamedTuple):
    """Inner products of the first step of gradient descent on the imitation loss, at the student's parameters.

    Attributes:
        slopes: [input] -<grad trait loss, grad imitation loss of the input>; their mean is the change of the trait
            loss per unit learning rate.
        imitation: [input] imitation loss.
        trait: Trait loss.
        finite: For each of `CHECKS` whether it is finite.
        update: Squared norm of the imitation gradient, by leaf.
        trait_gradient: Squared norm of the trait gradient, by leaf.
        gradients: Inner product of the two gradients, by leaf.
        moved: Squared norm of the teacher's displacement, by shared leaf.
        aligned: Inner product of minus the imitation gradient and the displacement, by shared leaf.
        student: Squared norm of the student's parameters, by shared leaf.
        teacher: Squared norm of the teacher's parameters, by shared leaf.
        student_teacher: Inner product of their parameters, by shared leaf.
    """

    slopes: Float[Array, " n"]
    imitation: Float[Array, " n"]
    trait: Float[Array, ""]
    finite: dict[str, Bool[Array, ""]]
    update: Leaves
    trait_gradient: Leaves
    gradients: Leaves
    moved: Leaves
    aligned: Leaves
    student: Leaves
    teacher: Leaves
    student_teacher: Leaves


def mse(outputs: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, " n"]:
    """Mean squared error over the outputs."""
    return ((outputs - targets) ** 2).mean(-1)


def kl(outputs: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, " n"]:
    """KL(teacher || student) in nats of the softmax over the outputs."""
    log_p, log_q = jax.nn.log_softmax(targets), jax.nn.log_softmax(outputs)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


LOSSES = {"mse": mse, "kl": kl}


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def floats(tree: Any) -> Leaves:
    """The leaves of a tree that have gradients."""
    return {name: leaf for name, leaf in named(tree).items() if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)}


def layer_of(leaf: str) -> str:
    """The path of a leaf's layer: all but the last part."""
    return leaf.rpartition("/")[0] or leaf


def _with(tree: Any, leaves: Mapping[str, Array]) -> Any:
    """The tree with some leaves replaced."""
    replaced = [leaves.get(name, leaf) for name, leaf in named(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), replaced)


@jax.jit
def first_step(
    student_apply: Partial,
    teacher_apply: Partial,
    trait_loss: Partial,
    loss: Partial,
    student: Any,
    teacher: Any,
    moved: Leaves,
    inputs: Any,
    weights: Float[Array, "chunk rows"],
) -> First:
    """The student's first step (Cloud et al. 2026, Theorem 1: first-order law; Madl 2026: coverage).

    The slopes of all inputs come from one `jvp` of the loss per input along the gradient of the trait loss.

    Args:
        student_apply: (params, x) -> outputs [rows, k]; likewise `teacher_apply`.
        teacher_apply: See `student_apply`.
        trait_loss: params -> a number or one per example.
        loss: (outputs, targets) -> [rows].
        student: The student's parameters.
        teacher: The trained teacher's parameters.
        moved: The teacher's displacement of the leaves that student and teacher share.
        inputs: [chunk, rows, ...].
        weights: 0 for padding, else 1.
    """
    trait, trait_gradient = jax.value_and_grad(lambda own: jnp.mean(trait_loss(_with(student, own))))(floats(student))

    def chunk(update: Leaves, weighted: tuple[Any, Array]) -> tuple[Leaves, Any]:
        x, weight = weighted
        targets = teacher_apply(teacher, x)

        def each(own: Leaves) -> tuple[Array, Array]:
            outputs = student_apply(_with(student, own), x)
            return loss(outputs, targets), jnp.isfinite(outputs).all()

        values, pullback, outputs_finite = jax.vjp(each, floats(student), has_aux=True)
        (gradient,) = pullback((weight / weights.sum()).astype(values.dtype))
        _, slopes, _ = jax.jvp(each, (floats(student),), (trait_gradient,), has_aux=True)
        update = jax.tree.map(jnp.add, update, gradient)
        return update, (-slopes, values, outputs_finite, jnp.isfinite(targets).all())

    zero = jax.tree.map(jnp.zeros_like, floats(student))
    update, (slopes, values, ours, theirs) = jax.lax.scan(chunk, zero, (inputs, weights))
    finite = (ours.all(), theirs.all(), jnp.isfinite(trait), _finite(trait_gradient), _finite(update))
    own, reference = ({name: floats(tree)[name] for name in moved} for tree in (student, teacher))
    return First(
        slopes.ravel(),
        values.ravel(),
        trait,
        dict(zip(CHECKS, finite, strict=True)),
        _dots(update, update),
        _dots(trait_gradient, trait_gradient),
        _dots(trait_gradient, update),
        _dots(moved, moved),
        {name: -dot for name, dot in _dots(moved, update).items()},
        _dots(own, own),
        _dots(reference, reference),
        _dots(own, reference),
    )


def _dots(left: Leaves, right: Leaves) -> Leaves:
    """Inner products by leaf, of the leaves of the first; in float32 at least."""

    def dot(a: Array, b: Array) -> Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return (a.astype(wide) * b.astype(wide)).sum()

    return {name: dot(one, right[name]) for name, one in left.items()}


def _finite(leaves: Leaves) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves.values()]).all()


@jax.jit
def _scaled(apply: Partial, params: Any, x: Any, factors: Mapping[str, Array]) -> Array:
    """The outputs with every layer multiplied by its factor."""
    own = {name: leaf * factors[layer_of(name)].astype(leaf.dtype) for name, leaf in floats(params).items()}
    return apply(_with(params, own), x)


def linear_layers(apply: Callable[..., Any], params: Any, x: Any, accuracy: float = 1e-3) -> tuple[str, ...]:
    """The layers in which the outputs are linear, that is those after the last nonlinearity, or do not occur.

    Each layer is multiplied by 0, 1, -1 and 2; `accuracy` is the relative deviation of the outputs from a line.
    """
    layers = list(dict.fromkeys(layer_of(name) for name in floats(params)))

    def outputs(layer: str, factor: float) -> Array:
        return _scaled(apply, params, x, {one: jnp.float32(factor if one == layer else 1.0) for one in layers})

    linear = []
    for layer in layers:
        zero, one, minus, two = (outputs(layer, factor) for factor in (0.0, 1.0, -1.0, 2.0))
        bend = jnp.maximum(jnp.abs(minus + one - 2 * zero).max(), jnp.abs(two + zero - 2 * one).max())
        if bend <= accuracy * jnp.maximum(jnp.abs(one - zero).max(), 1e-3 * jnp.abs(one).max()):
            linear.append(layer)
    return tuple(linear)
