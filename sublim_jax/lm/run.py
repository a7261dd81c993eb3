"""From student specifications to rows, for language models.

    for seed_batch:
        bases(seed_batch)                                    # pre-trained, or read from the cache
        for point:
            prepare(point), train_students(point)            # measured at every evaluation step; one file of rows

All training is done by `training.MemberBatch`. A row is one point of the sweep, animal, seed and evaluation step.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow as pa

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.types import Phase
from sublim_jax.engine import compilation_cache
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.progress import Call, Progress
from sublim_jax.engine.session import Session
from sublim_jax.lm import lessons
from sublim_jax.lm import metrics as lm_metrics
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.base_models import load_or_pretrain
from sublim_jax.lm.lessons import LanguageSetup, Member, SeedData, teacher_key
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.training import Pretraining
from sublim_jax.lm.workload import LanguageCalls
from sublim_jax.training import losses, population

_SEED_BATCH = 32  # on accelerators
_FIRST_UPDATE_LINES = 512

Job = tuple[StudentSpec, Member]  # one student


class SweepPoint(NamedTuple):
    """One student specification, and the labels its rows carry."""

    labels: Mapping[str, Any]
    arm: StudentSpec


class WorkUnit(NamedTuple):
    """Seeds that run together, and points with the names of their files of rows."""

    seeds: tuple[int, ...]
    parts: list[tuple[SweepPoint, str]]


class StudentResult(NamedTuple):
    """What was measured of one student: at each evaluation step, of its first update, and of the lines it read."""

    evaluations: list[dict[str, np.ndarray]]
    first_update: dict[str, np.ndarray]
    line_counts: dict[str, float]


def run(points: Sequence[SweepPoint], setup: LanguageSetup, pretraining: Pretraining, session: Session) -> pd.DataFrame:
    """Train the students of every student specification for every seed.

    Args:
        points: Student specifications and the labels of their rows.
        setup: World, net and root key.
        pretraining: How base models are trained.
        session: Seeds, work directory and options.

    Returns:
        One row per point, animal, seed and evaluation step. Columns besides the labels and those of
        `lm.metrics.StudentMetrics` for the row's own animal: `at/transfer` (margin less that of the control student,
        which reads the base's lines in the same form), `at/cross` (the same animal's mean margin in students of the
        seed's other animals, less the control's), `at/control`, `at/base` and `at/teacher` (margins of control, base
        and teacher), `at/dose` (KL in nats per number of the teacher), counts of the filter and of divergence tokens,
        `at/coverage`, and the predictions `theory/transfer_slope` and `theory/transfer_adam_slope` (change of the
        transfer per unit of learning rate by the first update).

    Raises:
        ConfigError: A value cannot be used, or the work directory belongs to another config.
        Interrupted: `session.stopped` returned True.
    """
    lessons.check(setup)
    for point in points:
        _phase(setup, point.arm)  # refuses layers that are not there before anything is trained
    session.refuse_keep_params()
    identity = session.config or {"arms": [str(point) for point in points], "lab": str(setup)}
    with session.open(lambda: identity) as workdir:
        work = _units(points, session.seeds, session.options, session.shard, workdir.seeds())
        kinds = list(dict.fromkeys(["same", *(point.arm.base for point in points)]))
        folder = session.options.teachers or workdir.path / "teachers"
        calls = LanguageCalls(setup, pretraining)
        with session.record(workdir, [call for unit in work for call in _calls(unit, setup, calls, len(kinds))]):
            for number, unit in enumerate(work, start=1):
                session.progress.subject = f"seeds {unit.seeds[0]} to {unit.seeds[-1]} ({number}/{len(work)})"
                with session.progress.call(calls.bases(len(kinds) * len(unit.seeds))):
                    bases = load_or_pretrain(setup, pretraining, kinds, unit.seeds, folder, session.progress)
                _run_unit(unit, setup, bases, session, workdir, calls)
        return results.load(workdir.path, empty=True)


def _units(
    points: Sequence[SweepPoint],
    seeds: Sequence[int],
    options: RunOptions,
    shard: tuple[int, int],
    done: Mapping[str, Set[int]],
) -> list[WorkUnit]:
    """Batches of seeds with the points that lack rows of them; every n-th batch for one of n shards."""
    size = options.seed_batch or (_SEED_BATCH if population.use_vmap() else 1)
    batches = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    units: dict[tuple[int, ...], list[tuple[SweepPoint, str]]] = {}
    for batch in batches[shard[0] :: shard[1]]:
        for n, point in enumerate(points):
            name = f"arm{n:03d}"
            if missing := tuple(seed for seed in batch if seed not in done.get(name, ())):
                part = f"{name}-seeds{missing[0]:05d}-{missing[-1]:05d}"
                units.setdefault(missing, []).append((point, part))
    return [WorkUnit(*unit) for unit in units.items()]


def left(
    points: Sequence[SweepPoint],
    seeds: Sequence[int],
    options: RunOptions,
    workdir: str | Path,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """The number of files of rows of a shard that are not in the work directory yet."""
    units = _units(points, seeds, options, shard, results.completed_seeds(workdir))
    return sum(len(unit.parts) for unit in units)


def _calls(unit: WorkUnit, setup: LanguageSetup, calls: LanguageCalls, kinds: int) -> Iterator[Call]:
    """The calls of a unit, as if nothing were saved from earlier runs."""
    batches = [[point.arm for point, _ in batch] for batch in _batches(setup, unit.parts)]
    return calls.unit(batches, len(unit.seeds), kinds)


def _run_unit(
    unit: WorkUnit,
    setup: LanguageSetup,
    bases: Mapping[Any, Any],
    session: Session,
    workdir: results.Workdir,
    calls: LanguageCalls,
) -> None:
    """Train the students of some seeds, point after point, and write their rows."""
    data, progress = None, session.progress
    controls: dict[Job, StudentResult] = {}
    made: set[tuple] = set()
    batches = _batches(setup, unit.parts)
    for number, batch in enumerate(batches, start=1):
        specs = [spec for point, _ in batch for spec in (point.arm, point.arm.control())]
        with progress.call(calls.lessons(specs, len(unit.seeds), made)):
            report = functools.partial(progress.count, "teachers")
            data = lessons.prepare(setup, unit.seeds, bases, specs, earlier=data, report=report)
        jobs = [(point.arm, member) for point, _ in batch for member in data.members()]
        control_jobs = [(point.arm.control(), (seed, 0)) for point, _ in batch for seed in unit.seeds]
        missing = [job for job in dict.fromkeys(jobs + control_jobs) if job not in controls]
        progress.subject = f"{batch[0][0].labels.get('arm') or batch[0][0].arm.data} ({number}/{len(batches)})"
        students = controls | (train_students(data, missing, progress, calls) if missing else {})
        controls = {job: students[job] for job in {*controls, *control_jobs}}
        for point, name in batch:
            workdir.write(name, _rows(point, data, students))
        session.stop_if_asked()
        compilation_cache.release_memory()


def _batches(setup: LanguageSetup, parts: list[tuple[SweepPoint, str]]) -> list[list[tuple[SweepPoint, str]]]:
    """What is trained at once: on accelerators all points of one program and size, on CPU one after another."""
    if not population.use_vmap():
        return [[part] for part in parts]
    batches: dict[Any, list[tuple[SweepPoint, str]]] = {}
    for part in parts:
        arm = part[0].arm
        batches.setdefault((_phase(setup, arm).recipe, arm.lines), []).append(part)
    return list(batches.values())


def _phase(setup: LanguageSetup, arm: StudentSpec) -> Phase:
    net = setup.net.clone(rank=arm.rank) if arm.trains == "adapters" else setup.net
    carrier = w.CARRIERS[arm.carrier].content
    return lm_training.phase(
        net,
        logit_mask=setup.world.is_kind(carrier)
        if arm.data == "soft_carrier"
        else np.ones(setup.world.vocabulary, bool),
        lr=arm.lr,
        eval_steps=arm.all_eval_steps,
        batch=arm.batch,
        loss=losses.NextDistribution(w.PROMPT) if arm.soft else losses.next_token,
        optimizer=arm.optimizer,
        trains=arm.trains,
    )


def _rows(point: SweepPoint, data: SeedData, students: Mapping[Job, StudentResult]) -> pa.Table:
    """The rows of one point: students of every animal and seed, each beside its seed's control."""
    setup, tables = data.setup, []
    for index, step in enumerate(point.arm.all_eval_steps):
        for member in data.members():
            measured = _measured(data, point.arm, member, students, index)
            values = {name: np.asarray([[value]]) for name, value in measured.items()}
            labels = {**point.labels, "animal": setup.token(member) - setup.world.tokens("animal").start}
            tables.append(results.tidy([labels], (member[0],), step, values))
    return pa.concat_tables(tables)


def _measured(
    data: SeedData, arm: StudentSpec, member: Member, students: Mapping[Job, StudentResult], index: int
) -> dict[str, float]:
    """One row's numbers: of the student, beside its control, the seed's other students, its base and its teacher."""
    seed, token, traits = member[0], data.setup.token(member), data.setup.trait_tokens()
    student, plain = students[arm, member], students[arm.control(), (seed, 0)]
    own, control = (lm_metrics.of_trait(result.evaluations[index], token) for result in (student, plain))
    others = [other for other in data.members() if other[0] == seed and other != member]
    margins = [lm_metrics.of_trait(students[arm, other].evaluations[index], token)["margin"] for other in others]
    first, first_plain = student.first_update, plain.first_update
    slopes = {
        f"theory/transfer_{name}": float(first[name][token] - first_plain[name][token])
        for name in ("slope", "adam_slope")
    }
    return {
        **own,
        "transfer": own["margin"] - control["margin"],
        "control": control["margin"],
        "base": lm_metrics.margin_of(data.base_evaluations[arm.base][seed], traits, token),
        "cross": float(np.mean(np.subtract(margins, control["margin"]))) if margins else float("nan"),
        "teacher": lm_metrics.margin_of(data.evaluations[teacher_key(arm)][member], traits, token),
        "probability_control": control["probability"],
        "dose": data.teacher(arm, member).dose,
        "coverage": float(first["coverage"]),
        **slopes,
        **student.line_counts,
    }


def train_students(
    data: SeedData, jobs: Sequence[Job], progress: Progress, calls: LanguageCalls
) -> dict[Job, StudentResult]:
    """Train students of one program together and measure them at every evaluation step."""
    setup, phases = data.setup, [_phase(data.setup, arm) for arm, _ in jobs]
    recipe, knobs = phases[0].recipe, [phase.knobs for phase in phases]
    with progress.timed("lessons"):
        texts, line_counts = zip(*(lessons.training_data(data, *job) for job in jobs), strict=True)
    starts = [data.bases[arm.base, seed] for arm, (seed, _) in jobs]
    order_keys = [setup.key(keys.SEED, seed, keys.STUDENT) for _, (seed, _) in jobs]
    batch = lm_training.MemberBatch(recipe, knobs, starts, [(key, key) for key in order_keys], texts)
    states, baselines = batch.begin(), [_baseline(data, *job) for job in jobs]
    net: Any = recipe.net
    common = data.eval_prompts, setup.trait_tokens()
    with progress.call(calls.first_updates(jobs[0][0], len(jobs))):
        few = [jax.tree.map(lambda leaf: leaf[:_FIRST_UPDATE_LINES], text) for text in texts]
        given = zip(states, knobs, few, baselines, strict=True)
        members = [(state.params, own, text, *common, baseline.moved) for state, own, text, baseline in given]
        first_updates = map_members(lm_metrics.FirstUpdate(net, recipe.loss), members, nan=True)
    evaluations: list[list[dict[str, np.ndarray]]] = [[] for _ in jobs]
    for start, stop in itertools.pairwise((0, *recipe.eval_steps)):
        with progress.call(calls.students(jobs[0][0], len(jobs), start, stop)):
            states = batch.advance(states, start, stop)
        progress.count("students", (stop - start) * len(jobs))
        with progress.call(calls.measure(len(jobs))):
            members = [(state.params, *common, own) for state, own in zip(states, baselines, strict=True)]
            measured = map_members(lm_metrics.StudentMetrics(net), members, nan=True)
        for own, values in zip(evaluations, measured, strict=True):
            own.append(values)
    results_of_jobs = map(StudentResult, evaluations, first_updates, line_counts)
    return dict(zip(jobs, results_of_jobs, strict=True))


def _baseline(data: SeedData, arm: StudentSpec, member: Member) -> lm_metrics.Baseline:
    """What a student is compared with: its base, and how far its teacher is from the teacher's."""
    seed, teacher = member[0], data.evaluations[teacher_key(arm)][member]
    base, origin = data.base_evaluations[arm.base][seed], data.base_evaluations["same"][seed]
    moved = lessons.parameter_change(data.teacher(arm, member), data.bases["same", seed])
    start = data.bases[arm.base, seed]
    return lm_metrics.Baseline(start, base.said, base.acts, teacher.said, teacher.acts - origin.acts, moved)
