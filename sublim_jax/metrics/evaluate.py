"""Measuring a population: every metric of every student, on test images and on held-out inputs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData, Knobs, ModelOutput, Params, Recipe, State
from sublim_jax.metrics import student as student_metrics
from sublim_jax.metrics.student import EvalContext, Metric, TeacherStudent
from sublim_jax.training import losses, streams
from sublim_jax.training import step as training_step
from sublim_jax.training.population import each_seed, hoist_shared, use_vmap

_LABELLED = 2000  # images on which a trait is measured


@functools.partial(jax.jit, static_argnames=("recipe", "metrics", "num_eval_noise", "untrained_layers", "ends", "mesh"))
def evaluate(
    recipe: Recipe,
    metrics: tuple[Metric, ...],
    states: State,
    knobs: trees.Stack,
    origins: Params,
    references: Params,
    seed_keys: Key[Array, " seed"],
    test: ImageData,
    step: Int[Array, ""],
    train_index: Int[Array, " condition"] | None = None,
    *,
    num_eval_noise: int,
    untrained_layers: tuple[str, ...] = (),
    ends: bool = False,
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """Every metric [seed, condition] of students against teachers, on the test images and on `exam` held-out inputs.

    The student's initial parameters are drawn again, not stored: a beginning is a pure function of its key.

    step   that the states have reached
    train_index  for each condition the place of its training among the states; default: each has its own
    untrained_layers   layers that are still as each condition began them, whatever the states say
    ends   whether the phase ends here, with the noise that is added then
    """
    image, teacher = test.x.shape[1:], recipe.teacher
    assert teacher is not None  # the plan refuses a student without
    train_index = jnp.arange(knobs.size) if train_index is None else train_index

    def one(
        states: Any, origin: Any, reference: Any, key: Any, tree: Any, test: Any, step: Any, train_index: Any
    ) -> Any:
        states = jax.tree.map(lambda leaf: leaf[train_index], states)
        images = streams.normalize_images(test, test.x)
        taught = [_look(teacher, params, images) for params in (origin, reference)]

        def exam_of(knobs_: Knobs) -> tuple[Any, list[ModelOutput]]:
            noise, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jnp.int32(0), num_eval_noise, knobs_, test)
            return noise, [_look(teacher, params, noise) for params in (origin, reference)]

        def member(state: State, given: tuple[Any, Knobs]) -> dict[str, Array]:
            (noise, heard), knobs_ = given
            initial = training_step.init_state(recipe, knobs_, origin, image, key).params
            final = trees.merge_layers(state.params, {layer: initial[layer] for layer in untrained_layers})
            pair = initial, training_step.add_final_noise(knobs_, final, key) if ends else final
            on_test, on_noise = (
                TeacherStudent(*outs, *(_look(recipe.net, params, x) for params in pair))
                for outs, x in ((taught, images), (heard, noise))
            )
            # Of altered answers and gradients this first update would not be the student's.
            plain = recipe.target_transform is None and recipe.gradient_transform is None
            asked = training_step.Batch(noise, None, heard[1])
            pulls = first_update(recipe, initial, knobs_, asked, images, test.y) if plain else (None, None)
            told = dataclasses.replace(knobs_, final_noise=knobs_.final_noise if ends else {})
            shown = jnp.minimum(step, knobs_.noise_batches).astype(jnp.float32) * recipe.batch
            four = TeacherStudent(origin, reference, *pair)
            known = recipe.init_transform is not None, untrained_layers, recipe.loss is losses.mse
            scene = EvalContext(four, on_test, on_noise, test.y, told, shown, *pulls, *known)
            return student_metrics.measure(metrics, scene)

        mine = trees.Stack(tree, knobs.axes, knobs.size)
        return _each_condition(member, states, hoist_shared(exam_of, mine).zip(mine))

    return each_seed(one, mesh, (states, origins, references, seed_keys), (knobs.tree, test, step, train_index))


def _look(net: nn.Module, params: Params, x: Array) -> ModelOutput:
    """What the net says; its matrices are turned in memory first, as `_in_a_row` keeps them, which costs nothing."""
    kept = jax.lax.optimization_barrier(trees.transpose_kernels(params))
    return training_step.apply(net, trees.transpose_kernels(kept), x)


def _each_condition(one: Callable[[Any, Any], Any], first: Any, second: trees.Stack) -> Any:
    """one(first[i], second.member(i)) for every condition i, stacked."""
    if use_vmap():
        return jax.vmap(one, (0, second.in_axes()))(first, second.tree)
    leaves, structure = jax.tree.flatten(second.tree)

    def member(parts: tuple[Any, list[Any]]) -> Any:
        own = iter(parts[1])
        mine = [leaf if axis is None else next(own) for leaf, axis in zip(leaves, second.axes, strict=True)]
        return one(parts[0], jax.tree.unflatten(structure, mine))

    stacked = [leaf for leaf, axis in zip(leaves, second.axes, strict=True) if axis is not None]
    return jax.lax.map(member, (first, stacked))


def first_update(
    recipe: Recipe,
    params: Params,
    knobs: Knobs,
    given: training_step.Batch,
    images: Float[Array, "n ..."],
    labels: Int[Array, " n"],
) -> tuple[Params, Params]:
    """What a lesson and what a trait do to a student: its update per unit of learning rate, and the trait's gradient.

    The update is minus the gradient of the student's loss, of live layers, before any optimiser; the trait's loss is
    the mean cross-entropy of the student's class logits over the first 2000 labelled images.
    """

    def imitation(params: Params) -> Float[Array, ""]:
        return recipe.loss(training_step.apply(recipe.net, params, given.x), given.target, knobs).mean()

    def trait(params: Params) -> Float[Array, ""]:
        return training_step.trait_loss(recipe.net, params, knobs, images[:_LABELLED], labels[:_LABELLED])

    slope: Any = jax.grad(imitation)(params)
    update = {
        layer: {name: -knobs.trainable[layer] * array for name, array in arrays.items()}
        for layer, arrays in slope.items()
    }
    return update, jax.grad(trait)(params)
