"""From conditions to rows: the page to read first.

    for seed_batch, group in work:
        teachers = attach_heads(train_teachers(group.teacher, seed_batch))
        train_students(group, seed_batch, teachers)             # at every evaluation step: measure, write rows, save

Modules above this one turn a config into conditions and rows into figures; modules below train.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from sublim_jax import metrics, results
from sublim_jax.core import keys, trees
from sublim_jax.core.types import Condition, ImageData, Params, Recipe, State, TeacherParams
from sublim_jax.data.load import Dataset, first_classes
from sublim_jax.engine import checkpoint, schedule, teacher_cache
from sublim_jax.engine import params as stored_params
from sublim_jax.engine.plan import Group, Plan, describe_plan, make_plan
from sublim_jax.engine.schedule import ResourceLimits, SeedBatch, WorkUnit
from sublim_jax.engine.session import Session
from sublim_jax.engine.teacher_cache import TeacherCache
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import evaluate
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import population
from sublim_jax.training.targets import needs_unrelated_teachers


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContext:
    """What every unit of work needs.

    Attributes:
        images: From a number of classes (0 = all) to the images for training and for testing with labels below it.
        caches: Where each teacher of the plan is kept.
        image: Shape of one image.
    """

    plan: Plan
    session: Session
    workdir: results.Workdir
    images: Callable[[int], tuple[ImageData, ImageData]]
    root: Any
    metrics: tuple[metrics.Metric, ...]
    num_eval_noise: int
    caches: tuple[TeacherCache, ...]
    limits: ResourceLimits
    mesh: Any
    image: tuple[int, ...]

    def work(self, done: Mapping[tuple[frozenset, int], set[int]] | None = None) -> list[WorkUnit]:
        """Units of work of this process, without what is `done`."""
        return schedule.work_units(self.plan, self.session.seeds, self.image, self.limits, self.session.shard, done)


def run(
    conditions: Sequence[Condition] | Plan,
    dataset: Dataset,
    session: Session,
    *,
    root_seed: int = 0,
    metrics: tuple[metrics.Metric, ...] = (*metrics.ALL, *predictions.ALL),
    num_eval_noise: int = 2000,
) -> pd.DataFrame:
    """Train the teachers and students of every condition for every seed and measure the students.

    Args:
        conditions: Conditions, or their plan; see `plan.make_plan`.
        dataset: Images with labels; see `data.load`.
        session: Seeds, work directory and options.
        root_seed: Seed of the key from which all draws of the sweep are derived.
        metrics: Functions that measure a student; see `sublim_jax.metrics`.
        num_eval_noise: Number of held-out inputs of the student's own stream on which imitation is measured.

    Returns:
        All rows of the work directory, one per condition, seed and evaluation step, also those of other jobs.

    Raises:
        ConfigError: A value cannot be used, or the work directory belongs to another config.
        Interrupted: `session.stopped` returned True.
    """
    plan = make_plan(conditions, dataset.train.x.shape[1:])

    def identity() -> dict[str, Any]:
        numbers = {"seeds": session.seeds, "root_seed": root_seed, "num_eval_noise": num_eval_noise}
        return {**(session.config or {"plan": describe_plan(plan), **numbers}), **data_identity(dataset, metrics)}

    with session.open(identity) as workdir:
        context = make_context(plan, session, workdir, dataset, root_seed, metrics, num_eval_noise)
        work = context.work(_done(workdir.path, session.options.keep_params))
        with session.record(workdir, schedule.total_cost(plan, work, context.image), "training", session.devices):
            _run_units(context, work)
        return results.load(workdir.path, empty=True)


def make_context(
    plan: Plan,
    session: Session,
    workdir: results.Workdir,
    dataset: Dataset,
    root_seed: int,
    metrics: tuple[metrics.Metric, ...],
    num_eval_noise: int,
) -> RunContext:
    """The context of a session whose work directory is open; arguments as in `run`."""
    options, devices = session.options, session.devices
    common = teacher_cache.common_identity(data_identity(dataset, ()), root_seed, options.precision, devices)
    rows = len(dataset.test.y) + num_eval_noise
    return RunContext(
        plan=plan,
        session=session,
        workdir=workdir,
        images=image_data_by_classes(dataset),
        root=keys.root(root_seed),
        metrics=metrics,
        num_eval_noise=num_eval_noise,
        caches=teacher_cache.teacher_caches(plan, options.teachers or workdir.path / "teachers", common),
        limits=ResourceLimits(options.memory_gb, rows, devices, population.use_vmap(), options.seed_batch),
        mesh=population.mesh_of(devices),
        image=dataset.train.x.shape[1:],
    )


def _done(workdir: Path, keep_params: bool) -> Mapping[tuple[frozenset, int], set[int]]:
    """The seeds that need no work for each condition and evaluation step: rows are there, and parameters if wanted."""
    done = results.completed(workdir)
    if not keep_params:
        return done
    stored = stored_params.stored_seeds(workdir)
    return {(labels, step): seeds & stored.get(labels, set()) for (labels, step), seeds in done.items()}


def data_identity(dataset: Dataset, metrics: Sequence[metrics.Metric]) -> dict[str, Any]:
    """Plain values that identify results besides the conditions."""
    images = dataset.train
    return {
        "data_sha256": dataset.checksum,
        "normalised_by": [float(images.mean), float(images.std)],
        "metrics": [metric.__qualname__ for metric in metrics],
    }


def image_data_by_classes(dataset: Dataset) -> Callable[[int], tuple[ImageData, ImageData]]:
    """The function `RunContext.images`; JAX keeps the arrays of its latest call."""

    @functools.lru_cache(maxsize=1)
    def images(classes: int) -> tuple[ImageData, ImageData]:
        train, test = (first_classes(split, classes) for split in (dataset.train, dataset.test))
        return jax.tree.map(jnp.asarray, (train, test))

    return images


def _run_units(context: RunContext, work: Sequence[WorkUnit]) -> None:
    """Run the units in order; trained teachers of a seed batch serve consecutive groups, then they are dropped."""
    trained: dict[tuple[int, str], Params] = {}
    for group, seed_batch in work:
        unrelated = needs_unrelated_teachers(group.recipe.target_transform)
        batches = [seed_batch, *([schedule.unrelated_seeds(seed_batch)] if unrelated else [])]
        earlier, trained = trained, {}
        for batch in batches:
            name = group.teacher, batch.name
            trained[name] = earlier[name] if name in earlier else train_teachers(context, group.teacher, batch)
        own, *others = (attach_heads(context, group, batch, trained[group.teacher, batch.name]) for batch in batches)
        train_students(context, group, seed_batch, own._replace(unrelated=others[0].trained) if others else own)


def train_teachers(context: RunContext, teacher: int, seed_batch: SeedBatch) -> Params:
    """Parameters [seed] of a trained teacher, from the cache where they are there."""
    phase, cache, progress = context.plan.teachers[teacher], context.caches[teacher], context.session.progress
    recipe, knobs = phase.recipe, trees.stack([phase.knobs])
    if (cached := cache.load(seed_batch.seeds)) is not None:
        progress.skip(step_macs(recipe, len(seed_batch.seeds), context.image) * recipe.eval_steps[-1])
        return jax.tree.map(jnp.asarray, cached)
    seed_keys = population.phase_keys(context.root, jnp.asarray(seed_batch.seeds), keys.TEACHER)
    states = population.init_states(recipe, knobs, None, seed_keys, image=context.image, mesh=context.mesh)
    train, _ = context.images(recipe.classes)
    # The name holds the width of the batch, because padding differs on another number of devices, and the shard,
    # because two shards may train the same teachers at the same time.
    shard = "{}of{}".format(*context.session.shard)
    name = f"teacher{teacher:02d}-{seed_batch.name}x{len(seed_batch.seeds)}-{shard}"
    store = checkpoint.Store(context.workdir.path / "teachers" / name)

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, None, seed_keys, train, start, stop, mesh=context.mesh)

    for step, reached in _train_to_eval_steps(context, recipe, states, advance, store, "teachers", seed_batch):
        states = reached
        if store.latest() != step:
            store.save(step, states)
    trained = jax.tree.map(lambda leaf: leaf[:, 0], states.params)  # [seed, 1] as [seed]
    if not cache.save(seed_batch.seeds[: seed_batch.real], trained):
        return trained
    store.remove()
    # The cache decides: if another batch trained a seed too, all students of that seed get the same teacher.
    cached = cache.load(seed_batch.seeds)
    return trained if cached is None else jax.tree.map(jnp.asarray, cached)


def attach_heads(context: RunContext, group: Group, seed_batch: SeedBatch, trained: Params) -> TeacherParams:
    """Teachers with the heads that this group's students need: initial, and trained with post-training noise.

    Initial parameters are without the noise that a sweep adds to the teacher, because students share them so.
    """
    seed_keys = population.phase_keys(context.root, jnp.asarray(seed_batch.seeds), keys.TEACHER)
    net, init = group.recipe.teacher, context.plan.teachers[group.teacher].recipe.init
    common = {"seed_keys": seed_keys, "image": context.image, "mesh": context.mesh}
    attach = functools.partial(population.attach_heads, net, init, **common)
    return TeacherParams(attach(params={}), attach(params=trained, knobs=group.teacher_final_knobs))


def train_students(context: RunContext, group: Group, seed_batch: SeedBatch, teachers: TeacherParams) -> None:
    """Train the group's students; measure them and write their rows at every evaluation step."""
    recipe, knobs, workdir = group.recipe, group.unique_knobs, context.workdir
    seed_keys = population.phase_keys(context.root, jnp.asarray(seed_batch.seeds), keys.STUDENT)
    states = population.init_states(recipe, knobs, teachers.initial, seed_keys, image=context.image, mesh=context.mesh)
    train, _ = context.images(recipe.classes)
    references = teachers.trained if recipe.target_transform is None else teachers
    name = f"{group.name}-{seed_batch.name}"
    store = checkpoint.Store(workdir.path / "checkpoints" / f"{name}x{len(seed_batch.seeds)}")

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, references, seed_keys, train, start, stop, mesh=context.mesh)

    parts = {step: results.part_name(group.name, seed_batch.name, step) for step in recipe.eval_steps}
    if any(step <= (store.latest() or -1) and not workdir.has(part) for step, part in parts.items()):
        store.clear()  # rows that should be there were deleted: measure them again
    steps = _train_to_eval_steps(context, recipe, states, advance, store, "students", seed_batch, knobs.size)
    for step, reached in steps:
        with context.session.progress.timed("measuring"):
            workdir.write(parts[step], _measure(context, group, seed_batch, teachers, reached, step))
    store.remove()


def _measure(
    context: RunContext, group: Group, seed_batch: SeedBatch, teachers: TeacherParams, states: State, step: int
) -> Any:
    """The rows of students [seed, distinct training] at a step; at the last step parameters are stored, if wanted."""
    recipe, train_index, real_seeds = group.recipe, jnp.asarray(group.train_index), seed_batch.seeds[: seed_batch.real]
    last = step == recipe.eval_steps[-1]
    ends = last and any(np.any(sigma) for sigma in group.knobs.tree.final_noise.values())
    seed_keys = population.phase_keys(context.root, jnp.asarray(seed_batch.seeds), keys.STUDENT)
    common: Any = {"untrained_layers": group.untrained_layers, "ends": ends, "mesh": context.mesh}
    if last and context.session.options.keep_params:  # before the rows, which say that all is done
        given = group.knobs, teachers.initial, seed_keys, train_index
        final = stored_params.final_params(recipe, states.params, *given, image=context.image, **common)
        name = f"{group.name}-{seed_batch.name}"
        stored_params.save_students(context.workdir.path, name, jax.device_get(final), group.labels, real_seeds)
    _, test = context.images(recipe.classes)
    given = group.knobs, teachers.initial, teachers.trained, seed_keys, test, jnp.int32(step), train_index
    common["num_eval_noise"] = context.num_eval_noise
    measured = evaluate(recipe, context.metrics, states, *given, **common)
    return results.tidy(group.labels, real_seeds, step, jax.device_get(measured))


def _train_to_eval_steps(
    context: RunContext,
    recipe: Recipe,
    states: State,
    advance: Callable[[State, Any, Any], State],
    store: checkpoint.Store,
    what: str,
    seed_batch: SeedBatch,
    conditions: int = 1,
) -> Iterator[tuple[int, State]]:
    """Train states from their last checkpoint, if there is one, and yield (step, states) at each evaluation step.

    States are saved after they are yielded, so that a checkpoint at an evaluation step implies its rows. The states of
    the last step are not saved here.
    """
    session, progress = context.session, context.session.progress
    macs = step_macs(recipe, conditions * len(seed_batch.seeds), context.image)
    step, last = 0, recipe.eval_steps[-1]
    if (latest := store.latest()) is not None:
        step, states = latest, store.restore(latest, states)
        progress.skip(macs * step)
    if step in (0, last) and step in recipe.eval_steps:
        yield step, states
    for stop in _stops(recipe.eval_steps, step, session.options.save_every):
        with progress.timed(what):
            states = jax.block_until_ready(advance(states, jnp.int32(step), jnp.int32(stop)))
        progress.advance(macs * (stop - step))
        progress.count(what, (stop - step) * conditions * seed_batch.real)
        step = stop
        if step in recipe.eval_steps:
            yield step, states
        if step < last:
            with progress.timed("saving"):
                store.save(step, states)
        session.stop_if_asked()


def _stops(eval_steps: tuple[int, ...], start: int, every: int) -> list[int]:
    """The steps after `start` at which compiled calls end: evaluation steps, and multiples of `every`."""
    return sorted({step for step in (*range(0, eval_steps[-1], every), *eval_steps) if step > start})
