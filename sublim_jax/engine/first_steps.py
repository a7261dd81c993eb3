"""A student's first steps on a teacher close to their common initialisation, for many seeds, in float64.

The teacher is not trained: its parameters are theta_0 + eps * displacement, where displacement is minus the gradient of
its loss on its first batch. Measurements are compared with Theorem 1 of Cloud et al. 2026.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sublim_jax.core import keys
from sublim_jax.core.types import ImageData, Knobs, ModelOutput, Params, Phase, Recipe, State
from sublim_jax.metrics.evaluate import allow_nan
from sublim_jax.theory import first_order
from sublim_jax.training import losses, population, streams
from sublim_jax.training import step as training_step


class Grid(NamedTuple):
    """What is measured of one condition.

    Attributes:
        eps: Distance of the teacher from theta_0, in units of minus its loss's gradient.
        alpha: Fraction of the student's displacement at which the teacher's loss is evaluated; 1 = at the student.
        samples: Labels drawn from the teacher's softmax for each input; 0 = the student sees the distribution.
        draws: Number of repetitions of the drawing.
    """

    eps: tuple[float, ...] = (1e-3,)
    alpha: tuple[float, ...] = (1.0,)
    samples: int = 0
    draws: int = 100


class StartingPoint(NamedTuple):
    """Initial nets of one seed, the teacher's displacement and first batch, the student's first inputs and its key."""

    origin: Params
    begun: Params
    displacement: Params
    task: training_step.Batch
    x: Any
    key: Any


@contextmanager
def float64(on: bool = True) -> Iterator[None]:
    """Float64 in the body (or not); the function moved to `jax.enable_x64` in JAX 0.8."""
    module = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with module.enable_x64(on):
        yield


def measure(
    teacher: Phase, student: Phase, grid: Grid, shared: bool, phase_keys: Sequence[Any], bank: ImageData
) -> dict[str, Any]:
    """Measure the first steps of some seeds; conditions share the programs, because compiling is most of a run.

    Args:
        teacher: Phase of the teacher.
        student: Phase of the student.
        grid: What is measured.
        shared: Whether the student begins at the teacher's theta_0.
        phase_keys: Keys [seed] of the phases teacher and student.
        bank: Training images.

    Returns:
        The columns of `theorem1.run`, [seed, eps, evaluation step, alpha].
    """
    net, init, image = student.recipe.teacher, teacher.recipe.init, bank.x.shape[1:]
    origins = _draw(net, init, image, phase_keys[0])
    begun = origins if shared else _draw(student.recipe.net, student.recipe.init, image, phase_keys[1])
    displacement, task = _teacher_step(teacher.recipe, teacher.knobs, origins, phase_keys[0], bank)
    x = _first_inputs(student.recipe.stream, student.recipe.batch, student.knobs, phase_keys[1], bank)
    starts = StartingPoint(origins, begun, displacement, task, x, phase_keys[1])
    # Conditions that differ in unused parts of the recipes share a program; the first inputs are drawn already.
    recipe = student.recipe
    recipe = dataclasses.replace(recipe, stream=streams.uniform) if recipe.eval_steps == (1,) else recipe
    recipes = dataclasses.replace(teacher.recipe, eval_steps=(1,)), recipe
    axes = np.asarray(grid.eps), np.asarray(grid.alpha), np.asarray(shared)
    return _measure(recipes, (grid.samples, grid.draws), axes, (teacher.knobs, student.knobs), starts, bank)


@functools.partial(jax.jit, static_argnames=("net", "init", "image"))
def _draw(net: Any, init: Any, image: tuple[int, ...], seed_keys: Any) -> Params:
    """Initial parameters [seed], the same that `population` draws."""

    def one_seed(key: Any) -> Params:
        return training_step.init_params(net, init, image, keys.at(key, keys.INITIAL_WEIGHTS))

    params = population.each_seed(one_seed, None, (seed_keys,), ())
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


@functools.partial(jax.jit, static_argnames=("recipe",))
def _teacher_step(
    recipe: Recipe, knobs: Knobs, origins: Params, seed_keys: Any, bank: ImageData
) -> tuple[Params, training_step.Batch]:
    """Minus the gradient of the teacher's loss on its first batch, and that batch [seed]."""

    def one_seed(origin: Params, key: Any) -> Any:
        task = training_step.make_batch(recipe, knobs, None, key, bank, jnp.int32(0))
        moved = first_order.student_step(functools.partial(_teacher_loss, recipe, knobs, task), origin)
        rates = {name: knobs.trainable.get(name, jnp.float32(1)) for name in moved}
        return {name: jax.tree.map(lambda leaf, r=rates[name]: leaf * r, moved[name]) for name in moved}, task

    return population.each_seed(one_seed, None, (origins, seed_keys), ())


@functools.partial(jax.jit, static_argnames=("stream", "size"))
def _first_inputs(stream: Any, size: int, knobs: Knobs, seed_keys: Any, bank: ImageData) -> Any:
    """The students' first inputs [seed]."""

    def one_seed(key: Any) -> Any:
        return stream(keys.at(key, keys.INPUTS), jnp.int32(0), size, knobs, bank)[0]

    return population.each_seed(one_seed, None, (seed_keys,), ())


def _teacher_loss(recipe: Recipe, knobs: Knobs, task: training_step.Batch, params: Params) -> Any:
    values = recipe.loss(training_step.apply(recipe.net, params, task.x), task.target, knobs)
    return values.mean(where=task.target >= 0)


@allow_nan
@functools.partial(jax.jit, static_argnames=("recipes", "sampled"))
def _measure(
    recipes: tuple[Recipe, Recipe],
    sampled: tuple[int, int],
    axes: tuple[Any, Any, Any],
    knobs: tuple[Knobs, Knobs],
    starts: StartingPoint,
    bank: ImageData,
) -> dict[str, Any]:
    """All measurements [seed, eps, evaluation step, alpha]; recipes and knobs are those of teacher and student."""
    (teacher, student), (all_eps, alpha, shared) = recipes, axes

    def one_seed(start: StartingPoint) -> dict[str, Any]:
        def outputs(params: Params) -> Any:
            return training_step.apply(student.net, params, start.x).logits

        def loss_at(moved: Params, fraction: Any) -> Any:
            return _teacher_loss(teacher, knobs[0], start.task, first_order.plus(start.begun, moved, fraction))

        leading = first_order.leading_step(outputs, start.begun, start.displacement, curvature(student, knobs[1]))
        quadratic = jnp.where(shared, leading.quadratic, jnp.nan)
        expected = first_order.overlap(leading.step, start.displacement, 1.0, leading.quadratic).cosine
        before = _teacher_loss(teacher, knobs[0], start.task, start.begun)

        def at(eps: Any) -> dict[str, Any]:
            if sampled[0]:
                steps = [_sampled(sampled, knobs[1], start, outputs, eps, quadratic)]
            else:
                steps = _walk(student, knobs[1], start, eps, quadratic, bank)
            columns = []
            for step, (measured, moved) in zip(student.eval_steps, steps, strict=True):
                change = jax.lax.map(functools.partial(loss_at, moved), alpha) - before
                measured |= {"loss_change": change, "theory/inner": quadratic}
                measured["theory/cosine"] = jnp.where(shared, expected, jnp.nan)
                measured["theory/loss_change"] = -alpha * jnp.float64(knobs[1].lr) * step * eps * quadratic
                columns.append({name: jnp.broadcast_to(value, alpha.shape) for name, value in measured.items()})
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *columns)

        return jax.lax.map(at, all_eps)

    return population.each_seed(one_seed, None, (starts,), ())


def _walk(
    student: Recipe, knobs: Knobs, start: StartingPoint, eps: Any, quadratic: Any, bank: ImageData
) -> list[tuple[dict[str, Any], Params]]:
    """The measurements and the student's displacement at every evaluation step.

    The displacement is trained, not theta_0 + displacement: after one step of gradient descent it is the gradient
    itself, without the rounding of a difference of parameters.
    """
    reference = first_order.plus(start.origin, start.displacement, eps)
    still = jax.tree.map(jnp.zeros_like, start.begun)
    state, reached, walk = State(still, student.optimizer().init(still)), 0, []

    def view(moved: Params) -> Params:
        return first_order.plus(start.begun, moved)

    def step(number: Any, state: State) -> State:
        batch = training_step.make_batch(student, knobs, reference, start.key, bank, number)
        return training_step.train_step(student, state, knobs, batch, view)

    only = training_step.Batch(start.x, None, training_step.apply(student.net, reference, start.x))

    for stop in student.eval_steps:
        if student.eval_steps == (1,):
            state = training_step.train_step(student, state, knobs, only, view)
        else:
            state = jax.lax.fori_loop(jnp.int32(reached), jnp.int32(stop), step, state)
        reached, rate = stop, 1 / (jnp.float64(knobs.lr) * max(stop, 1))
        each = jax.tree.map(lambda leaf, rate=rate: leaf * rate, state.params)
        overlap = first_order.overlap(each, start.displacement, eps, quadratic)
        measured = {"positive": _positive(overlap.inner), "norm": first_order.norm(each), **overlap._asdict()}
        walk.append(({**measured, "theory/positive": jnp.where(quadratic > 0, 1.0, jnp.nan)}, state.params))
    return walk


def _sampled(
    sampled: tuple[int, int], knobs: Knobs, start: StartingPoint, outputs: Any, eps: Any, quadratic: Any
) -> tuple[dict[str, Any], Params]:
    """One step on labels drawn from the teacher; its inner product needs only J displacement."""
    samples, draws = sampled
    taught = outputs(first_order.plus(start.origin, start.displacement, eps))
    ours, u = jax.jvp(outputs, (start.begun,), (start.displacement,))
    bounds = jnp.cumsum(first_order.probabilities(taught, knobs.logit_mask), -1)[None]  # [1, batch, logits]
    mean = (first_order.probabilities(ours, knobs.logit_mask) * u).sum(-1).mean()

    def draw(number: Any) -> Any:
        uniform = keys.uniform(keys.at(start.key, keys.SAMPLED_LABELS, number), (samples, len(taught), 1))
        label = jnp.minimum((uniform.astype(jnp.float64) >= bounds).sum(-1), u.shape[-1] - 1)  # [sample, batch]
        return jnp.take_along_axis(u, label.T, axis=-1).mean() - mean

    inner = jax.lax.map(draw, jnp.arange(draws, dtype=jnp.uint32))
    inner = jnp.where(jnp.isfinite(taught).all(), inner, jnp.nan)  # comparisons with NaN would always draw the first
    chance = first_order.positive(eps, quadratic, jnp.float64(samples * len(taught)))
    inner_mean = inner.mean() / eps
    measured = {"positive": _positive(inner).mean(), "inner": inner_mean, "ratio": inner_mean / quadratic}
    measured |= {"cosine": jnp.nan, "norm": jnp.nan, "theory/positive": chance}
    return measured, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), start.begun)


def _positive(inner: Any) -> Any:
    """1 where an inner product is positive, 0 where it is not, NaN where a net diverged."""
    return jnp.where(jnp.isfinite(inner), (inner > 0) * 1.0, jnp.nan)


def curvature(student: Recipe, knobs: Knobs) -> first_order.Curvature:
    """The curvature M of a recipe's loss, in closed form where one is known."""
    seen = knobs.logit_mask.astype(jnp.float64)
    if student.loss is losses.mse:
        return first_order.squared(seen / seen.sum())
    if student.loss is losses.kl:
        return first_order.softmax(knobs.logit_mask, jnp.float64(knobs.temperature))

    def loss(z: Any, y: Any) -> Any:
        nothing: Any = jnp.zeros((len(z), 1))
        return student.loss(ModelOutput(nothing, z, {}), ModelOutput(nothing, y, {}), knobs)

    return first_order.of_loss(loss)
