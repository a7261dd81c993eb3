"""The phases of this package's own programs, as `run.run` calls them, with the products each one needs."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import protocol
from benchmarks.floors import PIXELS, WIDTH, Timed
from sublim_jax import data, metrics
from sublim_jax.config import base_config, build_conditions, load_data, resolve
from sublim_jax.core import keys, trees
from sublim_jax.core.types import Condition, Phase
from sublim_jax.engine import run
from sublim_jax.engine.plan import Group, make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.session import Session
from sublim_jax.metrics.evaluate import evaluate
from sublim_jax.training import population, streams

CONDITIONS = tuple(protocol.RANDOM_LAYERS)  # those of Figure 2
M, EXAM = 50, 2000


class Work(NamedTuple):
    """run: once, in seconds; flop: of necessary products; net_steps: or nets measured, or samples drawn."""

    run: Timed
    flop: float
    net_steps: float


def necessary(rows: float, outputs: int, backward: bool = True) -> float:
    """Floating-point operations of one net's products on `rows` inputs: the first layer needs no input gradient."""
    first, rest = PIXELS * WIDTH, WIDTH * WIDTH + WIDTH * outputs
    return 2 * rows * ((2 * first + 3 * rest) if backward else (first + rest))


class Lab(NamedTuple):
    """One group of students with their teachers, as the published Figure 2 has them, at m = 50."""

    group: Group
    teacher: Any
    train: Any
    test: Any
    dataset: data.Dataset
    conditions: tuple[Any, ...]


def lab(names: tuple[str, ...] = CONDITIONS, test_limit: int = 0) -> Lab:
    """MNIST and the conditions."""
    config = base_config()
    config.conditions, config.m, config.data.test_limit = names, (M,), test_limit
    dataset = load_data(config)
    conditions = build_conditions(resolve(config), dataset)
    plan = make_plan(conditions, (28, 28))
    train, test = (jax.tree.map(jnp.asarray, bank) for bank in (dataset.train, dataset.test))
    return Lab(plan.groups[0], plan.teachers[0], train, test, dataset, conditions)


def phases(figure: Lab, seeds: int, steps: int) -> dict[str, Work]:
    """Teachers, students, evaluation and noise; every program is compiled before this returns."""
    group, nets, labelled, test = figure.group, figure.group.knobs.size, len(figure.dataset.train.y), len(figure.test.y)
    rows = labelled / streams.steps_per_epoch(labelled, figure.teacher.recipe.batch)
    targets = necessary(group.recipe.batch, M, backward=False) * seeds * steps
    learning = necessary(group.recipe.batch, M) * nets * seeds * steps
    similarity = 2 * (test + EXAM) * WIDTH**2 * 2  # x'y and x'x; the teacher's y'y once per seed
    evaluation = necessary(test, 10, False) + 2 * necessary(EXAM, M, False) + similarity
    amounts = {  # floating-point operations, and net-steps
        "students": (learning + targets, float(nets * seeds * steps)),
        "teachers": (necessary(rows, 10) * seeds * steps, float(seeds * steps)),
        "evaluation": (evaluation * nets * 2, float(nets * 2)),
        "noise": (0.0, 20.0 * 1000 * PIXELS),
    }
    programs = _programs(figure, seeds, steps)
    return {name: Work(_timed(programs[name]), *amount) for name, amount in amounts.items()}


def _programs(figure: Lab, seeds: int, steps: int) -> dict[str, Callable[[], Any]]:
    """What each phase runs: students and teachers train for `steps`, two seeds are evaluated, 20 batches are drawn."""
    group, teacher = figure.group, trees.stack([figure.teacher.knobs])
    student_keys, teacher_keys = (
        population.phase_keys(keys.root(0), jnp.arange(seeds), phase) for phase in ("student", "teacher")
    )
    image, start, stop = {"image": (28, 28)}, jnp.int32(0), jnp.int32(steps)
    teachers = population.init_states(figure.teacher.recipe, teacher, None, teacher_keys, **image)
    single = jax.tree.map(lambda leaf: leaf[:, 0], teachers.params)
    trained = population.attach_heads(group.recipe.net, group.recipe.init, single, teacher_keys, **image)
    students = population.init_states(group.recipe, group.knobs, trained, student_keys, **image)
    two_states, two_teachers, two_keys = jax.tree.map(
        lambda leaf: jnp.copy(leaf[:2]), (students, trained, student_keys)
    )
    programs = {
        "students": (group.recipe, group.knobs, trained, student_keys),
        "teachers": (figure.teacher.recipe, teacher, None, teacher_keys),
    }
    states = {"students": students, "teachers": teachers}  # their memory is given away at each call

    def train(name: str) -> Any:
        recipe, *arguments = programs[name]
        states[name] = population.advance(recipe, states[name], *arguments, figure.train, start, stop)
        return states[name]

    def evaluation() -> Any:
        nets = two_states, group.knobs, two_teachers, two_teachers, two_keys
        return evaluate(group.recipe, metrics.ALL, *nets, figure.test, stop, num_eval_noise=EXAM)

    @jax.jit
    def noise(key: Any) -> Any:
        knobs = group.knobs.member(0)
        return jax.lax.map(lambda step: streams.uniform(key, step, 1000, knobs, figure.test)[0].sum(), jnp.arange(20))

    train_all = {name: functools.partial(train, name) for name in programs}
    return {**train_all, "evaluation": evaluation, "noise": lambda: noise(student_keys[0])}


def whole_run(figure: Lab, seeds: int) -> Timed:
    """Seconds of `run.run` for so many seeds, ten steps each, without what the compiler takes."""
    few = shortened(figure.conditions[:2], 5, 10)

    def once() -> float:
        return seconds_of_run(few, figure.dataset, seeds)

    once()
    return once


def seconds_of_run(conditions: Sequence[Condition], dataset: data.Dataset, seeds: int) -> float:
    """Seconds of `run.run` that measures accuracies only, without what the compiler takes."""
    progress, start = Progress(show=False), time.perf_counter()
    session = Session(seeds=range(seeds), progress=progress)
    run.run(conditions, dataset, session, metrics=(metrics.task,), num_eval_noise=64)
    return time.perf_counter() - start - progress.seconds["compile"]


def shortened(conditions: Sequence[Condition], teacher: int, student: int) -> list[Condition]:
    """The same conditions with so many steps of teacher and student, measured at the end only."""
    return [
        dataclasses.replace(
            condition.with_student(eval_steps=(student,)),
            teacher=Phase(
                dataclasses.replace(condition.teacher.recipe, eval_steps=(teacher,)), condition.teacher.knobs
            ),
        )
        for condition in conditions
    ]


def _timed(call: Any) -> Timed:
    def run_once() -> float:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - begun

    run_once()
    return run_once
