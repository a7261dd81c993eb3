"""One teacher and one student as one pure function of a key, which `jax.jit` and `jax.vmap` take as it is."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sublim_jax.core import arguments, keys, trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, ImageData, Params, Phase, Recipe, State, TeacherParams
from sublim_jax.data.load import Dataset, first_classes
from sublim_jax.training import losses, plugins, streams
from sublim_jax.training import step as training_step
from sublim_jax.training.population import advance_alone
from sublim_jax.training.targets import needs_unrelated_teachers


class Pair(NamedTuple):
    """A trained teacher and its student.

    Attributes:
        teacher_initial: Teacher's parameters before training, as its Linen module has them.
        teacher: Teacher's parameters after training, with the noise that the condition adds to them.
        student_initial: Student's parameters before training.
        student: Student's parameters after training, with the noise that the condition adds to them.
        eval_steps: Steps at which the student was tested.
        accuracy: Student's accuracy on the test images at `eval_steps`.
        teacher_accuracy: Accuracy of `teacher` on the test images.
    """

    teacher_initial: Params
    teacher: Params
    student_initial: Params
    student: Params
    eval_steps: Int[Array, " steps"]
    accuracy: Float[Array, " steps"]
    teacher_accuracy: Float[Array, ""]


@arguments.checked(condition=arguments.CONDITION, data=arguments.DATASET, key=arguments.KEY, eval_steps=arguments.STEPS)
def train_pair(
    condition: Condition, data: Dataset, key: Key[Array, ""], eval_steps: Sequence[int] | None = None
) -> Pair:
    """Train a teacher, then a student that imitates it, as `run` does for one condition and one seed.

    Args:
        condition: Teacher and student; an element of the tuple that `build` returns.
        data: Images and labels.
        key: Key of the pair; `keys.at(keys.root(0), "seed", 7)` gives the nets that `run` trains for seed 7.
        eval_steps: Increasing steps at which the student is tested; training ends at the last. Default: the recipe's.

    Returns:
        Parameters of both nets before and after training, and accuracies; `jax.vmap` over keys trains several pairs.

    Raises:
        ConfigError: `eval_steps` do not increase, or the targets are mixed with those of an unrelated teacher.
    """
    recipe = condition.student.recipe
    steps = recipe.eval_steps if eval_steps is None else tuple(int(step) for step in eval_steps)
    if not steps or list(steps) != sorted({*steps}) or steps[0] < recipe.first_step:
        raise ConfigError(f"eval_steps={steps}: must be increasing steps from {recipe.first_step}")
    if needs_unrelated_teachers(recipe.target_transform):
        raise ConfigError("student.mixed_with='stranger', future='unrelated': need a second teacher; use run")
    for role, phase in (("teacher", condition.teacher), ("student", condition.student)):
        plugins.check_phase(role, phase, data.train)
    train, test = (jax.tree.map(jnp.asarray, first_classes(part, recipe.classes)) for part in (data.train, data.test))
    teacher, knobs = condition.teacher, (condition.teacher.knobs, condition.student.knobs)
    with jax.default_matmul_precision("highest"):
        return _train_pair(teacher.recipe, recipe, knobs, train, test, key, jnp.asarray(steps, jnp.int32))


@functools.partial(jax.jit, static_argnames=("teacher", "student"))
def _train_pair(
    teacher: Recipe, student: Recipe, knobs: Any, train: ImageData, test: ImageData, key: Any, eval_steps: Any
) -> Pair:
    image, x = train.x.shape[1:], streams.normalize_images(test, test.x)
    teachers = _teacher(Phase(teacher, knobs[0]), student, train, keys.at(key, keys.TEACHER))
    student_key, net = keys.at(key, keys.STUDENT), student.teacher
    assert net is not None  # a student has targets
    begin = initial = training_step.init_state(student, knobs[1], teachers.initial, image, student_key)
    if student.start is not None:
        begin = student.start(student, knobs[1], initial, teachers, student_key, train)

    def accuracy(net: Any, params: Params) -> Float[Array, ""]:
        correct = losses.accuracy(training_step.apply(net, params, x).acts["class_head"], test.y)
        return jnp.where(trees.all_finite(params), correct, jnp.nan)

    def interval(state: State, span: Any) -> tuple[State, Float[Array, ""]]:
        state = advance_alone(student, state, knobs[1], teachers, student_key, train, *span)
        return state, accuracy(student.net, state.params)

    spans = jnp.concatenate([jnp.array([student.first_step], jnp.int32), eval_steps[:-1]]), eval_steps
    end, curve = jax.lax.scan(interval, begin, spans)
    final = training_step.add_final_noise(knobs[1], end.params, student_key)
    curve = curve.at[-1].set(accuracy(student.net, final))
    nets = map(trees.unflatten_layers, (teachers.initial, teachers.trained, initial.params, final))
    return Pair(*nets, eval_steps=eval_steps, accuracy=curve, teacher_accuracy=accuracy(net, teachers.trained))


def _teacher(phase: Phase, student: Recipe, train: ImageData, key: Key[Array, ""]) -> TeacherParams:
    """The teacher as drawn and as trained, with the auxiliary head that the student needs."""
    image, recipe, knobs = train.x.shape[1:], phase.recipe, phase.knobs
    begin = training_step.init_state(recipe, knobs, None, image, key)
    stop = jnp.int32(recipe.eval_steps[-1])
    end = advance_alone(recipe, begin, knobs, None, key, train, jnp.int32(0), stop).params
    assert student.teacher is not None
    attach = functools.partial(training_step.attach_layers, student.teacher, recipe.init, image=image, key=key)
    return TeacherParams(attach({}), attach(end, knobs=knobs))
