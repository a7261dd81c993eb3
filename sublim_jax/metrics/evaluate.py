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
from sublim_jax.training.step import Batch

_LABELLED = 2000  # images of the trait loss


def allow_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a compiled function return NaN, the value of an undefined measure, also where `JAX_DEBUG_NANS` is set."""

    @functools.wraps(function)
    def allowed(*args: Any, **kwargs: Any) -> Any:
        with jax.debug_nans(False):
            return function(*args, **kwargs)

    return allowed


@allow_nan
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
    """Evaluate the metrics [seed, condition] of students; their initial parameters are recomputed from their keys.

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
    train_index = jnp.arange(knobs.size) if train_index is None else train_index
    evaluation = _Evaluation(recipe, metrics, num_eval_noise, untrained_layers, ends)
    seeded = states, (teacher_init, teacher_final), seed_keys
    return each_seed(evaluation.one_seed, mesh, seeded, (knobs, test, step, train_index))


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The static arguments of `evaluate`."""

    recipe: Recipe
    metrics: tuple[Metric, ...]
    num_eval_noise: int
    untrained_layers: tuple[str, ...]
    ends: bool

    def one_seed(
        self, states: Any, teachers: Any, key: Any, knobs: trees.Stack, test: ImageData, step: Any, train_index: Any
    ) -> dict[str, Array]:
        """Evaluate the students [condition] of one seed."""
        images, teacher = streams.normalize_images(test, test.x), self.recipe.teacher
        assert teacher is not None  # the plan refuses a student without teacher
        test_targets = _outputs(teacher, teachers, images)

        def eval_noise_of(knobs_: Knobs) -> tuple[Any, list[ModelOutput]]:
            noise_key = keys.at(key, keys.EVAL_NOISE)
            noise, _ = self.recipe.stream(noise_key, jnp.int32(0), self.num_eval_noise, knobs_, test)
            return noise, _outputs(teacher, teachers, noise)

        def member(state: State, condition: tuple[Any, Knobs]) -> dict[str, Array]:
            (noise, noise_targets), knobs_ = condition
            students = self._students(state, teachers[0], knobs_, images.shape[1:], key)
            context = EvalContext(
                TeacherStudent(teachers[0], teachers[1], *students),
                TeacherStudent(*test_targets, *_outputs(self.recipe.net, students, images)),
                TeacherStudent(*noise_targets, *_outputs(self.recipe.net, students, noise)),
                labels=test.y,
                knobs=dataclasses.replace(knobs_, final_noise=knobs_.final_noise if self.ends else {}),
                num_inputs_seen=jnp.minimum(step, knobs_.noise_batches).astype(jnp.float32) * self.recipe.batch,
                altered=self.recipe.init_transform is not None,
                untrained_layers=self.untrained_layers,
                squared=self.recipe.loss is losses.mse,
            )
            context = student_metrics.hide_diverged(context)
            # With a target or gradient transform the student's first update is another.
            if self.recipe.target_transform is None and self.recipe.gradient_transform is None:
                batch = Batch(noise, None, context.noise.teacher_final)
                start = context.params.student_init
                update, trait = first_update(self.recipe, start, knobs_, batch, images, test.y)
                context = context._replace(update=update, trait=trait)
            return student_metrics.measure(self.metrics, context)

        states = jax.tree.map(lambda leaf: leaf[train_index], states)
        return _each_condition(member, states, hoist_shared(eval_noise_of, knobs).zip(knobs))

    def _students(self, state: State, teacher: Params, knobs: Knobs, image: Any, key: Any) -> tuple[Params, Params]:
        """Parameters of a student before and after training."""
        start = training_step.init_state(self.recipe, knobs, teacher, image, key).params
        trained = trees.merge_layers(state.params, {layer: start[layer] for layer in self.untrained_layers})
        return start, training_step.add_final_noise(knobs, trained, key) if self.ends else trained


def _outputs(net: nn.Module, both: tuple[Params, Params], x: Array) -> list[ModelOutput]:
    """Outputs before and after training; matrices pass a transposed barrier, the layout in which they are stored."""
    view = trees.transpose_kernels
    stored = (jax.lax.optimization_barrier(view(params)) for params in both)
    return [training_step.apply(net, view(params), x) for params in stored]


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
    recipe: Recipe, params: Params, knobs: Knobs, batch: Batch, images: Float[Array, "n ..."], labels: Int[Array, " n"]
) -> tuple[Params, Params]:
    """Compute a student's update per unit of learning rate, and its trait gradient.

    Args:
        recipe: recipe of the student phase.
        params: parameters of the student.
        knobs: knobs of the student.
        batch: batch for the student's loss.
        images: images for the trait loss; the first 2000 are used.
        labels: labels of the images.

    Returns:
        Minus the gradient of the student's loss, for trainable layers and before any optimizer; and the gradient of the
        mean cross-entropy of its class logits on the images.
    """

    def imitation(params: Params) -> Float[Array, ""]:
        return recipe.loss(training_step.apply(recipe.net, params, batch.x), batch.target, knobs).mean()

    slope: Any = jax.grad(imitation)(params)
    update = {
        layer: {name: -knobs.trainable[layer] * array for name, array in arrays.items()}
        for layer, arrays in slope.items()
    }
    labelled = images[:_LABELLED], labels[:_LABELLED]
    return update, jax.grad(training_step.trait_loss, argnums=1)(recipe.net, params, knobs, *labelled)
