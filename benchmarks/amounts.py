"""What every config asks for in its published size: runs of one pair each, what is left of them, and predicted times.

    python -m benchmarks.amounts
    python -m benchmarks.amounts --scale

A published run is one process for one point of a grid. What is left: marks of one run stand for runs of other lengths,
students whose training is the same are trained once, teachers are shared. Seconds are floating-point operations over
the rate that Figure 2 reaches on 2 CPU cores (measured; docs/performance.md, 'Speed'), and over shares of the peak that
its cost model assumes elsewhere. `--scale` predicts the largest sweep, Figure 4 with 128 seeds, on three machines.
"""

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax import data
from sublim_jax.config import build_conditions, grid, resolve, seeds_of
from sublim_jax.config.command_line import load_config
from sublim_jax.config.estimate import language_flop
from sublim_jax.core import trees
from sublim_jax.core.types import Recipe
from sublim_jax.engine import schedule, workload
from sublim_jax.engine.plan import Plan, make_plan
from sublim_jax.nets import activity, shapes
from sublim_jax.nets.costs import multiply_adds, step_macs

IMAGE = (28, 28)


class Machine(NamedTuple):
    """Chips and what each can do.

    Attributes:
        chips: Number of chips.
        hosts: Number of hosts, each of which runs one process.
        peak: Float32 products of a chip, as configured, in operations per second.
        share: Assumed part of the peak that a run reaches.
        bandwidth: Of a chip's memory, in bytes per second.
        memory_gb: Of a chip.
    """

    chips: int
    hosts: int
    peak: float
    share: float
    bandwidth: float
    memory_gb: float


# cloud.google.com/tpu/docs/v5e and /v5p: bfloat16 peak, memory and bandwidth of a chip, hosts of a slice; 'highest'
# takes six bfloat16 passes. H100: NVIDIA's data sheet of the SXM card, float32 without tensor cores.
MACHINES = {
    "TPU v5e-8": Machine(8, 1, 197e12 / 6, 0.5, 819e9, 16),
    "TPU v5p-256": Machine(128, 32, 459e12 / 6, 0.5, 2765e9, 95),
    "8 x H100": Machine(8, 1, 67e12, 0.6, 3.35e12, 80),
}
COMPILE_SECONDS = 5.0  # of a program, one after another: measured on an H200, assumed for the others
STEP_SECONDS = 3e-5  # assumed: what a training step takes at least, however small its products
_WEIGHT_BYTES = 28  # Adam reads weight, gradient and two moments, and writes three of them
_PASSES = 6  # over the activations of a training step, forward and back
_ROOM = 0.9  # part of a chip's memory that may be filled
# FLOP/s by `step_macs`: measured on 2 Xeon cores; assumed: shares of the peaks above.
RATES = {"2 cores, h": 3e11 * 3600}
RATES |= {
    f"{name}, min": 60 * number * machine.share * machine.peak
    for name, number, machine in (("H100", 1, MACHINES["8 x H100"]), ("TPU v5e-8", 8, MACHINES["TPU v5e-8"]))
}


def necessary_flop(config: Any) -> dict[str, float]:
    """The floating-point operations that training needs in a resolved config, by phase.

    The first layer of a perceptron needs no gradient of its input. Identical trainings are counted once.
    """
    if config.study == "language":
        return language_flop(config)
    plan = plan_of(config)
    students = sum(_necessary(group.recipe, group.unique_knobs.size) for group in plan.groups)
    teachers = sum(_necessary(phase.recipe, 1) for phase in plan.teachers)
    return {"students": students * config.seeds, "teachers": teachers * config.seeds}


def _necessary(recipe: Recipe, nets: int) -> float:
    first = shapes(recipe.net, IMAGE).get("hidden_0", {}).get("kernel")
    unused = 0 if first is None or first.shape[0] != math.prod(IMAGE) else math.prod(first.shape)
    return 2 * recipe.eval_steps[-1] * (step_macs(recipe, nets, IMAGE) - recipe.batch * nets * unused)


def plan_of(config: Any) -> Plan:
    """The plan of a resolved config of image nets, on all images there are."""
    return make_plan(build_conditions(config, _images(config)), IMAGE)


def amount(path: Path) -> dict[str, Any]:
    """One line of the table."""
    config = resolve(load_config(str(path)))
    seeds, plan = len(seeds_of(config)), plan_of(config)
    students = sum(group.unique_knobs.size * group.recipe.eval_steps[-1] for group in plan.groups)
    lengths = sum(group.knobs.size * _lengths(path.stem, group.recipe.eval_steps) for group in plan.groups)
    cost = sum(
        group.recipe.eval_steps[-1] * step_macs(group.recipe, group.unique_knobs.size, IMAGE) for group in plan.groups
    )
    cost += sum(phase.recipe.eval_steps[-1] * step_macs(phase.recipe, 1, IMAGE) for phase in plan.teachers)
    line = {"config": path.stem, "runs of one pair": lengths * seeds, "students' net-steps": students * seeds}
    line |= {"teachers": len(plan.teachers) * seeds, "programs": len({group.recipe for group in plan.groups})}
    return line | {device: 2 * cost * seeds / rate for device, rate in RATES.items()}


def _lengths(name: str, marks: tuple[int, ...]) -> int:
    """How many published runs one run stands for: in Figure 4 every mark is a run of its own."""
    return len([mark for mark in marks if mark]) if name == "figure4" else 1


def _images(config: Any) -> data.Dataset:
    """As many labelled images as there are, all of MNIST's; what they show does not matter here."""
    dataset = data.load_dataset("mnist", "embedded")
    others = {point.config.student.images for point in grid.expand(config)} - {"", "mnist"}
    for name in others:
        more = {**dataset.train.extra, name: dataset.train.x}
        dataset = dataclasses.replace(dataset, train=dataset.train._replace(extra=more))
    return dataset


class _Chip(NamedTuple):
    """Work of one chip: floating-point operations, bytes of traffic, steps one after another."""

    flop: float
    traffic: float
    steps: float


def _training(recipe: Recipe, nets: int, seeds: float) -> _Chip:
    """Training of `nets` nets of each of some seeds of a chip."""
    steps = recipe.eval_steps[-1]
    read = 2 * activity(recipe.teacher, IMAGE) if recipe.teacher is not None else 0
    per_seed = 4 * recipe.batch * (3 * math.prod(IMAGE) + read)
    per_net = _WEIGHT_BYTES * trees.count(shapes(recipe.net, IMAGE)) + 4 * _PASSES * recipe.batch * activity(
        recipe.net, IMAGE
    )
    flop = 2 * steps * seeds * step_macs(recipe, nets, IMAGE)
    return _Chip(flop, steps * seeds * (nets * per_net + per_seed), steps)


def _evaluation(recipe: Recipe, nets: int, seeds: float, rows: int) -> _Chip:
    """All evaluations of some students and their teacher, before and after training, on `rows` inputs."""
    every = [(recipe.net, nets), *([(recipe.teacher, 1)] if recipe.teacher is not None else [])]
    inputs = 2 * len(recipe.eval_steps) * seeds * rows
    flop = sum(2 * inputs * number * multiply_adds(net, IMAGE) for net, number in every)
    return _Chip(flop, sum(8 * inputs * number * activity(net, IMAGE) for net, number in every), 0)


def scale(config: Any, machine: Machine, rows: int) -> dict[str, Any]:
    """What a resolved config of image nets takes on a machine, predicted from its plan.

    Args:
        config: Its seeds are divided among the hosts, and those of a host among its chips.
        machine: The chips.
        rows: Number of inputs on which a student is measured.

    Returns:
        Values by name; floating-point operations and bytes are of all chips, seconds those of the first host.
    """
    plan, devices = plan_of(config), machine.chips // machine.hosts
    limits = schedule.ResourceLimits(_ROOM * machine.memory_gb, rows, devices, True)
    units = schedule.work_units(plan, seeds_of(config), IMAGE, limits, (0, machine.hosts))
    chip, files, trained = [], Counter(), set()
    save_every = config.run.save_every
    for group, batch in units:
        seeds, marks, recipe = len(batch.seeds) / devices, len(group.recipe.eval_steps), group.recipe
        chip += [_training(recipe, group.unique_knobs.size, seeds), _evaluation(recipe, group.knobs.size, seeds, rows)]
        saves = len(workload.stops(recipe, save_every)) - 1
        files += Counter(rows=group.knobs.size * marks * batch.real, files=marks + saves)
        if (group.teacher, batch.name) not in trained:
            trained.add((group.teacher, batch.name))
            teacher = plan.teachers[group.teacher].recipe
            chip.append(_training(teacher, 1, seeds))
            files += Counter(files=len(workload.stops(teacher, save_every)) + batch.real)  # checkpoints and the cache
    flop, traffic, steps = (sum(part) for part in zip(*chip, strict=True))
    parts = {"products": flop / machine.share / machine.peak, "traffic": traffic / machine.bandwidth}
    parts["steps in sequence"] = STEP_SECONDS * steps
    seconds = max(parts.values())
    calls = {call.program: call.programs for call in workload.calls(plan, units, IMAGE, rows, save_every)}
    programs, gigabytes = sum(calls.values()), max(schedule.unit_gigabytes(unit, IMAGE, limits) for unit in units)
    asked, together = math.ceil(len(seeds_of(config)) / machine.chips), max(len(unit.slice.seeds) for unit in units)
    return {
        "chips, hosts": f"{machine.chips}, {machine.hosts}",
        "float32 TFLOP/s of a chip, assumed share": f"{machine.peak / 1e12:.3g}, {machine.share:g}",
        "floating-point operations": flop * machine.chips,
        "bytes of memory traffic": traffic * machine.chips,
        "GB of a chip in use, there": f"{gigabytes:.2g}, {machine.memory_gb:g}",
        "seeds of a chip, at a time": f"{asked}, {together // devices}",
        "programs": programs,
        "seconds compiling": COMPILE_SECONDS * programs,
        **{f"seconds by {name}": number for name, number in parts.items()},
        "seconds in all": COMPILE_SECONDS * programs + seconds,
        "rows, files": f"{files['rows'] * machine.hosts:,}, {files['files'] * machine.hosts:,}",
        "files a second, while it runs": files["files"] * machine.hosts / seconds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", action="store_true", help="Figure 4 with 128 seeds on three machines")
    if parser.parse_args(argv).scale:
        config = load_config("figure4")
        config.seeds = 128
        config = resolve(config)
        predicted = {name: scale(config, machine, 10_000 + config.num_eval_noise) for name, machine in MACHINES.items()}
        names = list(next(iter(predicted.values())))
        return _print([{"": name, **{machine: each[name] for machine, each in predicted.items()}} for name in names])
    others = ("theorem1", "lm_")  # which train no populations of nets that look at images
    paths = sorted(Path("configs").glob("*.py"))
    return _print([amount(path) for path in paths if not path.stem.startswith(others)])


def _print(lines: Sequence[dict[str, Any]]) -> None:
    print("| " + " | ".join(lines[0]) + " |\n|" + "---|" * len(lines[0]))
    for line in lines:
        print("| " + " | ".join(f"{one:,}" if isinstance(one, int) else _text(one) for one in line.values()) + " |")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2g}"


if __name__ == "__main__":
    main()
