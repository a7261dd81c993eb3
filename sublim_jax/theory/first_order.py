"""First-order theory of one small imitation step: Theorem 1 of Cloud et al. 2026, for any model, loss and inputs.

A teacher has the parameters params + eps * displacement. The step of a student at params, minus the gradient of its
loss, is eps * J' M J displacement + O(eps^2), where J is the derivative of the imitated outputs and M the curvature of
the loss. Its inner product with the teacher's displacement is therefore eps * ||J displacement||_M^2 >= 0.

A model is a pure function of parameters, `outputs(params) -> [batch, k]`: the imitated outputs for fixed inputs.
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

    Attributes:
        step: the student's step, a tree like the parameters.
        quadratic: ||J displacement||_M^2, mean over the batch: the inner product of step and displacement.
    """

    step: Tree
    quadratic: Float[Array, ""]


class Overlap(NamedTuple):
    """Inner product and angle between a student's step and the teacher's displacement.

    Attributes:
        inner: their inner product, divided by eps.
        cosine: cosine of the angle between them (coverage, for small eps); 0 where one of them is zero.
        ratio: `inner` divided by the quadratic form; 1 at leading order, NaN where both are zero.
    """

    inner: Float[Array, ""]
    cosine: Float[Array, ""]
    ratio: Float[Array, ""]


def squared(weights: Float[Array, " k"]) -> Curvature:
    """Return M = 2 diag(w), the curvature of sum_i w_i (z_i - y_i)^2; a mean over n masked-in outputs has w = mask / n.

    Source: Cloud et al. 2026, Theorem 1.
    """

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        del outputs
        return 2 * weights.astype(u.dtype)[None] * u

    return times


def softmax(seen: Array, temperature: float | Float[Array, ""] = 1.0) -> Curvature:
    """Return the curvature of cross-entropy and of KL: (diag(p) - p p') / T^2, p the softmax of z / T.

    Args:
        seen: [k], true or 1 for the logits that enter the loss.
        temperature: T. Source for T = 1: Cloud et al. 2026, Theorem 1.
    """

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        p = probabilities(outputs, seen, temperature)
        return (p * u - p * (p * u).sum(-1, keepdims=True)) / temperature**2

    return times


def probabilities(
    outputs: Float[Array, "batch k"], seen: Array, temperature: float | Float[Array, ""] = 1.0
) -> Float[Array, "batch k"]:
    """Compute the softmax over the masked-in logits at a temperature; 0 for the other logits."""
    return jax.nn.softmax(jnp.where(seen.astype(bool)[None], outputs / temperature, -jnp.inf), axis=-1)


def of_loss(loss: Callable[[Array, Array], Float[Array, " batch"]]) -> Curvature:
    """Return the curvature of any loss(z, y) [batch] stationary at z = y: minus its mixed second derivative there."""

    def times(outputs: Float[Array, "batch k"], u: Float[Array, "batch k"]) -> Float[Array, "batch k"]:
        return jax.jvp(lambda target: -jax.grad(lambda z: loss(z, target).sum())(outputs), (outputs,), (u,))[1]

    return times


def leading_step(outputs: Outputs, params: Tree, displacement: Tree, curvature: Curvature) -> Leading:
    """Compute the student's step to leading order in eps, divided by eps, with one forward pass, one jvp and one vjp.

    Args:
        outputs: function of the parameters.
        params: the student's parameters.
        displacement: direction of the teacher's parameters, a tree like `params`.
        curvature: M of the loss, whose mean over the batch the student minimises.

    Returns:
        The step and its inner product with the displacement. Source: Cloud et al. 2026, Theorem 1.
    """
    at, u = jax.jvp(outputs, (params,), (displacement,))
    turned = curvature(at, u) / len(at)
    _, pull = jax.vjp(outputs, params)
    return Leading(pull(turned)[0], (u * turned).sum())


def student_step(objective: Callable[[Tree], Float[Array, ""]], params: Tree) -> Tree:
    """Return minus the gradient of `objective` at `params`."""
    return jax.tree.map(jnp.negative, jax.grad(objective)(params))


def overlap(step: Tree, displacement: Tree, eps: Float[Array, ""] | float, quadratic: Float[Array, ""]) -> Overlap:
    """Compare a step with the displacement; `quadratic` is the predicted inner product, divided by `eps`."""
    inner, size = dot(step, displacement), norm(step) * norm(displacement)
    cosine = jnp.where(size == 0, 0, inner / jnp.where(size == 0, 1, size))
    ratio = jnp.where(quadratic == 0, jnp.nan, inner / eps / jnp.where(quadratic == 0, 1, quadratic))
    return Overlap(inner / eps, cosine, ratio)


def positive(
    eps: Float[Array, "..."], quadratic: Float[Array, "..."], samples: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Probability of a positive inner product for a student trained on labels sampled from the teacher's softmax.

    Phi(eps sqrt(samples quadratic)), samples = inputs times labels per input: to leading order the sampled labels add a
    variance of quadratic / samples to the mean eps * quadratic, normal for many labels. `quadratic` is also the Fisher
    information of one label about eps. Valid for cross-entropy at temperature 1.
    """
    return jax.scipy.stats.norm.cdf(eps * jnp.sqrt(samples * quadratic))


def dot(left: Tree, right: Tree) -> Float[Array, ""]:
    """Compute the inner product of two trees of one structure."""
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, left, right))


def norm(tree: Tree) -> Float[Array, ""]:
    """Compute the Euclidean norm of a tree."""
    return jnp.sqrt(dot(tree, tree))


def plus(params: Tree, displacement: Tree, eps: Float[Array, ""] | float = 1.0) -> Tree:
    """Compute params + eps * displacement, leaf by leaf."""
    return jax.tree.map(lambda value, change: value + eps * change, params, displacement)
