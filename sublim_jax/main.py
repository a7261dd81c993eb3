"""The command: python -m sublim_jax.main --config=configs/quickstart.py [--config.field=value] [--workdir=DIR].

On several machines: --shard=i/n (the i-th of n jobs), --distributed=auto (the processes of a TPU pod or SLURM step).

Exit codes: 0 done, 1 the machine failed (no space, no memory), 2 bad config, 75 interrupted and saved.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from sublim_jax import cli
from sublim_jax.cli import DONE

_HOUR = 1e15  # floating-point operations of an hour on 2 CPU cores, measured; see BUILD.md


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _experiment(_flags(argv), argv), argv, "main")


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_enum(
        "resume", "auto", ["auto", "never", "overwrite"], "What to do with earlier results.", flag_values=values
    )
    flags.DEFINE_string("shard", "0/1", "i/n: do the i-th of n parts of the work, from 0.", flag_values=values)
    flags.DEFINE_string(
        "distributed", "", "auto: one of several processes as JAX finds them; or HOST:PORT,i/n.", flag_values=values
    )
    return cli.parse_flags(values, argv, __doc__ or "")


def _experiment(values: flags.FlagValues, argv: Sequence[str]) -> int:
    # Imported late: a misspelt flag should not wait for JAX.
    import jax

    from sublim_jax import results
    from sublim_jax.config import identity, options_of, resolve, seeds_of
    from sublim_jax.engine import compilation_cache, distributed
    from sublim_jax.engine.options import Interrupted
    from sublim_jax.engine.progress import Progress
    from sublim_jax.results import figures, report
    from sublim_jax.results.provenance import provenance

    overrides = dict(config_flags.get_override_values(values["config"]))
    config = resolve(values.config, overrides)
    figures.pick(config.figure)
    shard = distributed.parse_shard(values.shard)
    distributed.initialize(values.distributed)
    compilation_cache.enable()
    size = "" if config.preset == "paper" else f"-{config.preset}"
    workdir = Path(values.workdir or f"results/{config.name}{size}")
    seeds, stop = seeds_of(config), cli.Stop()
    job = _language(config, seeds, workdir) if config.study == "language" else _images(config, seeds, workdir)
    me, all_ = jax.process_index(), jax.process_count()
    part = "" if shard == (0, 1) else f", part {values.shard} of the work"
    part += f", process {me}/{all_}" if all_ > 1 else ""
    print(f"asked: {job.asked} x {len(seeds)} seeds{part}; work folder {workdir}", flush=True)
    facts = {
        "command": cli.resume_command(argv, "main"),
        "resolved": config.to_dict(),
        "overrides": {name: str(value) for name, value in overrides.items()},
        "provenance": provenance(),
        **job.facts,
    }
    try:
        job.run(
            seeds=seeds,
            workdir=workdir,
            config=identity(config),
            resume=values.resume,
            options=options_of(config),
            progress=Progress(),
            stopped=stop,
            metadata=facts,
            shard=shard,
        )
    except Interrupted as saved:
        raise KeyboardInterrupt from saved
    distributed.wait_for_others(lambda: job.left(shard), stop)
    if others := job.left():
        print(f"this part is done; {others} rows of others are still to come. Whoever comes last writes the report")
        return DONE
    print(_show(results.load(workdir), figures.pick(config.figure)))
    print(f"rows, figure and report: {report.write(workdir, config.figure)}")
    return DONE


class _Job(NamedTuple):
    """What a study does, how many rows of a shard are left, what was asked in words, and facts to keep with rows."""

    run: Callable[..., Any]
    left: Callable[..., int]
    asked: str
    facts: dict[str, Any]


def _images(config: Any, seeds: Sequence[int], workdir: Path) -> _Job:
    """The studies of nets that look at images: `transfer` and `theorem1`."""
    from sublim_jax.config import build_conditions, grids_of, load_data, metrics_of
    from sublim_jax.engine import distributed, run, theorem1
    from sublim_jax.engine.plan import make_plan

    dataset = load_data(config)
    conditions, image = build_conditions(config, dataset), dataset.train.x.shape[1:]
    print(f"data: {dataset.name}, {len(dataset.train.y)} + {len(dataset.test.y)} images, {dataset.source}")
    about = {"data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum}}
    asked, common = f"{len(conditions)} conditions", {"dataset": dataset, "root_seed": config.root_seed}
    if config.study == "theorem1":
        measured = functools.partial(theorem1.run, conditions, grids_of(config), **common)
        return _Job(measured, functools.partial(theorem1.left, len(conditions), seeds, workdir), asked, about)
    print(_amount(conditions, seeds, image), flush=True)
    plan = make_plan(conditions, image)
    measured = functools.partial(
        run.run, plan, metrics=metrics_of(config), num_eval_noise=config.num_eval_noise, **common
    )
    return _Job(measured, functools.partial(distributed.rows_left, plan, seeds, image, workdir), asked, about)


def _language(config: Any, seeds: Sequence[int], workdir: Path) -> _Job:
    """The study of language models."""
    from sublim_jax.config import lm as lm_config
    from sublim_jax.config import options_of
    from sublim_jax.core import trees
    from sublim_jax.lm import run as lm_run
    from sublim_jax.lm.world import LENGTH
    from sublim_jax.nets import shapes

    points, lab, how = lm_config.expand(config), lm_config.lab(config), options_of(config)
    print(f"models: {trees.count(shapes(lab.net, (LENGTH,))):,} parameters, {lab.world.vocabulary} tokens")
    measured = functools.partial(lm_run.run, points, lab, lm_config.pretraining(config))
    left = functools.partial(lm_run.left, points, seeds, how, workdir)
    return _Job(measured, left, f"{len(points)} arms x {lab.targets} animals", {})


def _amount(conditions: Any, seeds: Sequence[int], image: tuple[int, ...]) -> str:
    """How much training is asked for; on CPU, how long that may take."""
    import jax

    from sublim_jax.nets.costs import step_macs

    each = [(one.student.recipe, step_macs(one.student.recipe, 1, image)) for one in conditions]
    steps = len(seeds) * sum(recipe.eval_steps[-1] for recipe, _ in each)
    flop = 2 * len(seeds) * sum(recipe.eval_steps[-1] * cost for recipe, cost in each)
    said = f"students: {steps:,} net-steps, {flop:.1e} floating-point operations"
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
