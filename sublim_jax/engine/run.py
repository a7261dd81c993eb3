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
from sublim_jax.core.errors import Refused
from sublim_jax.core.types import Bank, Condition, Params, Recipe, State, Teachers
from sublim_jax.data.load import Dataset, first_classes
from sublim_jax.engine import checkpoint, distributed, schedule, teacher_cache
from sublim_jax.engine.options import How, Interrupted
from sublim_jax.engine.plan import Group, Plan, describe_plan, make_plan
from sublim_jax.engine.progress import Watch
from sublim_jax.engine.schedule import Limits, Slice, Unit
from sublim_jax.engine.teacher_cache import Shelf
from sublim_jax.metrics import predictions
from sublim_jax.metrics.evaluate import evaluate
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import population
from sublim_jax.training.targets import asks_strangers


class Lab(NamedTuple):
    """What every unit of work needs.

    banks    images to train and to test on whose labels lie below a number (0 = all)
    shelves  where each teacher of the plan is kept
    """

    plan: Plan
    banks: Callable[[int], tuple[Bank, Bank]]
    root: Any
    metrics: tuple[metrics.Metric, ...]
    exam: int
    how: How
    mesh: Any
    folder: results.Folder
    watch: Watch
    stopped: Callable[[], bool]
    shard: tuple[int, int]
    image: tuple[int, ...]
    shelves: tuple[Shelf, ...]


def run(
    conditions: Sequence[Condition],
    dataset: Dataset,
    *,
    seeds: int | Sequence[int] = 4,
    root: int = 0,
    metrics: tuple[metrics.Metric, ...] = (*metrics.ALL, *predictions.ALL),
    exam: int = 2000,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: str = "auto",
    how: How = How(),  # noqa: B008  frozen
    watch: Watch | None = None,
    stopped: Callable[[], bool] = lambda: False,
    facts: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> pd.DataFrame:
    """Train every condition for every seed and return tidy rows, one per condition, seed and mark.

    dataset  images with labels; see `data.load`
    seeds    a number (seeds 0, 1, ...) or the seeds themselves; seed 7 is seed 7 whoever runs beside it
    exam     held-out inputs of the student's own stream on which imitation is measured
    workdir  where rows, checkpoints and teachers are kept; without one nothing is left behind
    config   plain values that identify the run in the work folder; default: a description of the conditions
    stopped  asked between compiled calls; when it says yes, the state is saved and `Interrupted` raised
    facts    plain values to keep with the rows
    shard    (i, n): do the i-th of n parts of the work (i < n), the others being done by other jobs with the same
             work folder; of several processes that JAX knows of, each does its part of this part

    Returns all rows of the work folder, those of other jobs as far as they are there. Raises `Refused` for values that
    cannot be used and for a work folder of another config.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise Refused(f"seeds={seeds}: must be at least one, distinct and not negative")
    local = jax.local_device_count()
    if not 0 <= how.devices <= local:
        raise Refused(f"config.run.devices={how.devices}: must be at most {local}, the devices here, or 0 for all")
    shard = distributed.part_of(shard, resume, workdir)
    plan, watch, devices = make_plan(conditions, dataset.train.x.shape[1:]), watch or Watch(), how.devices or local
    with ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision(how.precision))
        if workdir is None:
            folder = results.Folder(stack.enter_context(tempfile.TemporaryDirectory()), {})
        else:
            who = config or {"plan": describe_plan(plan), "seeds": seeds, "root": root, "exam": exam}
            folder = results.Folder(workdir, {**who, **also_of(dataset, metrics)}, resume)
        mesh, image = population.mesh_of(devices), dataset.train.x.shape[1:]
        also = teacher_cache.common(also_of(dataset, ()), root, how.precision, devices)
        shelves = teacher_cache.shelves(plan, how.teachers or folder.path / "teachers", also)
        banks, key = banks_of(dataset), keys.root(root)
        lab = Lab(plan, banks, key, metrics, exam, how, mesh, folder, watch, stopped, shard, image, shelves)
        rows = len(dataset.test.y) + exam
        limits = Limits(how.memory_gb, rows, devices, population.side_by_side(), how.chunk)
        work = schedule.units(plan, seeds, image, limits, shard, results.have(folder.path))
        folder.begin(devices=[str(device) for device in jax.local_devices()[:devices]], **(facts or {}))
        start, status = time.perf_counter(), "failed"
        try:
            with watch.over(schedule.total_cost(plan, work, lab.image), "training"):
                _work(lab, work)
            status = "done"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            seconds = {"total": time.perf_counter() - start, **watch.seconds}
            folder.finish(status=status, seconds=seconds, steps=watch.steps, programs=watch.programs)
        return results.load(folder.path, empty=True)


def also_of(dataset: Dataset, metrics: Sequence[metrics.Metric]) -> dict[str, Any]:
    """What identifies results besides the conditions."""
    bank = dataset.train
    return {
        "data_sha256": dataset.checksum,
        "normalised_by": [float(bank.mean), float(bank.std)],
        "metrics": [metric.__qualname__ for metric in metrics],
    }


def banks_of(dataset: Dataset) -> Callable[[int], tuple[Bank, Bank]]:
    """From a number of classes to the images to train and to test on, the latest kept where JAX has them."""

    @functools.lru_cache(maxsize=1)
    def banks(classes: int) -> tuple[Bank, Bank]:
        train, test = (first_classes(bank, classes) for bank in (dataset.train, dataset.test))
        return jax.tree.map(jnp.asarray, (train, test))

    return banks


def _work(lab: Lab, work: list[Unit]) -> None:
    """Every unit in turn; a slice's trained teachers serve all groups that have them before they are dropped."""
    taught: dict[tuple[int, str], Params] = {}
    for group, slice_ in work:
        known, taught = taught, {}
        slices = [slice_, *([schedule.strangers(slice_)] if asks_strangers(group.recipe.answer) else [])]
        for one in slices:
            who = group.teacher, one.name
            taught[who] = known[who] if who in known else teach(lab, group.teacher, one)
        own, *others = (meet(lab, group, one, taught[group.teacher, one.name]) for one in slices)
        learn(lab, group, slice_, own._replace(strangers=others[0].references) if others else own)


def teach(lab: Lab, teacher: int, slice_: Slice) -> Params:
    """Parameters [seed] of a trained teacher; read back where it is trained already, by this sweep or by another."""
    recipe, knobs = lab.plan.teachers[teacher].recipe, trees.stack([lab.plan.teachers[teacher].knobs])
    if (kept := lab.shelves[teacher].take(slice_.seeds)) is not None:
        lab.watch.skip(step_macs(recipe, len(slice_.seeds), lab.image) * recipe.marks[-1])
        return jax.tree.map(jnp.asarray, kept)
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.TEACHER)
    states = population.begin(recipe, knobs, None, seed_keys, image=lab.image, mesh=lab.mesh)
    train, _ = lab.banks(recipe.classes)
    # The width of the slice stands in the name, because on another number of devices its padding differs; and the
    # shard, because two of them may need the same teachers at the same time.
    name = f"teacher{teacher:02d}-{slice_.name}x{len(slice_.seeds)}-{lab.shard[0]}of{lab.shard[1]}"
    store = checkpoint.Store(lab.folder.path / "teachers" / name)

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, None, seed_keys, train, start, stop, mesh=lab.mesh)

    for step, reached in _through(lab, recipe, states, advance, store, "teachers", slice_):
        states = reached
        if store.latest() != step:
            store.save(step, states)
    trained = jax.tree.map(lambda leaf: leaf[:, 0], states.params)  # [seed, 1] as [seed]
    if not lab.shelves[teacher].give(slice_.seeds[: slice_.real], trained):
        return trained
    store.remove()
    # As the shelf has them: of a seed that another slice trained too, all students meet the same teacher.
    kept = lab.shelves[teacher].take(slice_.seeds)
    return trained if kept is None else jax.tree.map(jnp.asarray, kept)


def meet(lab: Lab, group: Group, slice_: Slice, trained: Params) -> Teachers:
    """The teachers with the heads this group's students need, from the same keys as ever, before and after training.

    Before means: as drawn. What a student shares with its teacher is without the noise a sweep adds to the teacher.
    """
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.TEACHER)
    net, init = group.recipe.reference, lab.plan.teachers[group.teacher].recipe.init
    widen = functools.partial(population.widen, net, init, seed_keys=seed_keys, image=lab.image, mesh=lab.mesh)
    return Teachers(widen(params={}), widen(params=trained, knobs=group.late))


def learn(lab: Lab, group: Group, slice_: Slice, teachers: Teachers) -> None:
    """The group's students, measured and written at every mark."""
    recipe, knobs = group.recipe, group.trained
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), keys.STUDENT)
    begun = population.begin(recipe, knobs, teachers.origins, seed_keys, image=lab.image, mesh=lab.mesh)
    train, test = lab.banks(recipe.classes)
    heard = teachers.references if recipe.answer is None else teachers
    store = checkpoint.Store(lab.folder.path / "checkpoints" / f"{group.name}-{slice_.name}x{len(slice_.seeds)}")

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, heard, seed_keys, train, start, stop, mesh=lab.mesh)

    parts = {mark: results.part_name(group.name, slice_.name, mark) for mark in recipe.marks}
    if any(mark <= (store.latest() or -1) and not lab.folder.has(part) for mark, part in parts.items()):
        store.clear()  # rows that should be there were deleted: measure them again
    for mark, states in _through(lab, recipe, begun, advance, store, "students", slice_, knobs.size):
        ends = mark == recipe.marks[-1] and any(np.any(sigma) for sigma in group.knobs.tree.sigma_end.values())
        with lab.watch.timed("measuring"):
            given = group.knobs, teachers.origins, teachers.references, seed_keys, test, jnp.int32(mark)
            how: Any = {"exam": lab.exam, "idle": group.idle, "ends": ends, "mesh": lab.mesh}
            measured = evaluate(recipe, lab.metrics, states, *given, jnp.asarray(group.twins), **how)
            table = results.tidy(group.labels, slice_.seeds[: slice_.real], mark, jax.device_get(measured))
        lab.folder.write(parts[mark], table)
    store.remove()


def _through(
    lab: Lab,
    recipe: Recipe,
    states: State,
    advance: Callable[[State, Any, Any], State],
    store: checkpoint.Store,
    what: str,
    slice_: Slice,
    conditions: int = 1,
) -> Iterator[tuple[int, State]]:
    """Carry states through their marks, from the last checkpoint if there is one, yielding (mark, states).

    A mark is yielded before its state is saved: whoever finds a checkpoint at a mark finds the mark's rows too. At
    the last mark nothing is saved here; what is yielded there is the result.
    """
    amount = step_macs(recipe, conditions * len(slice_.seeds), lab.image)
    step, last = 0, recipe.marks[-1]
    if (latest := store.latest()) is not None:
        step, states = latest, store.restore(latest, states)
        lab.watch.skip(amount * step)
    if step in (0, last) and step in recipe.marks:
        yield step, states
    for stop in _stops(recipe.marks, step, lab.how.every):
        with lab.watch.timed(what):
            states = jax.block_until_ready(advance(states, jnp.int32(step), jnp.int32(stop)))
        lab.watch.advance(amount * (stop - step))
        lab.watch.count(what, (stop - step) * conditions * slice_.real)
        step = stop
        if step in recipe.marks:
            yield step, states
        if step < last:
            with lab.watch.timed("saving"):
                store.save(step, states)
        if lab.stopped():
            raise Interrupted


def _stops(marks: tuple[int, ...], start: int, every: int) -> list[int]:
    """The steps at which compiled calls end after `start`: every mark, and multiples of `every` between them."""
    return sorted({step for step in (*range(0, marks[-1], every), *marks) if step > start})
