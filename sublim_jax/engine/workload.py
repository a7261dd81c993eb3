"""The calls of a run with predicted times, for the progress display. Rates were measured on 2 CPU cores."""

from collections.abc import Iterator, Sequence
from typing import Any

from sublim_jax.core.types import Recipe
from sublim_jax.engine import schedule
from sublim_jax.engine.plan import Group, Plan
from sublim_jax.engine.progress import Call
from sublim_jax.engine.schedule import SeedBatch, WorkUnit
from sublim_jax.nets.costs import multiply_adds, step_macs

Image = tuple[int, ...]
_MACS_PER_SECOND = 1.4e11
_PER_CALL, _PER_STUDENT = 0.01, 0.01  # seconds besides the products: of a call, and to measure a student
_ADVANCE, _EVALUATE, _ATTACH, _INIT = 0.5, 4.0, 0.75, 0.65  # seconds to compile


def train(phase: str, recipe: Recipe, nets: int, seeds: int, image: Image, steps: int) -> Call:
    """A call that trains `nets` nets of each of `seeds` seeds for some steps."""
    seconds = _PER_CALL + steps * step_macs(recipe, nets * seeds, image) / _MACS_PER_SECOND
    return Call(phase, seconds, (phase, recipe, nets, seeds), _ADVANCE + 0.1 * nets)


def prepare(group: Group, seed_batch: SeedBatch) -> Call:
    """The call that attaches heads to teachers."""
    program = ("preparing", group.teacher, group.recipe.teacher, group.recipe.init, len(seed_batch.seeds))
    return Call("preparing", 0.05, program, _ATTACH)


def initialize(phase: str, recipe: Recipe, nets: int, seeds: int, image: Image) -> Call:
    """A call that draws the nets of a phase, and trains host and donor where they go on from another state."""
    seconds = 0.02 + 2 * recipe.first_step * step_macs(recipe, seeds, image) / _MACS_PER_SECOND
    return Call("preparing", seconds, ("initial", phase, recipe, nets, seeds), _INIT)


def measure(group: Group, seed_batch: SeedBatch, image: Image, rows: int, last: bool) -> Call:
    """A call that measures the students of a group on `rows` inputs."""
    recipe, seeds = group.recipe, len(seed_batch.seeds)
    passes = 2 * sum(multiply_adds(net, image) for net in (recipe.net, recipe.teacher) if net is not None)
    each = _PER_STUDENT + 3.5 * rows * passes / _MACS_PER_SECOND
    ends = last and group.has_final_noise
    program = ("measuring", recipe, group.knobs.size, group.untrained_layers, seeds, ends)
    return Call("measuring", _PER_CALL + each * group.knobs.size * seeds, program, _EVALUATE, programs=2)


def stops(recipe: Recipe, save_every: int, step: int | None = None) -> list[int]:
    """The steps at which compiled calls end, after `step` or the first: evaluation steps, multiples of `save_every`."""
    step = recipe.first_step if step is None else step
    ends = {*range(0, recipe.eval_steps[-1], save_every), *recipe.eval_steps}
    return sorted(end for end in ends if end > step)


def training(
    phase: str, recipe: Recipe, nets: int, seeds: int, image: Image, save_every: int, step: int | None = None
) -> Iterator[tuple[int, Call]]:
    """The calls that train nets from `step`, or the first, to the end, each with the step at which it ends."""
    step = recipe.first_step if step is None else step
    for stop in stops(recipe, save_every, step):
        yield stop, train(phase, recipe, nets, seeds, image, stop - step)
        step = stop


def calls(plan: Plan, units: Sequence[WorkUnit], image: Image, rows: int, save_every: int) -> Iterator[Call]:
    """All calls of some units of work, as if nothing were saved from earlier runs."""
    trained: set[Any] = set()
    for group, seed_batch in units:
        batches, seeds = schedule.teacher_batches(group, seed_batch), len(seed_batch.seeds)
        for name in [(group.teacher, batch.name) for batch in batches]:
            if name not in trained:
                recipe = plan.teachers[group.teacher].recipe
                yield initialize("teachers", recipe, 1, seeds, image)
                yield from (call for _, call in training("teachers", recipe, 1, seeds, image, save_every))
            trained.add(name)
        yield prepare(group, seed_batch)
        yield initialize("students", group.recipe, group.knobs.size, seeds, image)
        students = training("students", group.recipe, group.unique_knobs.size, seeds, image, save_every)
        yield from (call for _, call in students)
        for step in group.recipe.eval_steps:
            yield measure(group, seed_batch, image, rows, step == group.recipe.eval_steps[-1])
