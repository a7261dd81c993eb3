"""From conditions to rows: the page to read first.

    for slice of seeds:
        for group of conditions:
            learn(group, slice, teach(group, slice))        # at every mark: measure, write rows, save

Everything above this floor turns a config into conditions and rows into figures; everything below trains.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd

from sublim_jax import checkpoint, keys, population, records, sweep, trees
from sublim_jax import metrics as metrics_
from sublim_jax.errors import Refused
from sublim_jax.progress import Watch
from sublim_jax.sweep import Group, Plan, Slice
from sublim_jax.types import Bank, Condition, Params, State


class Interrupted(Exception):
    """Someone asked to stop; everything up to the last finished interval is saved."""


@dataclasses.dataclass(frozen=True)
class How:
    """How it is computed; none of these changes a draw, and results only by float rounding.

    chunk      seeds at once; 0 = as many as `memory_gb` allows
    every      steps in one compiled call; between calls the run saves, reports progress and may stop
    save_s     seconds between checkpoints (at least one call); 0 saves after every call
    devices    local devices over which the seeds are spread
    precision  of float32 matrix products; TPUs default to bfloat16 passes, 'highest' forbids it
    """

    chunk: int = 0
    every: int = 50
    save_s: float = 30.0
    devices: int = 1
    memory_gb: float = 4.0
    precision: str = "highest"


class Lab(NamedTuple):
    """What every unit of work needs."""

    plan: Plan
    train: Bank
    test: Bank
    root: Any
    metrics: tuple[metrics_.Metric, ...]
    exam: int
    how: How
    mesh: Any
    folder: records.Folder
    watch: Watch
    stopped: Callable[[], bool]

    @property
    def image(self) -> tuple[int, ...]:
        """[height, width] of an image."""
        return self.train.x.shape[1:]


class Teachers(NamedTuple):
    """The teachers of one slice of seeds, as one group's students meet them: parameters [seed] of the reference net."""

    origins: Params
    references: Params


def run(
    conditions: Sequence[Condition],
    train: Bank,
    test: Bank,
    *,
    seeds: int | Sequence[int] = 4,
    root: int = 0,
    metrics: tuple[metrics_.Metric, ...] = metrics_.ALL,
    exam: int = 2000,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: str = "auto",
    how: How = How(),  # noqa: B008  frozen
    watch: Watch | None = None,
    stopped: Callable[[], bool] = lambda: False,
    facts: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train every condition for every seed and return tidy rows, one per condition, seed and mark.

    seeds    a number (seeds 0, 1, ...) or the seeds themselves; seed 7 is seed 7 whoever runs beside it
    exam     held-out inputs of the student's own stream on which imitation is measured
    workdir  where rows, checkpoints and teachers are kept; without one nothing is left behind
    config   plain values that identify the run in the work folder; default: a description of the conditions
    stopped  asked between compiled calls; when it says yes, the state is saved and `Interrupted` raised
    facts    plain values to keep in `config.json`

    Raises `Refused` for values that cannot be used and for a work folder of another config.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise Refused(f"seeds={seeds}: must be at least one, distinct and not negative")
    if not 1 <= how.devices <= jax.local_device_count():
        raise Refused(
            f"config.run.devices={how.devices}: must be from 1 to {jax.local_device_count()}, the devices here"
        )
    plan = sweep.plan(conditions, train.x.shape[1:])
    config = config or {"plan": sweep.describe(plan), "seeds": seeds, "root": root, "exam": exam}
    watch = watch or Watch()
    with ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision(how.precision))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()) if workdir is None else workdir)
        folder = records.Folder(path, config, resume)
        banks = (jax.tree.map(jnp.asarray, bank) for bank in (train, test))
        mesh = population.mesh_of(how.devices)
        lab = Lab(plan, *banks, keys.root(root), metrics, exam, how, mesh, folder, watch, stopped)
        units = _units(lab, seeds)
        start, status = time.perf_counter(), "interrupted"
        try:
            with watch.over(sum(_cost(lab, *unit) for unit in units), "training"):
                _work(lab, units)
            status = "done"
        finally:
            seconds = {"total": time.perf_counter() - start, **watch.seconds}
            net_steps = sum(part.real * group.knobs.size * group.recipe.marks[-1] for group, part in units)
            folder.finish(
                status=status,
                seconds=seconds,
                programs=watch.programs,
                student_net_steps=net_steps,
                devices=[str(device) for device in jax.local_devices()[: how.devices]],
                **(facts or {}),
            )
        return records.load(path)


def _work(lab: Lab, units: list[tuple[Group, Slice]]) -> None:
    """Every unit in turn; a slice's trained teachers serve all groups that have them before they are dropped."""
    taught: dict[tuple[int, str], tuple[Params, Params]] = {}
    for group, slice_ in units:
        if (who := (group.teacher, slice_.name)) not in taught:
            taught = {who: teach(lab, group.teacher, slice_)}
        learn(lab, group, slice_, _meet(lab, group, slice_, *taught[who]))


def teach(lab: Lab, teacher: int, slice_: Slice) -> tuple[Params, Params]:
    """Parameters [seed] of a teacher before and after training; read back where it is trained already."""
    recipe, knobs = lab.plan.teachers[teacher].recipe, trees.stack([lab.plan.teachers[teacher].knobs])
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), "teacher")
    states = population.begin(recipe, knobs, None, seed_keys, image=lab.image, mesh=lab.mesh)
    initial = jax.tree.map(jnp.copy, states.params)  # the states' own memory is given away
    store = checkpoint.Store(lab.folder.path / "teachers" / f"teacher{teacher:02d}-{slice_.name}")

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(recipe, states, knobs, None, seed_keys, lab.train, start, stop, mesh=lab.mesh)

    amount = sweep.cost(recipe, len(slice_.seeds), lab.image)
    for _, reached in _through(lab, recipe.marks[-1:], states, advance, store, "teachers", amount):
        states = reached
    return _single(initial), _single(states.params)


def _meet(lab: Lab, group: Group, slice_: Slice, initial: Params, trained: Params) -> Teachers:
    """The teachers with the heads this group's students need, from the same keys as ever."""
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), "teacher")
    net, init = group.recipe.reference, lab.plan.teachers[group.teacher].recipe.init
    widen = functools.partial(population.widen, net, init, seed_keys=seed_keys, image=lab.image, mesh=lab.mesh)
    return Teachers(widen(params=initial), widen(params=trained))


def learn(lab: Lab, group: Group, slice_: Slice, teachers: Teachers) -> None:
    """The group's students, measured and written at every mark."""
    recipe, knobs = group.recipe, group.knobs
    seed_keys = population.phase_keys(lab.root, jnp.asarray(slice_.seeds), "student")
    begun = population.begin(recipe, knobs, teachers.origins, seed_keys, image=lab.image, mesh=lab.mesh)
    store = checkpoint.Store(lab.folder.path / "checkpoints" / f"{group.name}-{slice_.name}")

    def advance(states: State, start: Any, stop: Any) -> State:
        return population.advance(
            recipe, states, knobs, teachers.references, seed_keys, lab.train, start, stop, mesh=lab.mesh
        )

    amount = sweep.cost(recipe, knobs.size * len(slice_.seeds), lab.image)
    for mark, states in _through(lab, recipe.marks, begun, advance, store, "students", amount):
        with lab.watch.timed("measuring"):
            measured = population.measure(
                recipe, lab.metrics, states, knobs, *teachers, seed_keys, lab.test, exam=lab.exam, mesh=lab.mesh
            )
            table = records.tidy(group.labels, slice_.seeds[: slice_.real], mark, jax.device_get(measured))
        lab.folder.write(_part(group, slice_, mark), table)
    store.forget()


def _through(
    lab: Lab,
    marks: tuple[int, ...],
    states: State,
    advance: Callable[[State, Any, Any], State],
    store: checkpoint.Store,
    what: str,
    amount: float,
) -> Iterator[tuple[int, State]]:
    """Carry states through their marks, from the last checkpoint if there is one, yielding (mark, states).

    A mark is yielded before its state is saved: whoever finds a checkpoint at a mark finds the mark's rows too.
    """
    step = 0
    if (latest := store.latest()) is not None:
        step, states = latest, store.restore(latest, states)
        lab.watch.advance(amount * step)
    saved = time.monotonic()
    if step == 0 or step == marks[-1]:
        yield from ((mark, states) for mark in marks if mark == step)
    for stop in _stops(marks, step, lab.how.every):
        with lab.watch.timed(what):
            states = jax.block_until_ready(advance(states, jnp.int32(step), jnp.int32(stop)))
        lab.watch.advance(amount * (stop - step))
        step = stop
        if step in marks:
            yield step, states
        interrupted = lab.stopped()
        if interrupted or time.monotonic() - saved >= lab.how.save_s or step == marks[-1]:
            with lab.watch.timed("saving"):
                store.save(step, states)
            saved = time.monotonic()
        if interrupted:
            raise Interrupted


def _stops(marks: tuple[int, ...], start: int, every: int) -> list[int]:
    """The steps at which compiled calls end after `start`: every mark, and multiples of `every` between them."""
    return sorted({step for step in (*range(0, marks[-1], every), *marks) if step > start})


def _single(states: Any) -> Any:
    """Teachers [seed, 1] as [seed]."""
    return jax.tree.map(lambda leaf: leaf[:, 0], states)


def _part(group: Group, slice_: Slice, mark: int) -> str:
    return f"{group.name}-{slice_.name}-step{mark:07d}"


def _units(lab: Lab, seeds: tuple[int, ...]) -> list[tuple[Group, Slice]]:
    """What is still to do; slices outside, so that a slice's teachers are still there for its next group."""
    rows = len(lab.test.y) + lab.exam
    limit = lab.how.chunk or sweep.seeds_that_fit(lab.plan.groups, lab.image, rows, lab.how.memory_gb)
    units = [(group, part) for part in sweep.slices(seeds, limit, lab.how.devices) for group in lab.plan.groups]
    return [(group, part) for group, part in units if not lab.folder.has(_part(group, part, group.recipe.marks[-1]))]


def _cost(lab: Lab, group: Group, slice_: Slice) -> float:
    """What the progress bar counts for a unit; the first of a teacher's units bears the teacher's cost."""
    cost = group.recipe.marks[-1] * sweep.cost(group.recipe, group.knobs.size * len(slice_.seeds), lab.image)
    if group.name == next(first.name for first in lab.plan.groups if first.teacher == group.teacher):
        recipe = lab.plan.teachers[group.teacher].recipe
        cost += recipe.marks[-1] * sweep.cost(recipe, len(slice_.seeds), lab.image)
    return cost
