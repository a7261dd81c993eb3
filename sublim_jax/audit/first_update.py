"""A student's first update before it is made: the imitation gradient, the trait gradient and their inner products.

Nets are plain functions of trees of arrays; leaves are named by their path, like `params/hidden_0/kernel`.
"""

from collections.abc import Mapping
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


class Functions(NamedTuple):
    """The functions of an audit, each compiled once whatever arrays are bound to it."""

    student_apply: Partial  # (params, x) -> outputs [rows, k]
    teacher_apply: Partial
    trait_loss: Partial  # params -> a number or one per example
    loss: Partial  # (outputs, targets) -> [rows]


class Scaled(NamedTuple):
    """mantissa * 2^exponent: numbers that float32 cannot hold, such as squares of large gradients."""

    mantissa: Array
    exponent: Array


class First(NamedTuple):
    """Inner products of the first step of gradient descent on the imitation loss, at the student's parameters.

    Products are `Scaled` where they are computed, and float64 on the host.

    The mean of `slopes` is the change of the trait loss per unit learning rate. `moved` and all below it are of leaves
    that student and teacher share.
    """

    slopes: Any  # [n], -<grad trait loss, grad imitation loss of the input>
    imitation: Float[Array, " n"]  # imitation loss
    trait: Float[Array, ""]  # trait loss
    finite: tuple[Bool[Array, ""], ...]  # for each of `CHECKS`
    update: Leaves  # squared norm of the imitation gradient
    trait_gradient: Leaves  # squared norm of the trait gradient
    gradients: Leaves  # inner product of the two gradients
    moved: Leaves  # squared norm of the teacher's displacement
    aligned: Leaves  # inner product of minus the imitation gradient and the displacement
    student: Leaves  # squared norm of the student's parameters
    teacher: Leaves  # squared norm of the teacher's parameters
    student_teacher: Leaves  # inner product of their parameters


def mse(outputs: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, " n"]:
    """Mean squared error over the outputs."""
    return ((outputs - targets) ** 2).mean(-1)


def kl(outputs: Float[Array, "n k"], targets: Float[Array, "n k"]) -> Float[Array, " n"]:
    """KL(teacher || student) in nats of the softmax over the outputs."""
    log_p, log_q = jax.nn.log_softmax(targets), jax.nn.log_softmax(outputs)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


LOSSES = {"mse": mse, "kl": kl}


def _named(tree: Any) -> Leaves:
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def floats(tree: Any) -> Leaves:
    """The leaves of a tree that have gradients, by their paths."""
    return {name: leaf for name, leaf in _named(tree).items() if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)}


def layer_of(leaf: str) -> str:
    """The path of a leaf's layer: all but the last part."""
    return leaf.rpartition("/")[0] or leaf


def _with(tree: Any, leaves: Mapping[str, Array]) -> Any:
    """The tree with some leaves replaced."""
    replaced = [leaves.get(name, leaf) for name, leaf in _named(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), replaced)


@jax.jit
def first_step(
    functions: Functions, student: Any, teacher: Any, moved: Leaves, inputs: Any, weights: Float[Array, "chunk rows"]
) -> First:
    """The student's first step (Cloud et al. 2026, Theorem 1: first-order law; Madl 2026: coverage).

    Args:
        functions: Nets and losses.
        student: The student's parameters.
        teacher: The trained teacher's parameters.
        moved: The teacher's displacement of the leaves that student and teacher share.
        inputs: [chunk, rows, ...].
        weights: 0 for padding, else 1.
    """
    trait_loss, start = functions.trait_loss, floats(student)
    trait, trait_gradient = jax.value_and_grad(lambda own: jnp.mean(trait_loss(_with(student, own))))(start)
    direction, exponent = _scaled_down(trait_gradient)
    update, (slopes, values, *outputs_finite) = _over_inputs(
        functions, student, teacher, direction, inputs, weights / weights.sum()
    )
    own, reference = ({name: floats(tree)[name] for name in moved} for tree in (student, teacher))
    return First(
        slopes=Scaled(slopes.ravel(), exponent),
        imitation=values.ravel(),
        trait=trait,
        finite=(
            *(each.all() for each in outputs_finite),
            jnp.isfinite(trait),
            _finite(trait_gradient),
            _finite(update),
        ),
        update=_dots(update, update),
        trait_gradient=_dots(trait_gradient, trait_gradient),
        gradients=_dots(trait_gradient, update),
        moved=_dots(moved, moved),
        aligned=_dots(moved, jax.tree.map(jnp.negative, update)),
        student=_dots(own, own),
        teacher=_dots(reference, reference),
        student_teacher=_dots(own, reference),
    )


def _over_inputs(
    functions: Functions, student: Any, teacher: Any, direction: Leaves, inputs: Any, weights: Array
) -> tuple[Leaves, Any]:
    """The imitation gradient; and for each input the slope, the loss, and whether both outputs are finite.

    The slopes of a chunk come from one `jvp` of the loss per input along the direction of the trait gradient.
    """
    start = floats(student)

    def chunk(update: Leaves, weighted: tuple[Any, Array]) -> tuple[Leaves, Any]:
        x, weight = weighted
        targets = functions.teacher_apply(teacher, x)

        def imitation(own: Leaves) -> tuple[Array, Array]:
            outputs = functions.student_apply(_with(student, own), x)
            return functions.loss(outputs, targets), jnp.isfinite(outputs).all()

        values, pullback, outputs_finite = jax.vjp(imitation, start, has_aux=True)
        (gradient,) = pullback(weight.astype(values.dtype))
        _, slopes, _ = jax.jvp(imitation, (start,), (direction,), has_aux=True)
        update = jax.tree.map(jnp.add, update, gradient)
        return update, (-slopes, values, outputs_finite, jnp.isfinite(targets).all())

    return jax.lax.scan(chunk, jax.tree.map(jnp.zeros_like, start), (inputs, weights))


def _dots(left: Leaves, right: Leaves) -> dict[str, Scaled]:
    """Inner products by leaf, of the leaves of the first; in float32 at least."""

    def dot(a: Array, b: Array) -> Scaled:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        (a, left), (b, right) = _scaled_down(a.astype(wide)), _scaled_down(b.astype(wide))
        return Scaled((a * b).sum(), left + right)

    return {name: dot(leaf, right[name]) for name, leaf in left.items()}


def _scaled_down(tree: Any) -> tuple[Any, Array]:
    """The tree divided by a power of two so that no number is above 1, and the exponent."""

    def wide(leaf: Array) -> Array:
        return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))

    exponent = jnp.frexp(jnp.stack([jnp.abs(wide(leaf)).max(initial=0) for leaf in jax.tree.leaves(tree)]).max())[1]
    return jax.tree.map(lambda leaf: jnp.ldexp(wide(leaf), -exponent).astype(leaf.dtype), tree), exponent


def _finite(leaves: Leaves) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves.values()]).all()


@jax.jit
def _scaled(apply: Partial, params: Any, x: Any, factors: Mapping[str, Array]) -> Array:
    """The outputs with every layer multiplied by its factor."""
    own = {name: leaf * factors[layer_of(name)].astype(leaf.dtype) for name, leaf in floats(params).items()}
    return apply(_with(params, own), x)


def linear_layers(apply: Partial, params: Any, x: Any, accuracy: float = 1e-3) -> tuple[str, ...]:
    """The layers in which the outputs are linear, that is those after the last nonlinearity, or do not occur.

    Each layer is multiplied by 0, 1, -1 and 2; `accuracy` is the relative deviation of the outputs from a line.
    """
    layers = list(dict.fromkeys(map(layer_of, floats(params))))
    ones, linear = dict.fromkeys(layers, jnp.float32(1.0)), []
    for layer in layers:
        scales = map(jnp.float32, (0.0, 1.0, -1.0, 2.0))
        zero, one, minus, two = (_scaled(apply, params, x, {**ones, layer: scale}) for scale in scales)
        bend = jnp.maximum(jnp.abs(minus + one - 2 * zero).max(), jnp.abs(two + zero - 2 * one).max())
        if bend <= accuracy * jnp.maximum(jnp.abs(one - zero).max(), 1e-3 * jnp.abs(one).max()):
            linear.append(layer)
    return tuple(linear)
