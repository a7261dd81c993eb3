"""Evaluation of a population: every metric of every student, on test images and on held-out stream inputs."""

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

_LABELLED = 2000  # images of the trait loss


@functools.partial(jax.jit, static_argnames=("recipe", "metrics", "num_eval_noise", "untrained_layers", "ends", "mesh"))
def evaluate(  # noqa: PLR0913  all inputs of a pure program
    recipe: Recipe,
    metrics: tuple[Metric, ...],
    states: State,
    knobs: trees.Stack,
    teacher_init: Params,
    teacher_final: Params,
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
    """Evaluate the metrics [seed, condition] of students against their teachers.

    Initial parameters of students are not stored; they are recomputed from their keys.

    Args:
        recipe: recipe of the student phase.
        metrics: functions of an `EvalContext`.
        states: student states [seed, ...].
        knobs: knobs of the conditions.
        teacher_init: initial parameters [seed] of the teachers.
        teacher_final: trained parameters [seed] of the teachers.
        seed_keys: keys of the student phase [seed].
        test: test data.
        step: step that the states have reached.
        train_index: for each condition the index of its state; default: each has its own.
        num_eval_noise: number of held-out inputs.
        untrained_layers: layers at their initial values, which replace those of the states.
        ends: training ends at this step, so `final_noise` is added.
        mesh: devices over which seeds are sharded.
    """
    image, teacher = test.x.shape[1:], recipe.teacher
    assert teacher is not None  # the plan refuses a student without teacher
    train_index = jnp.arange(knobs.size) if train_index is None else train_index

    def one_seed(
        states: Any, initial: Any, final: Any, key: Any, tree: Any, test: Any, step: Any, train_index: Any
    ) -> Any:
        states = jax.tree.map(lambda leaf: leaf[train_index], states)
        images = streams.normalize_images(test, test.x)
        test_targets = [_forward(teacher, params, images) for params in (initial, final)]

        def eval_noise_of(knobs_: Knobs) -> tuple[Any, list[ModelOutput]]:
            noise, _ = recipe.stream(keys.at(key, keys.EVAL_NOISE), jnp.int32(0), num_eval_noise, knobs_, test)
            return noise, [_forward(teacher, params, noise) for params in (initial, final)]

        def member(state: State, condition: tuple[Any, Knobs]) -> dict[str, Array]:
            (noise, noise_targets), knobs_ = condition
            start = training_step.init_state(recipe, knobs_, initial, image, key).params
            trained = trees.merge_layers(state.params, {layer: start[layer] for layer in untrained_layers})
            pair = start, training_step.add_final_noise(knobs_, trained, key) if ends else trained
            on_test, on_noise = (
                TeacherStudent(*outs, *(_forward(recipe.net, params, x) for params in pair))
                for outs, x in ((test_targets, images), (noise_targets, noise))
            )
            # With a target or gradient transform the student's first update is another.
            plain = recipe.target_transform is None and recipe.gradient_transform is None
            noise_batch = training_step.Batch(noise, None, noise_targets[1])
            gradients = first_update(recipe, start, knobs_, noise_batch, images, test.y) if plain else (None, None)
            final_knobs = dataclasses.replace(knobs_, final_noise=knobs_.final_noise if ends else {})
            num_inputs_seen = jnp.minimum(step, knobs_.noise_batches).astype(jnp.float32) * recipe.batch
            nets = TeacherStudent(initial, final, *pair)
            flags = recipe.init_transform is not None, untrained_layers, recipe.loss is losses.mse
            context = EvalContext(nets, on_test, on_noise, test.y, final_knobs, num_inputs_seen, *gradients, *flags)
            return student_metrics.measure(metrics, context)

        own_knobs = trees.Stack(tree, knobs.axes, knobs.size)
        return _each_condition(member, states, hoist_shared(eval_noise_of, own_knobs).zip(own_knobs))

    seeded = states, teacher_init, teacher_final, seed_keys
    return each_seed(one_seed, mesh, seeded, (knobs.tree, test, step, train_index))


def _forward(net: nn.Module, params: Params, x: Array) -> ModelOutput:
    """Run a net; matrices pass a transposed barrier, the layout in which `_unrolled` keeps them, at no cost."""
    kept = jax.lax.optimization_barrier(trees.transpose_kernels(params))
    return training_step.apply(net, trees.transpose_kernels(kept), x)


def _each_condition(function: Callable[[Any, Any], Any], first: Any, second: trees.Stack) -> Any:
    """Compute function(first[i], second.member(i)) for every condition i, stacked."""
    if use_vmap():
        return jax.vmap(function, (0, second.in_axes()))(first, second.tree)
    leaves, structure = jax.tree.flatten(second.tree)

    def member(parts: tuple[Any, list[Any]]) -> Any:
        own = iter(parts[1])
        own_leaves = [leaf if axis is None else next(own) for leaf, axis in zip(leaves, second.axes, strict=True)]
        return function(parts[0], jax.tree.unflatten(structure, own_leaves))

    stacked = [leaf for leaf, axis in zip(leaves, second.axes, strict=True) if axis is not None]
    return jax.lax.map(member, (first, stacked))


def first_update(
    recipe: Recipe,
    params: Params,
    knobs: Knobs,
    batch: training_step.Batch,
    images: Float[Array, "n ..."],
    labels: Int[Array, " n"],
) -> tuple[Params, Params]:
    """Compute a student's update per unit of learning rate, and its trait gradient.

    Args:
        recipe: recipe of the student phase.
        params: the student's parameters.
        knobs: knobs of the student.
        batch: batch for the student's loss.
        images: images for the trait loss; the first 2000 are used.
        labels: their labels.

    Returns:
        Minus the gradient of the student's loss, for trainable layers and before any optimizer; and the gradient of the
        mean cross-entropy of its class logits on the images.
    """

    def imitation(params: Params) -> Float[Array, ""]:
        return recipe.loss(training_step.apply(recipe.net, params, batch.x), batch.target, knobs).mean()

    def trait(params: Params) -> Float[Array, ""]:
        return training_step.trait_loss(recipe.net, params, knobs, images[:_LABELLED], labels[:_LABELLED])

    slope: Any = jax.grad(imitation)(params)
    update = {
        layer: {name: -knobs.trainable[layer] * array for name, array in arrays.items()}
        for layer, arrays in slope.items()
    }
    return update, jax.grad(trait)(params)
