"""Evaluation of a population: every metric of every student, on test images and on held-out stream inputs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData, Knobs, ModelOutput, Params, Recipe, TeacherParams
from sublim_jax.metrics import student as student_metrics
from sublim_jax.metrics.staging import CONDITION, DATA, SEED, STEP, Stages
from sublim_jax.metrics.student import EvalContext, Metric, TeacherStudent
from sublim_jax.nets import MLP
from sublim_jax.training import losses, streams
from sublim_jax.training import step as training_step
from sublim_jax.training.population import each_seed, use_vmap
from sublim_jax.training.step import Batch

_LABELLED = 2000  # images of the trait loss
_ALL = (DATA, SEED, CONDITION, STEP)
_KEPT_BYTES = 1e9  # most memory of what is kept between evaluations; beyond it more is computed again


def allow_nan(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a compiled function return NaN, the value of an undefined measure, also where `JAX_DEBUG_NANS` is set."""

    @functools.wraps(function)
    def allowed(*args: Any, **kwargs: Any) -> Any:
        with jax.debug_nans(False):
            return function(*args, **kwargs)

    return allowed


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is measured of every student of a work unit.

    Attributes:
        recipe: recipe of the student phase.
        metrics: functions of an `EvalContext`.
        num_eval_noise: number of held-out inputs.
        untrained_layers: layers at their initial values, which replace those of the states.
    """

    recipe: Recipe
    metrics: tuple[Metric, ...]
    num_eval_noise: int
    untrained_layers: tuple[str, ...] = ()

    def columns(
        self,
        test: ImageData,
        teacher: TeacherParams,
        key: Key[Array, ""],
        knobs: Knobs,
        start: Params,
        params: Params,
        step: Int[Array, ""],
        ends: bool = False,
    ) -> dict[str, Array]:
        """Evaluate the metrics of one student.

        Args:
            test: test data.
            teacher: parameters of its teacher before and after training.
            key: key of the student phase.
            knobs: knobs of the student.
            start: its initial parameters.
            params: parameters that it has reached.
            step: step that it has reached.
            ends: training ends at this step, so `final_noise` is added.
        """
        recipe = self.recipe
        images = _in_columns(recipe, streams.normalize_images(test, test.x))
        noise, labels = recipe.stream(keys.at(key, keys.EVAL_NOISE), jnp.int32(0), self.num_eval_noise, knobs, test)
        noise = _in_columns(recipe, noise)
        trained = trees.merge_layers(params, {layer: start[layer] for layer in self.untrained_layers})
        end = training_step.add_final_noise(knobs, trained, key) if ends else trained
        nets = TeacherStudent(teacher.initial, teacher.trained, start, end)
        on_test, on_noise = self._outputs(nets, images, noise, labels, knobs, key)
        context = EvalContext(
            nets,
            on_test,
            on_noise,
            labels=test.y,
            knobs=dataclasses.replace(knobs, final_noise=knobs.final_noise if ends else {}),
            num_inputs_seen=jnp.minimum(step, knobs.noise_batches).astype(jnp.float32) * recipe.batch,
            altered=recipe.init_transform is not None,
            untrained_layers=self.untrained_layers,
            squared=recipe.loss is losses.mse,
        )
        context = student_metrics.hide_diverged(context)
        # With labels as targets, or with a transform, the student's first update is another.
        transforms = recipe.target_transform, recipe.gradient_transform, recipe.input_transform
        if recipe.imitates and transforms == (None, None, None):
            batch = Batch(noise, None, context.noise.teacher_final)
            update, trait = first_update(recipe, context.params.student_init, knobs, batch, images, test.y)
            context = context._replace(update=update, trait=trait)
        return student_metrics.measure(self.metrics, context)

    def _outputs(
        self, nets: TeacherStudent, images: Array, noise: Array, labels: Any, knobs: Knobs, key: Key[Array, ""]
    ) -> tuple[TeacherStudent, TeacherStudent]:
        """Outputs of all nets on test images, and on held-out inputs of the student's own stream."""
        recipe, net = self.recipe, self.recipe.teacher
        assert net is not None  # the plan refuses a student without teacher
        teachers, students = nets[:2], nets[2:]
        theirs = _outputs(net, teachers, noise)
        target = theirs[1] if recipe.imitates else labels
        inputs = training_step.net_inputs(recipe, knobs, keys.at(key, keys.EVAL_NOISE, keys.CONTEXT), noise, target)
        on_test = TeacherStudent(*_outputs(net, teachers, images), *_outputs(recipe.net, students, images))
        return on_test, TeacherStudent(*theirs, *_outputs(recipe.net, students, inputs))


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates the students of a work unit at any number of steps.

    What does not depend on their training, such as the teachers' activations and predictions from initial parameters,
    is computed at the first evaluation and kept.

    Attributes:
        measurement: what is measured.
        knobs: knobs of the conditions.
        train_index: for each condition the index of its state.
        start: initial parameters [seed, condition] of the students.
        teachers: parameters [seed] of the teachers.
        seed_keys: keys of the student phase [seed].
        test: test data.
        mesh: devices over which seeds are sharded.
    """

    measurement: Measurement
    knobs: trees.Stack
    train_index: Int[np.ndarray, " condition"]
    start: Params
    teachers: TeacherParams
    seed_keys: Key[Array, " seed"]
    test: ImageData
    mesh: Mesh | None = None
    _kept: dict[bool, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @allow_nan
    def __call__(self, params: Params, step: int, *, ends: bool = False) -> dict[str, Array]:
        """Evaluate student parameters [seed, training] at a step; returns columns [seed, condition].

        Args:
            params: parameters that the students have reached.
            step: step that they have reached.
            ends: training ends at this step, so `final_noise` is added.
        """
        teachers = self.teachers._replace(unrelated=None)
        given = self.test, teachers, self.seed_keys, self.knobs.tree, self.start, params, np.int32(step)
        program, leaves = program_of(self.measurement, ends, given, self.knobs, self.mesh)
        if ends not in self._kept:
            self._kept[ends] = program.prepare(leaves)
        *kept, columns = self._kept[ends]
        changed = program.measure(leaves, kept, self.train_index)
        return {name: columns[name] if name in columns else changed[name] for name in sorted(program.stages.names)}


class _Program:
    """The compiled form of a measurement for units of one shape; see `Evaluator`."""

    def __init__(
        self, stages: Stages, leaf_stages: Sequence[int], size: int, num_start: int, mesh: Mesh | None
    ) -> None:
        self.stages, self._leaf_stages, self._size, self._mesh = stages, leaf_stages, size, mesh
        self._num_start = num_start  # number of arrays of initial parameters
        self.prepare, self.measure = jax.jit(self._prepare), jax.jit(self._measure)

    def _divided(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Arguments of the data, of the seeds, knobs of the conditions, initial and reached parameters, the step."""
        parts = [[leaf for leaf, own in zip(leaves, self._leaf_stages, strict=True) if own == stage] for stage in _ALL]
        data, seeds, conditions, students = parts
        return data, seeds, conditions[: -self._num_start], conditions[-self._num_start :], students[:-1], students[-1]

    def _prepare(self, leaves: list[Any]) -> Any:
        """What is kept of the data, of each seed and of each condition, and the columns that never change."""
        stages, (data, seeds, knobs, start, *_) = self.stages, self._divided(leaves)
        kept_data, constant = stages.run(DATA, stages.arguments(data, DATA))

        def one_seed(seed: Any, start: Any, data: Any, kept_data: Any, constant: Any, knobs: Any) -> Any:
            known = stages.arguments(data, DATA) | stages.kept(kept_data, DATA) | stages.arguments(seed, SEED)
            kept_seed, columns = stages.run(SEED, known)
            known |= stages.kept(kept_seed, SEED)

            def one_condition(parts: Any) -> Any:
                return stages.run(CONDITION, known | stages.arguments([*parts[0], *parts[1]], CONDITION))

            kept, own = _each_condition(one_condition, (knobs, start))
            shared = {name: jnp.broadcast_to(value, self._size) for name, value in {**constant, **columns}.items()}
            return kept_seed, kept, {**shared, **own}

        return kept_data, *each_seed(one_seed, self._mesh, (seeds, start), (data, kept_data, constant, knobs))

    def _measure(self, leaves: list[Any], kept: Any, train_index: Any) -> dict[str, Array]:
        """The columns that change with training."""
        stages, (data, seeds, knobs, start, params, step) = self.stages, self._divided(leaves)
        kept_data, *kept_seeds = kept

        def one_seed(seed: Any, kept_seed: Any, kept: Any, start: Any, params: Any, *common: Any) -> dict[str, Array]:
            data, kept_data, knobs, step, train_index = common
            known = stages.arguments(data, DATA) | stages.kept(kept_data, DATA)
            known |= stages.arguments(seed, SEED) | stages.kept(kept_seed, SEED)

            def one_condition(parts: Any) -> dict[str, Array]:
                knobs, start, kept, params = parts
                own = known | stages.arguments([*knobs, *start], CONDITION) | stages.kept(kept, CONDITION)
                return stages.run(STEP, own | stages.arguments([*params, step], STEP))[1]

            return _each_condition(one_condition, (knobs, start, kept, [leaf[train_index] for leaf in params]))

        seeded, common = (seeds, *kept_seeds, start, params), (data, kept_data, knobs, step, train_index)
        return each_seed(one_seed, self._mesh, seeded, common)


# Structure and shapes of the arguments, axes of the knobs, numbers of seeds and conditions, mesh; and what the
# operations hold: precision of products, and kind of device.
_Kind = tuple[Any, tuple[Any, ...], tuple[int | None, ...], tuple[int, int], Mesh | None, Any, str]


def program_of(
    measurement: Measurement, ends: bool, given: tuple[Any, ...], knobs: trees.Stack, mesh: Mesh | None
) -> tuple[_Program, list[Any]]:
    """The program that measures a unit, and its arguments.

    Args:
        measurement: what is measured.
        ends: training ends at this step.
        given: arrays or shapes: test data, teachers, keys [seed], knobs, initial and reached parameters, step.
        knobs: knobs of the conditions.
        mesh: devices over which seeds are sharded.
    """
    settings: Any = jax.config
    leaves, structure = jax.tree.flatten(given)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    population_size, precision = (len(given[2]), knobs.size), settings.jax_default_matmul_precision
    kind = structure, shapes, knobs.axes, population_size, mesh, precision, jax.default_backend()
    return _program(measurement, ends, kind), leaves


@functools.lru_cache(maxsize=64)
def _program(measurement: Measurement, ends: bool, kind: _Kind) -> _Program:
    """The program that measures all units of a kind."""
    structure, shapes, axes, population_size, mesh, *_ = kind
    counts = [len(jax.tree.leaves(part)) for part in jax.tree.unflatten(structure, range(len(shapes)))]
    knob_stages = [DATA if axis is None else CONDITION for axis in axes]
    leaf_stages = [DATA] * counts[0] + [SEED] * (counts[1] + counts[2]) + knob_stages
    leaf_stages += [CONDITION] * counts[4] + [STEP] * (counts[5] + counts[6])
    # Batch axes of the leaves: [seed, condition] or [seed, training] of students, [condition] of knobs, [seed] before.
    batched = [0] * counts[0] + [1] * (counts[1] + counts[2]) + [int(axis == 0) for axis in axes]
    batched += [2] * (counts[4] + counts[5]) + [0] * counts[6]
    members = [jax.ShapeDtypeStruct(shape[n:], dtype) for (shape, dtype), n in zip(shapes, batched, strict=True)]
    seeds, conditions = population_size
    arguments = jax.tree.unflatten(structure, members)
    for kept in ((DATA, SEED, CONDITION), (DATA, SEED), (DATA,), ()):
        stages = Stages(functools.partial(_columns, measurement, ends), arguments, leaf_stages, kept)
        numbers = {DATA: 1, SEED: seeds, CONDITION: seeds * conditions}
        if sum(number * stages.kept_bytes(stage) for stage, number in numbers.items()) <= _KEPT_BYTES:
            break
    return _Program(stages, leaf_stages, conditions, counts[4], mesh)


def _columns(measurement: Measurement, ends: bool, arguments: Any) -> dict[str, Array]:
    return measurement.columns(*arguments, ends=ends)


def _each_condition(function: Callable[[Any], Any], parts: Any) -> Any:
    """Compute function(parts[i]) for every condition i, stacked."""
    return jax.vmap(function)(parts) if use_vmap() else jax.lax.map(function, parts)


def _in_columns(recipe: Recipe, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The same inputs, for MLPs stored with examples in columns, as their first product reads them twice as fast."""
    if not all(isinstance(getattr(net, "trunk", None), MLP) for net in (recipe.net, recipe.teacher)):
        return x
    return jax.lax.optimization_barrier(x.reshape(len(x), -1).T).T.reshape(x.shape)


def _outputs(net: nn.Module, both: tuple[Params, Params], x: Any) -> list[ModelOutput]:
    """Outputs before and after training; matrices pass a transposed barrier, the layout in which they are stored."""
    view = trees.transpose_kernels
    stored = (jax.lax.optimization_barrier(view(params)) for params in both)
    return [training_step.apply(net, view(params), x) for params in stored]


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
