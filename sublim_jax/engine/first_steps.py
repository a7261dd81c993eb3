"""A student's first steps after a teacher that stands a little way from where both began, for many seeds. In float64.

The teacher is not trained but stands at theta_0 + eps * displacement, where displacement is minus the gradient of its
loss on its first batch. What is measured stands beside what Theorem 1 of Cloud et al. 2026 says of it.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sublim_jax.core import keys
from sublim_jax.core.types import ImageData, Knobs, ModelOutput, Params, Phase, Recipe, State
from sublim_jax.theory import first_order
from sublim_jax.training import losses, population
from sublim_jax.training import step as training_step


class Grid(NamedTuple):
    """What is measured of one condition.

    eps      how far the teacher stands from theta_0, in units of minus its loss's gradient
    alpha    how far along the student's displacement the teacher's loss is taken; 1 = where the student stands
    samples  labels drawn from the teacher's softmax for each input; 0 = the student sees the distribution
    draws    how often they are drawn
    """

    eps: tuple[float, ...] = (1e-3,)
    alpha: tuple[float, ...] = (1.0,)
    samples: int = 0
    draws: int = 100


class StartingPoint(NamedTuple):
    """Where teacher and student of one seed begin, what the teacher learned, its lesson, the student's first inputs."""

    origin: Params
    begun: Params
    displacement: Params
    task: training_step.Batch
    x: Any


@contextmanager
def float64(on: bool = True) -> Iterator[None]:
    """Float64 inside (or not), under the name that this version of JAX has for it (since 0.8 `jax.enable_x64`)."""
    module = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with module.enable_x64(on):
        yield


def measure(
    teacher: Phase, student: Phase, grid: Grid, shared: bool, who: Sequence[Any], bank: ImageData
) -> dict[str, Any]:
    """What `run` names, [seed, eps, mark, alpha]; `who` are the seeds' keys of the phases teacher and student.

    Drawing, teaching and measuring are programs of their own, which many conditions share: compiling is most of a run.
    """
    net, init, image = student.recipe.teacher, teacher.recipe.init, bank.x.shape[1:]
    origins = _draw(net, init, image, who[0])
    fresh = origins if shared else _draw(student.recipe.net, student.recipe.init, image, who[1])
    moved, tasks = _teach(teacher.recipe, teacher.knobs, origins, who[0], bank)
    x = _look(student.recipe.stream, student.recipe.batch, student.knobs, who[1], bank)
    places = StartingPoint(origins, fresh, moved, tasks, x)
    more = jnp.asarray(grid.eps), jnp.asarray(grid.alpha), jnp.asarray(shared)
    # What decides no program here, so that conditions that differ in it share one.
    recipe = (
        student.recipe if student.recipe.eval_steps[-1] > 1 else dataclasses.replace(student.recipe, stream=_nothing)
    )
    task = dataclasses.replace(teacher.recipe, eval_steps=(1,))
    sampled = grid.samples, grid.draws
    return _measure(task, recipe, sampled, more, (teacher.knobs, student.knobs), places, who[1], bank)


def _nothing(*_: Any) -> Any:
    """The stream of those whose inputs are there already."""
    raise NotImplementedError


def _each(one: Callable[[Any], Any], many: Any) -> Any:
    """Seeds stand side by side on accelerators, one after another on CPU, as in `population`."""
    return jax.vmap(one)(many) if population.use_vmap() else jax.lax.map(one, many)


@functools.partial(jax.jit, static_argnames=("net", "init", "image"))
def _draw(net: Any, init: Any, image: tuple[int, ...], who: Any) -> Params:
    """Initial weights [seed], those that `population` would draw."""
    return _double(
        _each(lambda key: training_step.init_params(net, init, image, keys.at(key, keys.INITIAL_WEIGHTS)), who)
    )


@functools.partial(jax.jit, static_argnames=("recipe",))
def _teach(
    recipe: Recipe, knobs: Knobs, origins: Params, who: Any, bank: ImageData
) -> tuple[Params, training_step.Batch]:
    """Minus the gradient of the teacher's loss on its first batch, and that batch [seed]."""

    def one(pair: Any) -> Any:
        task = training_step.make_batch(recipe, knobs, None, pair[1], bank, jnp.int32(0))
        moved = first_order.student_step(functools.partial(_taught, recipe, knobs, task), pair[0])
        return {name: _times(layer, knobs.trainable.get(name, jnp.float32(1))) for name, layer in moved.items()}, task

    return _each(one, (origins, who))


@functools.partial(jax.jit, static_argnames=("stream", "size"))
def _look(stream: Any, size: int, knobs: Knobs, who: Any, bank: ImageData) -> Any:
    """The students' first inputs [seed]."""
    return _each(lambda key: stream(keys.at(key, keys.INPUTS), jnp.int32(0), size, knobs, bank)[0], who)


def _taught(recipe: Recipe, knobs: Knobs, task: training_step.Batch, params: Params) -> Any:
    values = recipe.loss(training_step.apply(recipe.net, params, task.x), task.target, knobs)
    return values.mean(where=task.target >= 0)


@functools.partial(jax.jit, static_argnames=("teacher", "student", "sampled"))
def _measure(
    teacher: Recipe,
    student: Recipe,
    sampled: tuple[int, int],
    more: Any,
    knobs: Any,
    places: StartingPoint,
    who: Any,
    bank: ImageData,
) -> dict[str, Any]:
    def one(pair: Any) -> dict[str, Any]:
        return _seed(
            student, sampled, more, knobs, functools.partial(_taught, teacher, knobs[0]), pair[0], pair[1], bank
        )

    return _each(one, (places, who))


def _seed(
    student: Recipe,
    sampled: tuple[int, int],
    more: Any,
    knobs: Any,
    taught: Any,
    place: StartingPoint,
    key: Any,
    bank: ImageData,
) -> dict[str, Any]:
    """All measurements of one seed, [eps, mark, alpha]."""
    (many, far, shared), knobs = more, knobs[1]

    def outputs(params: Params) -> Any:
        return training_step.apply(student.net, params, place.x).logits

    leading = first_order.leading_step(outputs, place.begun, place.displacement, curvature(student, knobs))
    quadratic = jnp.where(shared, leading.quadratic, jnp.nan)
    expected = first_order.overlap(leading.step, place.displacement, 1.0, leading.quadratic).cosine
    before = taught(place.task, place.begun)

    def at(eps: Any) -> dict[str, Any]:
        if sampled[0]:
            walked = [_sampled(sampled, knobs, place, outputs, eps, quadratic, key)]
        else:
            walked = _walk(student, knobs, place, eps, quadratic, key, bank)
        found = []
        for mark, (measured, moved) in zip(student.eval_steps, walked, strict=True):
            change = jax.lax.map(lambda a, d=moved: taught(place.task, first_order.plus(place.begun, d, a)), far)
            measured |= {"loss_change": change - before, "theory/inner": quadratic}
            measured["theory/cosine"] = jnp.where(shared, expected, jnp.nan)
            measured["theory/loss_change"] = -far * jnp.float64(knobs.lr) * mark * eps * quadratic
            found.append({name: jnp.broadcast_to(value, far.shape) for name, value in measured.items()})
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    return jax.lax.map(at, many)


def _walk(
    student: Recipe, knobs: Knobs, place: StartingPoint, eps: Any, quadratic: Any, key: Any, bank: ImageData
) -> list[tuple[dict[str, Any], Params]]:
    """At every mark what is measured, and the student's displacement.

    The displacement is what is trained, seen through theta_0 + displacement: after one step of gradient descent it is
    the gradient itself, without the digits that a difference of parameters would lose.
    """
    reference = first_order.plus(place.origin, place.displacement, eps)
    still = jax.tree.map(jnp.zeros_like, place.begun)
    state, reached, found = State(still, student.optimizer().init(still)), 0, []

    def view(moved: Params) -> Params:
        return first_order.plus(place.begun, moved)

    def step(number: Any, state: State) -> State:
        given = training_step.make_batch(student, knobs, reference, key, bank, number)
        return training_step.train_step(student, state, knobs, given, view)

    only = training_step.Batch(place.x, None, training_step.apply(student.net, reference, place.x))

    for mark in student.eval_steps:
        if student.eval_steps == (1,):
            state = training_step.train_step(student, state, knobs, only, view)
        else:
            state = jax.lax.fori_loop(jnp.int32(reached), jnp.int32(mark), step, state)
        reached, rate = mark, 1 / (jnp.float64(knobs.lr) * max(mark, 1))
        each = jax.tree.map(lambda leaf, rate=rate: leaf * rate, state.params)
        there = first_order.overlap(each, place.displacement, eps, quadratic)
        measured = {"positive": (there.inner > 0) * 1.0, "norm": first_order.norm(each), **there._asdict()}
        found.append(({**measured, "theory/positive": jnp.where(quadratic > 0, 1.0, jnp.nan)}, state.params))
    return found


def _sampled(
    sampled: tuple[int, int], knobs: Knobs, place: StartingPoint, outputs: Any, eps: Any, quadratic: Any, key: Any
) -> tuple[dict[str, Any], Params]:
    """One step on labels drawn from the teacher: the gradient's inner product needs J displacement alone."""
    samples, draws = sampled
    said = outputs(first_order.plus(place.origin, place.displacement, eps))
    ours, u = jax.jvp(outputs, (place.begun,), (place.displacement,))
    bounds = jnp.cumsum(first_order.probabilities(said, knobs.logit_mask), -1)[None]  # [1, batch, logits]
    mean = (first_order.probabilities(ours, knobs.logit_mask) * u).sum(-1).mean()

    def draw(number: Any) -> Any:
        words = keys.uniform(keys.at(key, keys.SAMPLED_LABELS, number), (samples, len(said), 1)).astype(jnp.float64)
        label = jnp.minimum((words >= bounds).sum(-1), u.shape[-1] - 1)  # [sample, batch]
        return jnp.take_along_axis(u, label.T, axis=-1).mean() - mean

    inner = jax.lax.map(draw, jnp.arange(draws, dtype=jnp.uint32))
    chance = first_order.positive(eps, quadratic, jnp.float64(samples * len(said)))
    inner_mean = inner.mean() / eps
    measured = {"positive": (inner > 0).mean(), "inner": inner_mean, "ratio": inner_mean / quadratic}
    measured |= {"cosine": jnp.nan, "norm": jnp.nan, "theory/positive": chance}
    return measured, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), place.begun)


def curvature(student: Recipe, knobs: Knobs) -> first_order.Curvature:
    """M of a recipe's loss; in closed form where it is known."""
    seen = knobs.logit_mask.astype(jnp.float64)
    if student.loss is losses.mse:
        return first_order.squared(seen / seen.sum())
    if student.loss is losses.kl:
        return first_order.softmax(knobs.logit_mask, jnp.float64(knobs.temperature))

    def loss(z: Any, y: Any) -> Any:
        nothing: Any = jnp.zeros((len(z), 1))
        return student.loss(ModelOutput(nothing, z, {}), ModelOutput(nothing, y, {}), knobs)

    return first_order.of_loss(loss)


def _times(layer: Any, rate: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf * rate, layer)


def _double(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
