"""What one small step on another's outputs does: Theorem 1 of Cloud et al. 2026, for any model, loss and inputs.

A teacher stands at params + eps * displacement. The step of a student at params, minus the gradient of its loss, is
eps * J' M J displacement + O(eps^2), with J the derivative of the imitated outputs and M the curvature of the loss.
So its inner product with the teacher's displacement is eps * ||J displacement||_M^2 >= 0.

A model is a pure function of parameters, `outputs(params) -> [batch, k]`: the imitated outputs for some inputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tree = Any  # a pytree of arrays: parameters, displacements, gradients
Outputs = Callable[[Tree], Float[Array, "batch k"]]
# (outputs at params, u) -> M u, for each row of the batch.
Curvature = Callable[[Float[Array, "batch k"], Float[Array, "batch k"]], Float[Array, "batch k"]]


class Leading(NamedTuple):
    """The leading order in eps, divided by eps.

    step       the student's step, a tree like the parameters
    quadratic  ||J displacement||_M^2, mean over the batch: the inner product of step and displacement
    """

    step: Tree
    quadratic: Float[Array, ""]


class Overlap(NamedTuple):
    """How a student's step lies to the teacher's displacement.

    inner   their inner product, divided by eps
    cosine  of the angle between them (coverage, where eps is small); 0 where one of them is zero
    ratio   inner to the quadratic form, 1 where the leading order is all; NaN where both are zero
    """

    inner: Float[Array, ""]
    cosine: Float[Array, ""]
    ratio: Float[Array, ""]


def squared(weights: Float[Array, " k"]) -> Curvature:
    """M of sum_i w_i (z_i - y_i)^2, which is 2 diag(w). For a mean over n outputs seen the weights are seen / n.

    Source: Cloud et al. 2026, Theorem 1.
    """

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        del outputs
        return 2 * weights.astype(u.dtype)[None] * u

    return times


def softmax(seen: Array, temperature: float | Float[Array, ""] = 1.0) -> Curvature:
    """M of cross-entropy, or KL, of softmax(z / T) over the seen logits: (diag(p) - p p') / T^2.

    seen  [k], true or 1 for the logits that enter the loss. Source: Cloud et al. 2026, Theorem 1, for T = 1.
    """

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        p = probabilities(outputs, seen, temperature)
        return (p * u - p * (p * u).sum(-1, keepdims=True)) / temperature**2

    return times


def probabilities(
    outputs: Float[Array, "batch k"], seen: Array, temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "batch k"]:
    """Softmax over the seen logits at a temperature; 0 for the others."""
    return jax.nn.softmax(jnp.where(seen.astype(bool)[None], outputs / temperature, -jnp.inf), axis=-1)


def of_loss(loss: Callable[[Array, Array], Float[Array, " batch"]]) -> Curvature:
    """M of any loss(z, y) [batch] that is stationary at z = y: minus its second derivative in z and y, there."""

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        def pull(target: Array) -> Array:
            return -jax.grad(lambda z: loss(z, target).sum())(outputs)

        return jax.jvp(pull, (outputs,), (u,))[1]

    return times


def leading_step(outputs: Outputs, params: Tree, displacement: Tree, curvature: Curvature) -> Leading:
    """The student's step and its inner product with the displacement, to leading order and divided by eps.

    The student's loss is the mean over the batch. One forward, one jvp, one vjp. Source: Cloud et al. 2026, Theorem 1.
    """
    at, u = jax.jvp(outputs, (params,), (displacement,))
    turned = curvature(at, u) / len(at)
    _, pull = jax.vjp(outputs, params)
    return Leading(pull(turned)[0], (u * turned).sum())


def student_step(objective: Callable[[Tree], Float[Array, ""]], params: Tree) -> Tree:
    """Minus the gradient of an objective."""
    return jax.tree.map(jnp.negative, jax.grad(objective)(params))


def overlap(step: Tree, displacement: Tree, eps: Float[Array, ""] | float, quadratic: Float[Array, ""]) -> Overlap:
    """How a step lies to the displacement; `quadratic` is what its inner product, divided by eps, should be."""
    inner, size = dot(step, displacement), norm(step) * norm(displacement)
    cosine = jnp.where(size > 0, inner / jnp.where(size > 0, size, 1), 0)
    ratio = jnp.where(quadratic == 0, jnp.nan, inner / eps / jnp.where(quadratic == 0, 1, quadratic))
    return Overlap(inner / eps, cosine, ratio)


def expansion(
    objective: Callable[[Tree, Float[Array, "batch k"]], Float[Array, ""]],
    outputs: Outputs,
    params: Tree,
    displacement: Tree,
    curvature: Curvature,
    eps: Float[Array, " eps"],
) -> tuple[Leading, Overlap]:
    """The leading order, and for every eps the exact student's step beside it (fields [eps]).

    objective  (params, what the teacher says [batch, k]) -> the student's loss
    """
    leading = leading_step(outputs, params, displacement, curvature)

    def one(eps: Float[Array, ""]) -> Overlap:
        said = outputs(plus(params, displacement, eps))
        step = student_step(lambda there: objective(there, said), params)
        return overlap(step, displacement, eps, leading.quadratic)

    return leading, jax.lax.map(one, eps)


def positive(
    eps: Float[Array, "..."], quadratic: Float[Array, "..."], samples: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The chance of a positive inner product where the student sees labels drawn from the teacher's softmax.

    samples  inputs x labels for each. Cross-entropy at temperature 1 only. The labels' noise adds, to leading order, a
             variance of quadratic / samples to the mean eps * quadratic, and many of them are normal: so the chance is
             Phi(eps sqrt(samples quadratic)). `quadratic` is also the Fisher information of one label in eps.
    """
    return jax.scipy.stats.norm.cdf(eps * jnp.sqrt(samples * quadratic))


def dot(one: Tree, other: Tree) -> Float[Array, ""]:
    """The inner product of two trees of one structure."""
    products = jax.tree.map(jnp.vdot, one, other)
    return jax.tree.reduce(jnp.add, products)


def norm(tree: Tree) -> Float[Array, ""]:
    """The Euclidean length of a tree."""
    return jnp.sqrt(dot(tree, tree))


def plus(params: Tree, displacement: Tree, eps: Float[Array, ""] | float = 1.0) -> Tree:
    """params + eps * displacement."""
    return jax.tree.map(lambda one, other: one + eps * other, params, displacement)
