"""What a change of a training state does to the end of the training, to first order: the reverse pass through it.

Adam has no derivative where a second moment is exactly 0, as of the weights of pixels that are always black, and the
costate is NaN there: use `optax.scale_by_adam(eps_root=1e-16)`.

The costate of a state is the gradient, with respect to its weights and moments, of a number that is read off the
weights at the end. Its product with a change of the state is the change of that number, to first order. Source: Xu,
arXiv 2608.20442 (abstract).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sublim_jax.core.types import Knobs, Params, Recipe, State
from sublim_jax.training import step as training_step

Number = Callable[[Params], Float[Array, ""]]  # of the weights at the end


def costate(
    recipe: Recipe,
    knobs: Knobs,
    state: State,
    teachers: Any,
    key: Key[Array, ""],
    data: Any,
    span: tuple[int, int],
    number: Number,
) -> tuple[Float[Array, ""], State]:
    """Compute a number at the end of a training, and its gradient with respect to the state before.

    Args:
        recipe: recipe of the phase.
        knobs: knobs of the net.
        state: state at the first step.
        teachers: trained teacher, or `TeacherParams` for a recipe with `target_transform`.
        key: key of the phase.
        data: training data.
        span: the first step, and the step after the last; memory grows by one state for every step.
        number: number of the parameters at the end.

    Returns:
        The number, and the costate; arrays of a state that are no real numbers have zeros.
    """
    leaves, structure = jax.tree.flatten(state)
    real = [bool(jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves]

    def end(chosen: list[Array]) -> Float[Array, ""]:
        parts = iter(chosen)
        begun = [next(parts) if is_real else leaf for leaf, is_real in zip(leaves, real, strict=True)]

        @jax.checkpoint
        def step(state: State, place: Array) -> tuple[State, None]:
            batch = training_step.make_batch(recipe, knobs, teachers, key, data, place)
            return training_step.train_step(recipe, state, knobs, batch), None

        final, _ = jax.lax.scan(step, jax.tree.unflatten(structure, begun), jnp.arange(*span))
        return number(final.params)

    reached, slopes = jax.value_and_grad(end)([leaf for leaf, is_real in zip(leaves, real, strict=True) if is_real])
    parts = iter(slopes)
    return reached, jax.tree.unflatten(
        structure,
        [next(parts) if is_real else jnp.zeros(leaf.shape) for leaf, is_real in zip(leaves, real, strict=True)],
    )


def response(slopes: State, before: State, after: State) -> Float[Array, ""]:
    """Return the first-order change of the number of `costate` where the state `before` is replaced by `after`."""
    change = jax.tree.map(lambda slope, a, b: (slope * (b - a)).sum(), slopes, before, after)
    return jnp.stack(jax.tree.leaves(change)).sum()
