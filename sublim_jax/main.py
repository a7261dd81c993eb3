"""Run a config: python -m sublim_jax --config=quickstart [--config.FIELD=VALUE] [--workdir=DIR].

Exit codes: 0 done, 1 the machine failed (no space, no memory), 2 bad config, 75 interrupted and saved.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.config import command_line, identity, seeds_of

_HOUR = 1e15  # floating-point operations of an hour on 2 CPU cores, measured; see BUILD.md


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _experiment(argv), argv, "main")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {
        "shard": "part i of n of the work, counted from 0, e.g. --shard=0/4",
        "distributed": "several processes, as JAX detects them or HOST:PORT,i/n, e.g. --distributed=auto",
    }
    modes, resume = ["auto", "never", "overwrite"], "what to do with earlier results, e.g. --resume=overwrite"
    flags.DEFINE_enum("resume", "auto", modes, resume, flag_values=values)
    flags.DEFINE_string("shard", "0/1", text["shard"], flag_values=values)
    flags.DEFINE_string("distributed", "", text["distributed"], flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print what would be trained, and train nothing", flag_values=values)
    flags.DEFINE_bool("list", False, "print every config with its purpose and measured time", flag_values=values)
    flags.DEFINE_bool("fields", False, "print every config field with its allowed values", flag_values=values)
    return values


def _experiment(argv: Sequence[str]) -> int:
    values = _flags()
    request = command_line.parse_flags(values, argv, __doc__ or "")
    if values.list or values.fields:
        print(command_line.list_configs() if values.list else command_line.list_fields())
        return DONE
    config = request.resolve()
    # Imported after the flags are checked, because JAX takes seconds.
    import jax

    from sublim_jax import results
    from sublim_jax.config.build import options_of
    from sublim_jax.config.study import study_of
    from sublim_jax.engine import compilation_cache, distributed
    from sublim_jax.engine.options import Interrupted
    from sublim_jax.engine.session import Session
    from sublim_jax.results import figures, report
    from sublim_jax.results.provenance import provenance

    figures.pick(config.figure)
    if values.dry_run:
        print(_dry_run(config))
        return DONE
    shard = distributed.parse_shard(values.shard)
    distributed.initialize(values.distributed)
    compilation_cache.enable()
    size = "" if config.preset == "paper" else f"-{config.preset}"
    workdir = Path(values.workdir or f"results/{config.name}{size}")
    seeds, stop = seeds_of(config), cli.Stop()
    study = study_of(config)
    print(*study.notes, sep="\n")
    if config.study == "transfer":
        print(_amount(study.conditions, seeds, study.image))
    me, all_ = jax.process_index(), jax.process_count()
    part = "" if shard == (0, 1) else f", part {values.shard} of the work"
    part += f", process {me}/{all_}" if all_ > 1 else ""
    print(f"asked: {study.size} x {len(seeds)} seeds{part}; work folder {workdir}", flush=True)
    facts = {
        "command": cli.resume_command(argv, "main"),
        "resolved": config.to_dict(),
        "overrides": {name: str(value) for name, value in request.overrides.items()},
        "provenance": provenance(),
        **study.metadata,
    }
    try:
        session = Session(
            seeds=seeds,
            workdir=workdir,
            config=identity(config),
            resume=values.resume,
            options=options_of(config),
            stopped=stop,
            metadata=facts,
            shard=shard,
        )
        study.run(session)
    except Interrupted as saved:
        raise KeyboardInterrupt from saved
    distributed.wait_for_others(lambda: study.left(seeds=seeds, workdir=workdir, shard=shard), stop)
    if others := study.left(seeds=seeds, workdir=workdir):
        print(f"this part is done; {others} rows of others are still to come. Whoever comes last writes the report")
        return DONE
    print(_show(results.load(workdir), figures.pick(config.figure)))
    print(f"rows, figure and report: {report.write(workdir, config.figure)}")
    return DONE


def _dry_run(config: Any) -> str:
    """The work of a run in numbers: conditions, students, net-steps, programs, predicted time and memory."""
    seeds = seeds_of(config)
    if config.study == "language":
        from sublim_jax.config import lm as lm_config

        students = len(points := lm_config.expand(config)) * config.lm.targets * len(seeds)
        steps = config.lm.targets * len(seeds) * sum(point.arm.steps for point in points)
        return f"conditions: {len(points)}\nstudents: {students}\nnet-steps: {steps:,}"
    from sublim_jax.config import build_conditions, load_data

    dataset = load_data(config)
    conditions, image = build_conditions(config, dataset), dataset.train.x.shape[1:]
    counts = [f"conditions: {len(conditions)}", f"students: {len(conditions) * len(seeds)}"]
    if config.study == "theorem1":
        return "\n".join([*counts, _amount(conditions, seeds, image)])
    return "\n".join([*counts, _amount(conditions, seeds, image), *_resources(config, conditions, dataset)])


def _resources(config: Any, conditions: Any, dataset: Any) -> list[str]:
    """Programs, predicted time on 2 CPU cores and predicted memory of a training run."""
    import jax

    from sublim_jax.engine import schedule
    from sublim_jax.engine.plan import make_plan
    from sublim_jax.training import population

    image, seeds, options = dataset.train.x.shape[1:], seeds_of(config), config.run
    rows, devices = len(dataset.test.y) + config.num_eval_noise, options.devices or jax.local_device_count()
    limits = schedule.ResourceLimits(options.memory_gb, rows, devices, population.use_vmap(), options.seed_batch)
    plan = make_plan(conditions, image)
    units = schedule.work_units(plan, seeds, image, limits)
    programs = {(unit.group.recipe, unit.group.unique_knobs.size, len(unit.slice.seeds)) for unit in units}
    programs |= {(plan.teachers[unit.group.teacher].recipe, 1, len(unit.slice.seeds)) for unit in units}
    hours = 2 * schedule.total_cost(plan, units, image) / _HOUR
    memory = max(schedule.unit_gigabytes(unit, image, limits) for unit in units)
    return [f"programs: {len(programs)}", f"predicted: {3600 * hours:.0f} s on 2 CPU cores, {memory:.1f} GB"]


def _amount(conditions: Any, seeds: Sequence[int], image: tuple[int, ...]) -> str:
    """How much training is asked for; on CPU, how long that may take."""
    import jax

    from sublim_jax.nets.costs import step_macs

    each = [(one.student.recipe, step_macs(one.student.recipe, 1, image)) for one in conditions]
    steps = len(seeds) * sum(recipe.eval_steps[-1] for recipe, _ in each)
    flop = 2 * len(seeds) * sum(recipe.eval_steps[-1] * cost for recipe, cost in each)
    said = f"training: {steps:,} net-steps, {flop:.1e} floating-point operations"
    if jax.default_backend() != "cpu" or flop < _HOUR / 6:
        return said
    return f"{said}, about {flop / _HOUR:.1g} hours on 2 CPU cores (--config.preset=laptop asks for less)"


def _show(rows: Any, figure: Any) -> str:
    """The table as text, fitted to the terminal."""
    from rich.console import Console
    from rich.table import Table

    from sublim_jax.results import figures

    frame = figures.table(figure, rows)
    said = "student accuracy: mean and 95 % bootstrap interval over seeds"
    table = Table(title=figures.title(figure) if hasattr(figure, "table") else said, title_justify="left")
    for name in frame.columns:
        table.add_column(str(name))
    for row in frame.values.tolist():
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


if __name__ == "__main__":
    cli.exit_process(main)
