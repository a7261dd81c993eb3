"""From arms to rows, for language models: bases, teachers, what they say, students, and what became of the trait.

    for slice of seeds:
        bases(slice)                              # pre-trained, or read from the cache
        for arm:
            prepare(arm), train_students(arm)     # measured at every evaluation step; one part of rows an arm

Everything that trains is `train.advance`. A row is one arm, animal, seed and mark.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow as pa

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.types import Phase
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.session import Session, check_seeds
from sublim_jax.lm import lessons
from sublim_jax.lm import metrics as lm_metrics
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.base_models import load_or_pretrain
from sublim_jax.lm.lessons import LanguageSetup, Member, SeedData, teacher_key
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.spec import StudentSpec
from sublim_jax.lm.training import Pretraining
from sublim_jax.training import losses, population

_MANY = 32  # seeds at a time on accelerators
_FEW = 512  # lines of which the first update is taken


class SweepPoint(NamedTuple):
    """One arm, and the labels its rows carry."""

    labels: Mapping[str, Any]
    arm: StudentSpec


class StudentResult(NamedTuple):
    """Of one student: what was measured at each mark, and of its first update."""

    marks: list[dict[str, np.ndarray]]
    first: dict[str, np.ndarray]


def run(  # noqa: D417  the others are those of engine.run
    points: Sequence[SweepPoint],
    lab: LanguageSetup,
    pretraining: Pretraining,
    *,
    seeds: int | Sequence[int] = 5,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: str = "auto",
    options: RunOptions = RunOptions(),  # noqa: B008  frozen
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    metadata: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> pd.DataFrame:
    """Train the students of every student specification for every seed.

    Args:
        points: Student specifications and the labels of their rows.
        lab: World, net and root key that all seeds have in common.
        pretraining: How base models are trained.
        seeds: This and all others: as in `engine.run.run`.

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
        Interrupted: `stopped` returned True.
    """
    lessons.check(lab)
    for point in points:
        _phase(lab, point.arm)  # refuses layers that are not there before anything is trained
    session = Session(
        seeds=check_seeds(seeds),
        identity=lambda: config or {"arms": [str(point) for point in points], "lab": str(lab)},
        workdir=workdir,
        resume=resume,
        options=options,
        progress=progress or Progress(),
        stopped=stopped,
        metadata=metadata,
        shard=shard,
    )
    with session.open() as folder:
        units = _units(points, session.seeds, options, session.shard)
        work = [unit for unit in units if any(not folder.has(name) for _, name in unit[1])]
        with session.record(folder, _cost(points, lab, pretraining, work, folder), "training"):
            for batch, parts in work:
                _slice(points, lab, pretraining, batch, parts, options, folder, session.progress, stopped)
        return results.load(folder.path, empty=True)


Parts = list[tuple[int, str]]


def _units(
    points: Sequence[SweepPoint], seeds: Sequence[int], how: RunOptions, shard: tuple[int, int]
) -> list[tuple[tuple[int, ...], Parts]]:
    """Slices of seeds, and for each the parts of rows it gives, one an arm; every n-th slice for one of n shards."""
    size = how.seed_batch or (_MANY if population.use_vmap() else 1)
    slices = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    return [
        (slice_, [(number, f"arm{number:03d}-seeds{slice_[0]:05d}-{slice_[-1]:05d}") for number in range(len(points))])
        for slice_ in slices[shard[0] :: shard[1]]
    ]


def left(
    points: Sequence[SweepPoint],
    seeds: Sequence[int],
    how: RunOptions,
    workdir: str | Path,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """How many parts of a shard are not in the work folder yet."""
    there = {path.stem for path in (Path(workdir) / "rows").glob("*.parquet")}
    return len({name for _, parts in _units(points, seeds, how, shard) for _, name in parts} - there)


def _cost(
    points: Sequence[SweepPoint], lab: LanguageSetup, pretraining: Pretraining, work: Any, folder: results.Workdir
) -> float:
    """Net-steps of bases and students; teachers take few."""
    bases = len(_kinds(points)) * pretraining.steps
    students = [
        len(slice_) * (lab.targets + 1) * points[number].arm.steps
        for slice_, parts in work
        for number, name in parts
        if not folder.has(name)
    ]
    return float(sum(len(slice_) for slice_, _ in work) * bases + sum(students))


def _kinds(points: Sequence[SweepPoint]) -> list[str]:
    """The bases that are needed: the teachers' own, and those of students."""
    return list(dict.fromkeys(["same", *(point.arm.base for point in points)]))


def _slice(
    points: Sequence[SweepPoint],
    lab: LanguageSetup,
    pretraining: Pretraining,
    seeds: tuple[int, ...],
    parts: Parts,
    how: RunOptions,
    folder: results.Workdir,
    watch: Progress,
    stopped: Callable[[], bool],
) -> None:
    """Some seeds: their bases, then arm after arm; a part that is there already is left alone."""
    with watch.timed("bases"):
        place = how.teachers or folder.path / "teachers"
        bases = load_or_pretrain(lab, pretraining, _kinds(points), seeds, place, watch)
    data, report = None, functools.partial(watch.count, "teachers")
    controls: dict[Job, StudentResult] = {}
    todo = [(points[number], name) for number, name in parts if not folder.has(name)]
    for batch in _batches(lab, todo):
        specs = [spec for point, _ in batch for spec in (point.arm, point.arm.control())]
        with watch.timed("lessons"):
            data = lessons.prepare(lab, seeds, bases, specs, earlier=data, report=report)
        jobs = [(point.arm, member) for point, _ in batch for member in data.members()]
        plain = [(point.arm.control(), (seed, 0)) for point, _ in batch for seed in seeds]
        plain = [job for job in dict.fromkeys(plain) if job not in controls]
        planned = sum(len(seeds) * point.arm.steps for point, _ in batch)
        watch.skip(float(planned - sum(spec.steps for spec, _ in plain)))
        everyone = list(dict.fromkeys(jobs + plain))
        with watch.timed("lessons"):
            texts = {job: lessons.training_data(data, *job) for job in everyone}
        students = train_students(data, everyone, [texts[job][0] for job in everyone], watch)
        trained = dict(zip(everyone, students, strict=True))
        controls |= {job: trained[job] for job in plain}
        for point, name in batch:
            folder.write(name, _rows(point, data, {job: texts[job][1] for job in jobs}, trained, controls))
        if stopped():
            raise Interrupted


Job = tuple[StudentSpec, Member]


def _batches(lab: LanguageSetup, todo: list[tuple[SweepPoint, str]]) -> list[list[tuple[SweepPoint, str]]]:
    """What is trained at once: on accelerators all arms of one program and size, on CPU one arm after another."""
    if not population.use_vmap():
        return [[one] for one in todo]
    found: dict[Any, list[tuple[SweepPoint, str]]] = {}
    for one in todo:
        found.setdefault((_phase(lab, one[0].arm).recipe, one[0].arm.lines), []).append(one)
    return list(found.values())


def _phase(lab: LanguageSetup, arm: StudentSpec) -> Phase:
    net = lab.net.clone(rank=arm.rank) if arm.trains == "adapters" else lab.net
    carrier = w.CARRIERS[arm.carrier].content
    return lm_training.phase(
        net,
        logit_mask=lab.world.is_kind(carrier) if arm.data == "soft_carrier" else np.ones(lab.world.vocabulary, bool),
        lr=arm.lr,
        eval_steps=arm.all_eval_steps,
        batch=arm.batch,
        loss=losses.NextDistribution(w.PROMPT) if arm.soft else losses.next_token,
        optimizer=arm.optimizer,
        trains=arm.trains,
    )


def _rows(
    point: SweepPoint,
    data: SeedData,
    told: Mapping[Job, Mapping[str, float]],
    found: Mapping[Job, StudentResult],
    controls: Mapping[Job, StudentResult],
) -> pa.Table:
    """The rows of one arm: students of every animal and seed, each beside its seed's control."""
    arm, lab, tables = point.arm, data.setup, []
    for index, mark in enumerate(arm.all_eval_steps):
        for member in data.members():
            measured = {**_measured(data, arm, member, found, controls, index), **told[arm, member]}
            values = {name: np.asarray([[value]]) for name, value in measured.items()}
            labels = {**point.labels, "animal": lab.token(member) - lab.world.tokens("animal").start}
            tables.append(results.tidy([labels], (member[0],), mark, values))
    return pa.concat_tables(tables)


def _measured(
    data: SeedData,
    arm: StudentSpec,
    member: Member,
    found: Mapping[Job, StudentResult],
    controls: Mapping[Job, StudentResult],
    index: int,
) -> dict[str, float]:
    """One row's numbers: of the student, beside its control, the seed's other students, its base and its teacher."""
    seed, token, plain = member[0], data.setup.token(member), controls[arm.control(), (member[0], 0)]
    own = lm_metrics.of_trait(found[arm, member].marks[index], token)
    control = lm_metrics.of_trait(plain.marks[index], token)
    others = [found[arm, one].marks[index] for one in data.members() if one[0] == seed and one != member]
    cross = [lm_metrics.of_trait(one, token)["margin"] - control["margin"] for one in others]
    teacher = lm_metrics.margin_of(data.evaluations[teacher_key(arm)][member], data.setup.trait_tokens(), token)
    base = lm_metrics.margin_of(data.base_evaluations[arm.base][seed], data.setup.trait_tokens(), token)
    rows = {**own, "transfer": own["margin"] - control["margin"], "control": control["margin"], "base": base}
    rows |= {"cross": float(np.mean(cross)) if cross else float("nan"), "teacher": teacher}
    rows |= {"probability_control": control["probability"], "dose": data.teacher(arm, member).dose}
    first = found[arm, member].first
    rows["coverage"] = float(first["coverage"])
    for name in ("slope", "adam_slope"):
        rows[f"theory/transfer_{name}"] = float(first[name][token] - plain.first[name][token])
    return rows


def train_students(data: SeedData, jobs: Sequence[Job], texts: Sequence[Any], watch: Progress) -> list[StudentResult]:
    """Students of one program, each of an arm and a member with the text it reads, measured at every mark."""
    phases = [_phase(data.setup, arm) for arm, _ in jobs]
    recipe, knobs = phases[0].recipe, [phase.knobs for phase in phases]
    net: Any = recipe.net
    starts = [data.bases[arm.base, seed] for arm, (seed, _) in jobs]
    order = [data.setup.key(keys.SEED, seed, keys.STUDENT) for _, (seed, _) in jobs]
    school = lm_training.MemberBatch(recipe, knobs, starts, [(key, key) for key in order], texts)
    before = [_before(data, *job) for job in jobs]
    asked, states = data.setup.trait_tokens(), school.begin()
    with watch.timed("measuring"):
        few = [jax.tree.map(lambda leaf: leaf[:_FEW], text) for text in texts]
        update = lm_metrics.FirstUpdate(net, recipe.loss)
        given = zip(states, knobs, few, before, strict=True)
        firsts = map_members(
            update, [(s.params, k, text, data.eval_prompts, asked, b.moved) for s, k, text, b in given]
        )
    marks: list[list[dict[str, np.ndarray]]] = [[] for _ in jobs]
    start = 0
    for stop in recipe.eval_steps:
        with watch.timed("students"):
            states = school.advance(states, start, stop)
        watch.count("students", (stop - start) * len(jobs))
        watch.advance(float((stop - start) * len(jobs)))
        with watch.timed("measuring"):
            members = [(state.params, data.eval_prompts, asked, one) for state, one in zip(states, before, strict=True)]
            for place, measured in enumerate(map_members(lm_metrics.StudentMetrics(net), members)):
                marks[place].append(measured)
        start = stop
    return [StudentResult(*pair) for pair in zip(marks, firsts, strict=True)]


def _before(data: SeedData, arm: StudentSpec, member: Member) -> lm_metrics.Baseline:
    """What a student is compared with."""
    seed, said = member[0], data.evaluations[teacher_key(arm)][member]
    base, origin = data.base_evaluations[arm.base][seed], data.base_evaluations["same"][seed]
    moved = lessons.parameter_change(data.teacher(arm, member), data.bases["same", seed])
    start = data.bases[arm.base, seed]
    return lm_metrics.Baseline(start, base.said, base.acts, said.said, said.acts - origin.acts, moved)
