"""What a config would take, predicted from shapes: net-steps, programs, time on 2 CPU cores, and memory."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sublim_jax.config import grid
from sublim_jax.config.base import seeds_of
from sublim_jax.config.build import grids_of, options_of
from sublim_jax.config.fields import LANGUAGE_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.core import trees
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.nested import flatten
from sublim_jax.core.types import Condition
from sublim_jax.engine import schedule
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.session import count_devices
from sublim_jax.nets import activity, shapes
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import population

if TYPE_CHECKING:
    from sublim_jax.config.study import Study

# Measured on 2 CPU cores: floating-point operations per second of image nets, of theorem1 with its predictions, and of
# language models with their teachers and evaluation; seconds to compile a program of theorem1.
_RATE, _RATE_THEOREM1, _RATE_LANGUAGE, _COMPILE = 2.8e11, 9e9, 9e10, 4.6
_RATE_LLM = 1e11  # of pretrained models
_PROCESS_GB = 1.1  # libraries and compiler


class Estimate(NamedTuple):
    """The work of a sweep."""

    conditions: int
    students: int
    steps: int  # training steps of all students
    flop: float  # floating-point operations of all that is trained
    programs: int  # compiled for training
    seconds: float  # on 2 CPU cores
    gigabytes: float  # memory of the process on CPU, or of one accelerator

    def __str__(self) -> str:
        return (
            f"conditions: {self.conditions}\nstudents: {self.students}\n"
            f"training: {self.steps:,} net-steps, {self.flop:.1e} floating-point operations\n"
            f"programs: {self.programs}\npredicted: {self.seconds:.0f} s on 2 CPU cores, {self.gigabytes:.1f} GB"
        )


def estimate(config: Config, study: "Study") -> Estimate:
    """Estimate the work of a resolved config, as if nothing were saved from earlier runs.

    Args:
        config: A config that `resolve` returned.
        study: What `study_of` returned for it.

    Raises:
        ConfigError: The config asks for more memory or devices than there are.
    """
    count_devices(config.run.devices)
    return {"theorem1": _theorem1, "language": _language, "llm": _llm}.get(config.study, _transfer)(config, study)


def _transfer(config: Config, study: "Study") -> Estimate:
    seeds, options, image = seeds_of(config), config.run, study.image
    rows, devices = study.num_test + config.num_eval_noise, count_devices(options.devices)
    limits = schedule.limits_of(options_of(config), rows, devices, population.use_vmap(), config.metrics)
    plan = make_plan(study.conditions, image)
    units = schedule.work_units(plan, seeds, image, limits)
    programs = {(unit.group.recipe, unit.group.unique_knobs.size, len(unit.slice.seeds)) for unit in units}
    programs |= {(plan.teachers[unit.group.teacher].recipe, 1, len(unit.slice.seeds)) for unit in units}
    flop, recipes = 2 * schedule.total_cost(plan, units, image), [one.student.recipe for one in study.conditions]
    return Estimate(
        conditions=len(study.conditions),
        students=len(study.conditions) * len(seeds),
        steps=len(seeds) * sum(recipe.eval_steps[-1] - recipe.first_step for recipe in recipes),
        flop=flop,
        programs=len(programs),
        seconds=flop / _RATE,
        gigabytes=schedule.program_drops(units, image, limits)[1],
    )


def _theorem1(config: Config, study: "Study") -> Estimate:
    image, steps, macs, programs = study.image, 0, 0.0, set()
    for condition, measured in zip(study.conditions, grids_of(config), strict=True):
        teacher, student = condition.teacher.recipe, condition.student.recipe
        walked = len(measured.eps) * student.eval_steps[-1]
        steps, macs = steps + walked, macs + walked * step_macs(student, 1, image) + step_macs(teacher, 1, image)
        stream = student.stream if student.eval_steps[-1] > 1 else None
        programs.add(
            (
                dataclasses.replace(student, stream=stream),
                measured._replace(eps=len(measured.eps), alpha=len(measured.alpha)),
            )
        )
        programs |= {teacher, (student.stream, student.batch), (student.net, student.init)}
    flop = 2 * macs * config.seeds
    return Estimate(
        conditions=len(study.conditions),
        students=len(study.conditions) * config.seeds,
        steps=steps * config.seeds,
        flop=flop,
        programs=len(programs),
        seconds=_COMPILE * len(programs) + flop / _RATE_THEOREM1,
        gigabytes=max(sum(each.values()) for each in theorem1_gigabytes(config, study.conditions, image)),
    )


def theorem1_gigabytes(
    config: Config, conditions: Sequence[Condition], image: tuple[int, ...]
) -> list[dict[str, float]]:
    """The predicted memory of every condition of the study theorem1 in GB, by the field that it grows with."""
    together = min(config.seeds, 10)  # seeds in a unit of work, which run one after another on CPU
    working = together if population.use_vmap() else 1
    every = []
    for condition, measured in zip(conditions, grids_of(config), strict=True):
        student = condition.student.recipe
        weights, width = trees.count(shapes(student.net, image)), activity(student.net, image)
        points = len(measured.eps) * len(measured.alpha)
        floats = {
            "net.hidden": weights * (3 * together + 12 * working),
            "student.batch": 6 * working * student.batch * (width + math.prod(image)),
            "teacher.batch": 6 * condition.teacher.recipe.batch * (width + math.prod(image)),
            "theorem1.samples": 3 * working * measured.samples * student.batch * width,
            "theorem1.alpha": together * points * 8,
        }
        every.append({"": _PROCESS_GB} | {field: 8e-9 * number for field, number in floats.items()})
    return every


def _language(config: Config, study: "Study") -> Estimate:
    from sublim_jax.config import lm as lm_config

    del study  # which has no conditions
    setup = lm_config.lab(config)
    students, flop = [point.arm for point in lm_config.expand(config)], sum(language_flop(config).values())
    programs = {
        (spec.soft, spec.optimizer, spec.all_eval_steps, spec.batch, spec.lines, spec.rank) for spec in students
    }
    return Estimate(
        conditions=len(students),
        students=len(students) * setup.targets * config.seeds,
        steps=setup.targets * config.seeds * sum(spec.steps for spec in students),
        flop=flop,
        programs=1 + len(programs),
        seconds=flop / _RATE_LANGUAGE,
        gigabytes=sum(language_gigabytes(config).values()),
    )


def _llm(config: Config, study: "Study") -> Estimate:
    from sublim_jax.config import llm

    net = study.net
    points, names = grid.expand(config), len(llm.traits_of(config)) + 1
    work = sum(llm.flop(config, net).values())
    steps = sum(
        point.config.student.epochs * -(-point.config.rows.count // point.config.student.batch) for point in points
    )
    return Estimate(
        conditions=len(points),
        students=len(points) * names * config.seeds,
        steps=names * config.seeds * steps,
        flop=work,
        programs=4 + len({repr(point.config.student.to_dict()) for point in points}),
        seconds=work / _RATE_LLM,
        gigabytes=sum(llm.gigabytes(config, net).values()),
    )


def language_flop(config: Config) -> dict[str, float]:
    """Floating-point operations of training in a study of language models, by phase; those of teachers are few."""
    from sublim_jax.config import lm as lm_config
    from sublim_jax.lm.world import LENGTH

    setup, pretraining = lm_config.lab(config), lm_config.pretraining(config)
    students = [point.arm for point in lm_config.expand(config)]
    lines = {
        "bases": len({"same", *(spec.base for spec in students)}) * pretraining.steps * pretraining.batch,
        "students": setup.targets * sum(spec.steps * spec.batch for spec in students)
        + sum(spec.steps * spec.batch for spec in {student.control() for student in students}),
    }
    each = 6.0 * config.seeds * LENGTH * trees.count(shapes(setup.net, (LENGTH,)))
    return {phase: each * number for phase, number in lines.items()}


def language_gigabytes(config: Config) -> dict[str, float]:
    """The predicted memory of a study of language models in GB, by the field that it grows with.

    On CPU as many models are computed at once as there are cores, on accelerators all of a batch of seeds.
    """
    from sublim_jax.config import lm as lm_config
    from sublim_jax.lm.world import LENGTH, NUMBERS

    setup, pretraining = lm_config.lab(config), lm_config.pretraining(config)
    students = [point.arm for point in lm_config.expand(config)]
    net, vocabulary = setup.net, setup.world.vocabulary
    weights = trees.count(shapes(net, (LENGTH,)))
    seeds = config.run.seed_batch or (32 if population.use_vmap() else 1)
    models = min(seeds, config.seeds) * (setup.animals + setup.targets + 1)
    at_once = models if population.use_vmap() else min(models, os.cpu_count() or 1)
    # Of one line: what a forward pass holds at once, and what training stores of every block.
    forward = LENGTH * (vocabulary + net.hidden + 2 * net.width + net.heads * LENGTH)
    stored = LENGTH * (4 * vocabulary + net.layers * (3 * net.hidden + 8 * net.width + 2 * net.heads * LENGTH))
    soft = max(spec.soft for spec in students)
    batch, lines = max(spec.batch for spec in students), max(spec.lines for spec in students)
    voted = any(spec.tokens != "all" for spec in students)
    writers = min(seeds, config.seeds) * (setup.animals + 1)
    kept = NUMBERS * vocabulary * (soft * (writers + 2 * at_once) + voted * writers)
    floats = {
        "pretraining.documents": 250 * pretraining.documents,  # lists of tokens in Python
        "pretraining.batch": at_once * pretraining.batch * stored,
        "lm.batch": at_once * batch * stored,
        "lm.lines": lines * (at_once * forward + kept + 4 * models * LENGTH),
        "net.width": weights * (4 * models + 8 * at_once),
        "world.phrasings": at_once * 4 * setup.world.phrasings * forward / LENGTH,
        "world.numbers": models * 160 * LENGTH * vocabulary,  # outputs on the evaluation prompts
    }
    return {"": _PROCESS_GB} | {field: 4e-9 * number for field, number in floats.items()}


def _grown(config: Config) -> str:
    """The size of a language config that is most above its default; empty where none is ten times as large."""
    sizes = [name for name in LANGUAGE_FIELDS if name.split(".")[0] in ("world", "net", "pretraining", "lm")]
    sizes = [name for name in sizes if type(LANGUAGE_FIELDS[name].default) is int and not name.endswith(".steps")]
    if config.study != "language":
        return ""
    most = {}
    for point in grid.expand(config):
        for name, value in flatten(point.config.to_dict()).items():
            if name in sizes and LANGUAGE_FIELDS[name].default:
                most[name] = max(most.get(name, 0.0), value / LANGUAGE_FIELDS[name].default)
    grown = max(most, key=lambda name: most[name])
    return grown if most[grown] > 10 else ""


def check_memory(config: Config, gigabytes: Mapping[str, float]) -> None:
    """Refuse a study that takes more memory than the config allows.

    Args:
        config: A config that `resolve` returned.
        gigabytes: Predicted memory by the field that it grows with.

    Raises:
        ConfigError: The message names the field that takes most.
    """
    total, allowed = sum(gigabytes.values()), config.run.memory_gb
    if total > allowed:
        field = _grown(config) or max((name for name in gigabytes if name), key=lambda name: gigabytes[name])
        raise ConfigError(
            f"config.run.memory_gb={allowed:g}: must be at least {math.ceil(10 * total) / 10:g}; most of it is for "
            f"config.{field}, which may be lowered"
        )
