"""From conditions to rows: the page to read first.

    for seed_batch, group in work:
        teachers = attach_heads(train_teachers(group.teacher, seed_batch))
        train_students(group, seed_batch, teachers)             # at every evaluation step: measure, write rows, save

Modules above this one turn a config into conditions and rows into figures; modules below train.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from sublim_jax import metrics, results
from sublim_jax.core import keys, trees
from sublim_jax.core.types import Condition, ImageData, Params, Recipe, State, TeacherParams
from sublim_jax.data.load import Dataset, first_classes
from sublim_jax.engine import checkpoint, compilation_cache, compile_ahead, schedule, teacher_cache, workload
from sublim_jax.engine import params as stored_params
from sublim_jax.engine.plan import Group, Plan, describe_plan, make_plan
from sublim_jax.engine.schedule import SeedBatch, WorkUnit
from sublim_jax.engine.session import Session
from sublim_jax.engine.teacher_cache import TeacherCache
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import Evaluator, Measurement
from sublim_jax.metrics.student import Metric
from sublim_jax.training import plugins, population


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContext:
    """What every unit of work needs: the plan of a study, its session, its open work directory, arguments of `run`."""

    plan: Plan
    session: Session
    workdir: results.Workdir
    dataset: Dataset
    root_seed: int
    metrics: tuple[metrics.Metric, ...]
    num_eval_noise: int

    @functools.cached_property
    def image(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.dataset.train.x.shape[1:]

    @property
    def rows(self) -> int:
        """Number of inputs on which a student is measured."""
        return len(self.dataset.test.y) + self.num_eval_noise

    @functools.cached_property
    def images(self) -> Callable[[int], tuple[ImageData, ImageData]]:
        """From a number of classes (0 = all) to training and test images with labels below it; the latest are kept."""
        splits = self.dataset.train, self.dataset.test

        @functools.lru_cache(maxsize=1)
        def images(classes: int) -> tuple[ImageData, ImageData]:
            return jax.device_put(tuple(first_classes(split, classes) for split in splits))

        return images

    @functools.cached_property
    def limits(self) -> schedule.ResourceLimits:
        """Limits of a unit of work."""
        names = (getattr(metric, "__name__", "") for metric in self.metrics)
        options, devices = self.session.options, self.session.devices
        return schedule.limits_of(options, self.rows, devices, population.use_vmap(), names)

    @functools.cached_property
    def mesh(self) -> Any:
        """Mesh over the seeds, or None."""
        return population.mesh_of(self.session.devices)

    @functools.cached_property
    def caches(self) -> tuple[TeacherCache, ...]:
        """Where each teacher of the plan is kept."""
        options = self.session.options
        identity = {**data_identity(self.dataset, ()), "root": self.root_seed, "precision": options.precision}
        identity |= {"devices": self.session.devices, "x64": bool(jax.config.read("jax_enable_x64"))}
        return teacher_cache.teacher_caches(self.plan, options.teachers or self.workdir.path / "teachers", identity)

    def seed_keys(self, seed_batch: SeedBatch, phase: str) -> Any:
        """Keys [seed] of the phase teacher or student."""
        return population.keys_by_phase(keys.root(self.root_seed), np.asarray(seed_batch.seeds))[phase]

    def measurement(self, group: Group) -> Measurement:
        """What is measured of the students of a group."""
        return Measurement(group.recipe, self.metrics, self.num_eval_noise, group.untrained_layers)

    def describe(self, group: Group) -> str:
        """The conditions of a group in words, and its number."""
        names = dict.fromkeys(str(labels.get("condition", "")) for labels in group.labels)
        number = 1 + [group.indices[0] in whole.indices for whole in self.plan.groups].index(True)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"condition {next(iter(names))}{more} ({number}/{len(self.plan.groups)})"

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
    _check_recipes(conditions, dataset)
    plan = make_plan(conditions, dataset.train.x.shape[1:])
    check_metrics(plan, dataset, metrics, num_eval_noise)

    def identity() -> dict[str, Any]:
        numbers = {"seeds": session.seeds, "root_seed": root_seed, "num_eval_noise": num_eval_noise}
        return {**(session.config or {"plan": describe_plan(plan), **numbers}), **data_identity(dataset, metrics)}

    with session.open(identity) as workdir:
        context = RunContext(
            plan=plan,
            session=session,
            workdir=workdir,
            dataset=dataset,
            root_seed=root_seed,
            metrics=metrics,
            num_eval_noise=num_eval_noise,
        )
        work = context.work(_done(workdir, session.options.keep_params))
        calls = workload.calls(plan, work, context.image, context.rows, session.options.save_every)
        with session.record(workdir, calls, session.devices):
            _run_units(context, work)
        return results.load(workdir.path, empty=True)


def _check_recipes(conditions: Sequence[Condition] | Plan, dataset: Dataset) -> None:
    """Refuse a user's net, stream, loss, init, transform or optimizer that breaks its contract; see `plugins`."""
    if isinstance(conditions, Plan):
        return
    phases = [(role, getattr(condition, role)) for condition in conditions for role in ("teacher", "student")]
    for role, phase in {(role, phase.recipe): (role, phase) for role, phase in phases}.values():
        plugins.check_phase(role, phase, dataset.train)


def check_metrics(plan: Plan, dataset: Dataset, metrics: Sequence[Metric], num_eval_noise: int) -> None:
    """Refuse a user's metric that breaks its contract, by a trace of the evaluation; see `plugins.columns_of`."""
    own = tuple(metric for metric in metrics if plugins.is_foreign(metric))
    if not own:
        return
    group, image = plan.groups[0], dataset.train.x.shape[1:]

    def traced(seed_keys: Any, test: ImageData, knobs: Any, step: Any) -> Any:
        net, init, final = group.recipe.teacher, plan.teachers[group.teacher].recipe.init, group.teacher_final_knobs
        assert net is not None  # the plan refuses a student without teacher
        teachers = population.attach_heads(net, init, {}, seed_keys, final, image=image)
        recipe = dataclasses.replace(group.recipe, start=None)  # shapes are those of the initial state
        start, _ = population.init_states(recipe, group.knobs, teachers.initial, seed_keys, image=image)
        teacher, key = jax.tree.map(lambda leaf: leaf[0], (teachers, seed_keys))
        params = jax.tree.map(lambda leaf: leaf[0, 0], start)
        return Measurement(group.recipe, own, num_eval_noise).columns(test, teacher, key, knobs, params, params, step)

    seed_keys = jax.eval_shape(lambda: population.phase_keys(keys.root(0), jnp.zeros(1, jnp.int32), keys.STUDENT))
    test, knobs = jax.tree.map(jnp.asarray, (dataset.test, group.knobs.member(0)))
    jax.eval_shape(traced, seed_keys, test, knobs, jnp.int32(1))


def _done(workdir: results.Workdir, keep_params: bool) -> Mapping[tuple[frozenset, int], set[int]]:
    """The seeds that need no work for each condition and evaluation step: rows are there, and parameters if wanted."""
    done = workdir.completed()
    if not keep_params or not done:
        return done
    stored = stored_params.stored_seeds(workdir.path)
    return {(labels, step): seeds & stored.get(labels, set()) for (labels, step), seeds in done.items()}


def data_identity(dataset: Dataset, metrics: Sequence[metrics.Metric]) -> dict[str, Any]:
    """Plain values that identify results besides the conditions."""
    images = dataset.train
    return {
        "data_sha256": dataset.checksum,
        "normalised_by": [float(images.mean), float(images.std)],
        "metrics": [getattr(metric, "__qualname__", None) or plugins.name_of(metric) for metric in metrics],
    }


def _run_units(context: RunContext, work: Sequence[WorkUnit]) -> None:
    """Run the units in order; trained teachers of a seed batch serve consecutive groups, then they are dropped."""
    trained: dict[tuple[int, str], Params] = {}
    drops, predicted = schedule.program_drops(work, context.image, context.limits)
    threads = compile_ahead.count_threads(context.limits, predicted)
    with compile_ahead.CompileAhead(context, work, drops, threads) as ahead:
        for number, (group, seed_batch) in enumerate(work):
            context.session.stop_if_asked()  # here, where no checkpoint of finished work is left
            compilation_cache.release_memory(drops[number])
            ahead.begin(number)
            batches = schedule.teacher_batches(group, seed_batch)
            earlier, trained = trained, {}
            for batch in batches:
                name = group.teacher, batch.name
                trained[name] = earlier[name] if name in earlier else train_teachers(context, group.teacher, batch)
            with context.session.progress.call(workload.prepare(group, seed_batch)):
                given = [(batch, trained[group.teacher, batch.name]) for batch in batches]
                own, *others = (attach_heads(context, group, *each) for each in given)
            context.session.stop_if_asked()
            train_students(context, group, seed_batch, own._replace(unrelated=others[0].trained) if others else own)


def train_teachers(context: RunContext, teacher: int, seed_batch: SeedBatch) -> Params:
    """Parameters [seed] of a trained teacher, from the cache where they are there."""
    (recipe, knobs), cache, session = context.plan.teachers[teacher], context.caches[teacher], context.session
    if (cached := cache.load(seed_batch.seeds)) is not None:
        shape = 1, len(seed_batch.seeds), context.image
        session.progress.skip(workload.initialize("teachers", recipe, *shape))
        for _, call in workload.training("teachers", recipe, *shape, session.options.save_every):
            session.progress.skip(call)
        return cached
    session.progress.subject = ""
    # The name holds the width of the batch, because padding differs on another number of devices, and the shard,
    # because two shards may train the same teachers at the same time.
    name = f"teacher{teacher:02d}-{seed_batch.name}x{len(seed_batch.seeds)}-" + "{}of{}".format(*session.shard)
    store = checkpoint.Store(context.workdir.path / "teachers" / name, context.workdir.identity)
    stacked, trained = trees.stack([knobs]), {}
    _, states = _initialize(context, keys.TEACHER, recipe, stacked, None, seed_batch)
    phase = keys.TEACHER, recipe, stacked, states, None
    for step, states in _train_to_eval_steps(context, *phase, store, seed_batch):
        trained = jax.tree.map(lambda leaf: leaf[:, 0], jax.device_get(states.params))  # [seed, 1] as [seed]
        if store.latest() != step:
            store.save(step, states)
    if not cache.save(seed_batch.seeds[: seed_batch.real], trained):
        return trained
    store.clear()
    # The cache decides: if another batch trained a seed too, all students of that seed get the same teacher.
    cached = cache.load(seed_batch.seeds)
    return trained if cached is None else cached


def attach_heads(context: RunContext, group: Group, seed_batch: SeedBatch, trained: Params) -> TeacherParams:
    """Teachers with the heads that this group's students need: initial, and trained with post-training noise."""
    net, init = group.recipe.teacher, context.plan.teachers[group.teacher].recipe.init
    assert net is not None  # the plan refuses a student without teacher
    common = {"seed_keys": context.seed_keys(seed_batch, keys.TEACHER), "image": context.image, "mesh": context.mesh}
    return population.attach_heads(net, init, trained, knobs=group.teacher_final_knobs, **common)


def train_students(context: RunContext, group: Group, seed_batch: SeedBatch, teachers: TeacherParams) -> None:
    """Train the group's students; measure them and write their rows at every evaluation step."""
    recipe, workdir = group.recipe, context.workdir
    references = teachers.trained if recipe.target_transform is None else teachers
    name = f"{group.name}-{seed_batch.name}"
    store = checkpoint.Store(workdir.path / "checkpoints" / f"{name}x{len(seed_batch.seeds)}", workdir.identity)
    parts = {step: results.part_name(group.name, seed_batch.name, step) for step in recipe.eval_steps}
    if any(step <= (store.latest() or -1) and not workdir.has(part) for step, part in parts.items()):
        store.clear()  # rows that should be there were deleted: measure them again
    context.session.progress.subject = context.describe(group)
    given = keys.STUDENT, recipe, group.knobs, teachers, seed_batch
    start, states = _initialize(context, *given, trained=group.first_trained)
    evaluator = _evaluator(context, group, seed_batch, teachers, start)
    phase = keys.STUDENT, recipe, group.unique_knobs, states, references
    for step, states in _train_to_eval_steps(context, *phase, store, seed_batch):
        call = workload.measure(group, seed_batch, context.image, context.rows, step == recipe.eval_steps[-1])
        with context.session.progress.call(call):
            workdir.write(parts[step], _measure(context, group, seed_batch, evaluator, states, step))
    store.clear()


def _evaluator(
    context: RunContext, group: Group, seed_batch: SeedBatch, teachers: TeacherParams, start: Params
) -> Evaluator:
    """What measures the students of a unit, with initial parameters `start` [seed, condition]."""
    _, test = context.images(group.recipe.classes)
    nets = np.asarray(group.train_index, np.int32), start, teachers, context.seed_keys(seed_batch, keys.STUDENT)
    return Evaluator(context.measurement(group), group.knobs, *nets, test, context.mesh)


def _measure(
    context: RunContext, group: Group, seed_batch: SeedBatch, evaluator: Evaluator, states: State, step: int
) -> Any:
    """The rows of students [seed, distinct training] at a step; at the last step parameters are stored, if wanted."""
    recipe, real_seeds = group.recipe, seed_batch.seeds[: seed_batch.real]
    last = step == recipe.eval_steps[-1]
    ends = last and group.has_final_noise
    if last and context.session.options.keep_params:  # before the rows, which say that all is done
        given = group.knobs, evaluator.teachers.initial, evaluator.seed_keys, evaluator.train_index
        common: Any = {"untrained_layers": group.untrained_layers, "ends": ends, "mesh": context.mesh}
        final = stored_params.final_params(recipe, states.params, *given, image=context.image, **common)
        name = f"{group.name}-{seed_batch.name}"
        stored_params.save_students(context.workdir.path, name, jax.device_get(final), group.labels, real_seeds)
    measured = evaluator(states.params, step, ends=ends)
    return results.tidy(group.labels, real_seeds, step, jax.device_get(measured))


def _initialize(
    context: RunContext,
    phase: str,
    recipe: Recipe,
    knobs: trees.Stack,
    teachers: TeacherParams | None,
    seed_batch: SeedBatch,
    trained: tuple[int, ...] = (0,),
) -> tuple[Params, State]:
    """Initial parameters [seed, condition], and states [seed, training] of the conditions that are trained."""
    common: Any = {"image": context.image, "trained": trained, "mesh": context.mesh, "teachers": teachers}
    call = workload.initialize(f"{phase}s", recipe, knobs.size, len(seed_batch.seeds), context.image)
    with context.session.progress.call(call):
        seed_keys = context.seed_keys(seed_batch, phase)
        initial = None if teachers is None else teachers.initial
        data, _ = context.images(recipe.classes)
        return population.init_states(recipe, knobs, initial, seed_keys, **common, data=data)


def _train_to_eval_steps(
    context: RunContext,
    phase: str,
    recipe: Recipe,
    knobs: trees.Stack,
    states: State,
    references: Params | TeacherParams | None,
    store: checkpoint.Store,
    seed_batch: SeedBatch,
) -> Iterator[tuple[int, State]]:
    """Train nets from their last checkpoint, or from the start, and yield (step, states) at each evaluation step.

    States are saved after they are yielded, so that a checkpoint at an evaluation step implies its rows. The states of
    the last step are not saved here.
    """
    session, progress, nets = context.session, context.session.progress, f"{phase}s"
    seed_keys, mesh = context.seed_keys(seed_batch, phase), context.mesh
    train, _ = context.images(recipe.classes)
    shape = knobs.size, len(seed_batch.seeds), context.image
    step, last = recipe.first_step, recipe.eval_steps[-1]
    if saved := store.restore(states):
        step, states = saved
        progress.skip(workload.train(nets, recipe, *shape, step - recipe.first_step))
    if step in (recipe.first_step, last) and step in recipe.eval_steps:
        yield step, states
    for stop, call in workload.training(nets, recipe, *shape, session.options.save_every, step):
        given = recipe, states, knobs, references, seed_keys, train, np.int32(step), np.int32(stop)
        with progress.call(call):
            states = jax.block_until_ready(population.advance(*given, mesh=mesh))
        progress.count(nets, (stop - step) * knobs.size * seed_batch.real)
        step = stop
        if step in recipe.eval_steps:
            yield step, states
        if step < last:
            with progress.timed("saving"):
                store.save(step, states)
            session.stop_if_asked()
