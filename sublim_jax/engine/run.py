"""From conditions to rows: the page to read first.

    for slice of seeds:
        for group of conditions:
            learn(group, slice, teach(group, slice))        # at every mark: measure, write rows, save

Everything above this floor turns a config into conditions and rows into figures; everything below trains.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from sublim_jax import metrics, results
from sublim_jax.core import keys, trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, ImageData, Params, Recipe, State, TeacherParams
from sublim_jax.data.load import Dataset, first_classes
from sublim_jax.engine import checkpoint, distributed, schedule, teacher_cache
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.plan import Group, Plan, describe_plan, make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.schedule import ResourceLimits, SeedBatch, WorkUnit
from sublim_jax.engine.teacher_cache import TeacherCache
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import evaluate
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import population
from sublim_jax.training.targets import needs_unrelated_teachers


class RunContext(NamedTuple):
    """What every unit of work needs.

    banks    images to train and to test on whose labels lie below a number (0 = all)
    shelves  where each teacher of the plan is kept
    """

    plan: Plan
    banks: Callable[[int], tuple[ImageData, ImageData]]
    root: Any
    metrics: tuple[metrics.Metric, ...]
    num_eval_noise: int
    how: RunOptions
    mesh: Any
    folder: results.Workdir
    watch: Progress
    stopped: Callable[[], bool]
    shard: tuple[int, int]
    image: tuple[int, ...]
    shelves: tuple[TeacherCache, ...]


def run(
    conditions: Sequence[Condition],
    dataset: Dataset,
    *,
    seeds: int | Sequence[int] = 4,
    root_seed: int = 0,
    metrics: tuple[metrics.Metric, ...] = (*metrics.ALL, *predictions.ALL),
    num_eval_noise: int = 2000,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: str = "auto",
    how: RunOptions = RunOptions(),  # noqa: B008  frozen
    watch: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    facts: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> pd.DataFrame:
    """Train every condition for every seed and return tidy rows, one per condition, seed and mark.

    dataset  images with labels; see `data.load`
    seeds    a number (seeds 0, 1, ...) or the seeds themselves; seed 7 is seed 7 whoever runs beside it
    num_eval_noise   held-out inputs of the student's own stream on which imitation is measured
    workdir  where rows, checkpoints and teachers are kept; without one nothing is left behind
    config   plain values that identify the run in the work folder; default: a description of the conditions
    stopped  asked between compiled calls; when it says yes, the state is saved and `Interrupted` raised
    facts    plain values to keep with the rows
    shard    (i, n): do the i-th of n parts of the work (i < n), the others being done by other jobs with the same
             work folder; of several processes that JAX knows of, each does its part of this part

    Returns all rows of the work folder, those of other jobs as far as they are there. Raises `ConfigError` for values
    that
    cannot be used and for a work folder of another config.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds={seeds}: must be at least one, distinct and not negative")
    local = jax.local_device_count()
    if not 0 <= how.devices <= local:
        raise ConfigError(f"config.run.devices={how.devices}: must be at most {local}, the devices here, or 0 for all")
    shard = distributed.process_shard(shard, resume, workdir)
    plan, watch, devices = make_plan(conditions, dataset.train.x.shape[1:]), watch or Progress(), how.devices or local
    with ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision(how.precision))
        if workdir is None:
            folder = results.Workdir(stack.enter_context(tempfile.TemporaryDirectory()), {})
        else:
            who = config or {
                "plan": describe_plan(plan),
                "seeds": seeds,
                "root_seed": root_seed,
                "num_eval_noise": num_eval_noise,
            }
            folder = results.Workdir(workdir, {**who, **data_identity(dataset, metrics)}, resume)
        mesh, image = population.mesh_of(devices), dataset.train.x.shape[1:]
        also = teacher_cache.common_identity(data_identity(dataset, ()), root_seed, how.precision, devices)
        shelves = teacher_cache.teacher_caches(plan, how.teachers or folder.path / "teachers", also)
        banks, key = image_data_by_classes(dataset), keys.root(root_seed)
        lab = RunContext(
            plan, banks, key, metrics, num_eval_noise, how, mesh, folder, watch, stopped, shard, image, shelves
        )
        rows = len(dataset.test.y) + num_eval_noise
        limits = ResourceLimits(how.memory_gb, rows, devices, population.use_vmap(), how.seed_batch)
        work = schedule.work_units(plan, seeds, image, limits, shard, results.completed(folder.path))
        folder.begin(devices=[str(device) for device in jax.local_devices()[:devices]], **(facts or {}))
        start, status = time.perf_counter(), "failed"
        try:
            with watch.over(schedule.total_cost(plan, work, lab.image), "training"):
                _run_units(lab, work)
            status = "done"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            seconds = {"total": time.perf_counter() - start, **watch.seconds}
            folder.finish(status=status, seconds=seconds, steps=watch.steps, programs=watch.programs)
        return results.load(folder.path, empty=True)


def data_identity(dataset: Dataset, metrics: Sequence[metrics.Metric]) -> dict[str, Any]:
    """What identifies results besides the conditions."""
    bank = dataset.train
    return {
        "data_sha256": dataset.checksum,
        "normalised_by": [float(bank.mean), float(bank.std)],
        "metrics": [metric.__qualname__ for metric in metrics],
    }


def image_data_by_classes(dataset: Dataset) -> Callable[[int], tuple[ImageData, ImageData]]:
    """From a number of classes to the images to train and to test on, the latest kept where JAX has them."""

    @functools.lru_cache(maxsize=1)
    def banks(classes: int) -> tuple[ImageData, ImageData]:
        train, test = (first_classes(bank, classes) for bank in (dataset.train, dataset.test))
        return jax.tree.map(jnp.asarray, (train, test))

    return banks


def _run_units(lab: RunContext, work: list[WorkUnit]) -> None:
    """Every unit in turn; a slice's trained teachers serve all groups that have them before they are dropped."""
    taught: dict[tuple[int, str], Params] = {}
    for group, slice_ in work:
        known, taught = taught, {}
        slices = [
            slice_,
            *([schedule.unrelated_seeds(slice_)] if needs_unrelated_teachers(group.recipe.target_transform) else []),
        ]
        for one in slices:
            who = group.teacher, one.name
            taught[who] = known[who] if who in known else train_teachers(lab, group.teacher, one)
        own, *others = (attach_heads(lab, group, one, taught[group.teacher, one.name]) for one in slices)
        train_students(lab, group, slice_, own._replace(unrelated=others[0].trained) if others else own)


def train_teachers(lab: RunContext, teacher: int, slice_: SeedBatch) -> Params:
    """Parameters [seed] of a trained teacher; read back where it is trained already, by this sweep or by another."""
    recipe, knobs = lab.plan.teachers[teacher].recipe, trees.stack([lab.plan.teachers[teacher].knobs])
    if (kept := lab.shelves[teacher].load(slice_.seeds)) is not None:
        lab.watch.skip(step_macs(recipe, len(slice_.seeds), lab.image) * recipe.eval_steps[-1])
        return jax.tree.map(jnp.asarray, kept)
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.TEACHER)
    states = population.init_states(recipe, knobs, None, seed_keys, image=lab.image, mesh=lab.mesh)
    train, _ = lab.banks(recipe.classes)
    # The width of the slice stands in the name, because on another number of devices its padding differs; and the
    # shard, because two of them may need the same teachers at the same time.
    name = f"teacher{teacher:02d}-{slice_.name}x{len(slice_.seeds)}-{lab.shard[0]}of{lab.shard[1]}"
    store = checkpoint.Store(lab.folder.path / "teachers" / name)

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, None, seed_keys, train, start, stop, mesh=lab.mesh)

    for step, reached in _train_to_eval_steps(lab, recipe, states, advance, store, "teachers", slice_):
        states = reached
        if store.latest() != step:
            store.save(step, states)
    trained = jax.tree.map(lambda leaf: leaf[:, 0], states.params)  # [seed, 1] as [seed]
    if not lab.shelves[teacher].save(slice_.seeds[: slice_.real], trained):
        return trained
    store.remove()
    # As the shelf has them: of a seed that another slice trained too, all students meet the same teacher.
    kept = lab.shelves[teacher].load(slice_.seeds)
    return trained if kept is None else jax.tree.map(jnp.asarray, kept)


def attach_heads(lab: RunContext, group: Group, slice_: SeedBatch, trained: Params) -> TeacherParams:
    """The teachers with the heads this group's students need, from the same keys as ever, before and after training.

    Before means: as drawn. What a student shares with its teacher is without the noise a sweep adds to the teacher.
    """
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.TEACHER)
    net, init = group.recipe.teacher, lab.plan.teachers[group.teacher].recipe.init
    widen = functools.partial(population.attach_heads, net, init, seed_keys=seed_keys, image=lab.image, mesh=lab.mesh)
    return TeacherParams(widen(params={}), widen(params=trained, knobs=group.teacher_final_knobs))


def train_students(lab: RunContext, group: Group, slice_: SeedBatch, teachers: TeacherParams) -> None:
    """The group's students, measured and written at every mark."""
    recipe, knobs = group.recipe, group.unique_knobs
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.STUDENT)
    begun = population.init_states(recipe, knobs, teachers.initial, seed_keys, image=lab.image, mesh=lab.mesh)
    train, test = lab.banks(recipe.classes)
    heard = teachers.trained if recipe.target_transform is None else teachers
    store = checkpoint.Store(lab.folder.path / "checkpoints" / f"{group.name}-{slice_.name}x{len(slice_.seeds)}")

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, heard, seed_keys, train, start, stop, mesh=lab.mesh)

    parts = {mark: results.part_name(group.name, slice_.name, mark) for mark in recipe.eval_steps}
    if any(mark <= (store.latest() or -1) and not lab.folder.has(part) for mark, part in parts.items()):
        store.clear()  # rows that should be there were deleted: measure them again
    for mark, states in _train_to_eval_steps(lab, recipe, begun, advance, store, "students", slice_, knobs.size):
        ends = mark == recipe.eval_steps[-1] and any(np.any(sigma) for sigma in group.knobs.tree.final_noise.values())
        with lab.watch.timed("measuring"):
            given = group.knobs, teachers.initial, teachers.trained, seed_keys, test, jnp.int32(mark)
            how: Any = {
                "num_eval_noise": lab.num_eval_noise,
                "untrained_layers": group.untrained_layers,
                "ends": ends,
                "mesh": lab.mesh,
            }
            measured = evaluate(recipe, lab.metrics, states, *given, jnp.asarray(group.train_index), **how)
            table = results.tidy(group.labels, slice_.seeds[: slice_.real], mark, jax.device_get(measured))
        lab.folder.write(parts[mark], table)
    store.remove()


def _train_to_eval_steps(
    lab: RunContext,
    recipe: Recipe,
    states: State,
    advance: Callable[[State, Any, Any], State],
    store: checkpoint.Store,
    what: str,
    slice_: SeedBatch,
    conditions: int = 1,
) -> Iterator[tuple[int, State]]:
    """Carry states through their marks, from the last checkpoint if there is one, yielding (mark, states).

    A mark is yielded before its state is saved: whoever finds a checkpoint at a mark finds the mark's rows too. At
    the last mark nothing is saved here; what is yielded there is the result.
    """
    amount = step_macs(recipe, conditions * len(slice_.seeds), lab.image)
    step, last = 0, recipe.eval_steps[-1]
    if (latest := store.latest()) is not None:
        step, states = latest, store.restore(latest, states)
        lab.watch.skip(amount * step)
    if step in (0, last) and step in recipe.eval_steps:
        yield step, states
    for stop in _stops(recipe.eval_steps, step, lab.how.save_every):
        with lab.watch.timed(what):
            states = jax.block_until_ready(advance(states, jnp.int32(step), jnp.int32(stop)))
        lab.watch.advance(amount * (stop - step))
        lab.watch.count(what, (stop - step) * conditions * slice_.real)
        step = stop
        if step in recipe.eval_steps:
            yield step, states
        if step < last:
            with lab.watch.timed("saving"):
                store.save(step, states)
        if lab.stopped():
            raise Interrupted


def _stops(marks: tuple[int, ...], start: int, every: int) -> list[int]:
    """The steps at which compiled calls end after `start`: every mark, and multiples of `every` between them."""
    return sorted({step for step in (*range(0, marks[-1], every), *marks) if step > start})
