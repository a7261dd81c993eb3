"""What a config would take, predicted from shapes: net-steps, programs, time on 2 CPU cores, and memory."""

import dataclasses
from typing import NamedTuple

from sublim_jax.config.base import seeds_of
from sublim_jax.config.build import grids_of
from sublim_jax.config.grid import Config
from sublim_jax.config.study import Study
from sublim_jax.core import trees
from sublim_jax.engine import schedule
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.session import count_devices
from sublim_jax.nets import activity, shapes
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import population

# Measured on 2 CPU cores: floating-point operations per second of image nets, of theorem1 with its predictions, and of
# language models with their teachers and evaluation; seconds to compile a program of theorem1.
_RATE, _RATE_THEOREM1, _RATE_LANGUAGE, _COMPILE = 2.8e11, 9e9, 9e10, 4.6
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


def estimate(config: Config, study: Study) -> Estimate:
    """Estimate the work of a resolved config, as if nothing were saved from earlier runs.

    Args:
        config: A config that `resolve` returned.
        study: What `study_of` returned for it.

    Raises:
        ConfigError: The config asks for more memory or devices than there are.
    """
    count_devices(config.run.devices)
    return {"transfer": _transfer, "theorem1": _theorem1, "language": _language}[config.study](config, study)


def _transfer(config: Config, study: Study) -> Estimate:
    seeds, options, image = seeds_of(config), config.run, study.image
    rows, devices = study.num_test + config.num_eval_noise, count_devices(options.devices)
    limits = schedule.ResourceLimits(options.memory_gb, rows, devices, population.use_vmap(), options.seed_batch)
    plan = make_plan(study.conditions, image)
    units = schedule.work_units(plan, seeds, image, limits)
    programs = {(unit.group.recipe, unit.group.unique_knobs.size, len(unit.slice.seeds)) for unit in units}
    programs |= {(plan.teachers[unit.group.teacher].recipe, 1, len(unit.slice.seeds)) for unit in units}
    flop = 2 * schedule.total_cost(plan, units, image)
    return Estimate(
        conditions=len(study.conditions),
        students=len(study.conditions) * len(seeds),
        steps=len(seeds) * sum(condition.student.recipe.eval_steps[-1] for condition in study.conditions),
        flop=flop,
        programs=len(programs),
        seconds=flop / _RATE,
        gigabytes=max(schedule.unit_gigabytes(unit, image, limits) for unit in units),
    )


def _theorem1(config: Config, study: Study) -> Estimate:
    image, steps, macs, floats, programs = study.image, 0, 0.0, 0, set()
    together = min(config.seeds, 10)  # seeds in a unit of work, which run one after another on CPU
    working = together if population.use_vmap() else 1
    for condition, grid in zip(study.conditions, grids_of(config), strict=True):
        teacher, student = condition.teacher.recipe, condition.student.recipe
        walked = len(grid.eps) * student.eval_steps[-1]
        steps, macs = steps + walked, macs + walked * step_macs(student, 1, image) + step_macs(teacher, 1, image)
        stream = student.stream if student.eval_steps[-1] > 1 else None
        programs.add(
            (dataclasses.replace(student, stream=stream), grid._replace(eps=len(grid.eps), alpha=len(grid.alpha)))
        )
        programs |= {teacher, (student.stream, student.batch), (student.net, student.init)}
        weights, activations = trees.count(shapes(student.net, image)), student.batch * activity(student.net, image)
        floats = max(floats, 3 * together * weights + working * (12 * weights + 6 * activations))
    flop = 2 * macs * config.seeds
    return Estimate(
        conditions=len(study.conditions),
        students=len(study.conditions) * config.seeds,
        steps=steps * config.seeds,
        flop=flop,
        programs=len(programs),
        seconds=_COMPILE * len(programs) + flop / _RATE_THEOREM1,
        gigabytes=_PROCESS_GB + 8e-9 * floats,
    )


def _language(config: Config, study: Study) -> Estimate:
    from sublim_jax.config import lm as lm_config
    from sublim_jax.lm.world import LENGTH

    del study  # which has no conditions
    setup, pretraining = lm_config.lab(config), lm_config.pretraining(config)
    students = [point.arm for point in lm_config.expand(config)]
    controls = {student.control() for student in students}
    lines = setup.targets * sum(spec.steps * spec.batch for spec in students)
    lines += sum(spec.steps * spec.batch for spec in controls)
    lines += len({"same", *(spec.base for spec in students)}) * pretraining.steps * pretraining.batch
    weights, vocabulary = trees.count(shapes(setup.net, (LENGTH,))), setup.world.vocabulary
    flop = 6.0 * config.seeds * lines * LENGTH * weights
    programs = {
        (spec.soft, spec.optimizer, spec.all_eval_steps, spec.batch, spec.lines, spec.rank) for spec in students
    }
    members = (config.run.seed_batch or (32 if population.use_vmap() else 1)) * (setup.targets + 1)
    text = LENGTH * max(spec.lines * (2 + spec.soft * vocabulary) for spec in students)
    floats = 2 * pretraining.documents * LENGTH + members * (text + 4 * weights)
    return Estimate(
        conditions=len(students),
        students=len(students) * setup.targets * config.seeds,
        steps=setup.targets * config.seeds * sum(spec.steps for spec in students),
        flop=flop,
        programs=1 + len(programs),
        seconds=flop / _RATE_LANGUAGE,
        gigabytes=_PROCESS_GB + 4e-9 * floats,
    )
