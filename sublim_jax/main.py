"""Run a config: python -m sublim_jax --config=quickstart [--config.FIELD=VALUE] [--workdir=DIR].

Exit codes: 0 done, 1 the machine failed (no space, no memory), 2 bad config, 75 interrupted and saved.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sublim_jax import cli
from sublim_jax.cli import DONE
from sublim_jax.config import command_line, default_workdir, identity, seeds_of
from sublim_jax.core.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _command(argv), argv, "main")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    resume = "what to do with earlier results, e.g. --resume=overwrite"
    shard = "part i of n of the work, counted from 0, e.g. --shard=0/4"
    distributed = "several processes, as JAX detects them or HOST:PORT,i/n, e.g. --distributed=auto"
    flags.DEFINE_enum("resume", "auto", ["auto", "never", "overwrite"], resume, flag_values=values)
    flags.DEFINE_string("shard", "0/1", shard, flag_values=values)
    flags.DEFINE_string("distributed", "", distributed, flag_values=values)
    csv = "a file for the table of means and intervals with full precision, e.g. --csv=table.csv"
    flags.DEFINE_string("csv", "", csv, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print what would be trained, and train nothing", flag_values=values)
    flags.DEFINE_bool("list", False, "print every config with its purpose and measured time", flag_values=values)
    flags.DEFINE_bool("fields", False, "print every config field with its allowed values", flag_values=values)
    return values


def _command(argv: Sequence[str]) -> int:
    values = _flags()
    request = command_line.parse_flags(values, argv, __doc__ or "")
    if values.list or values.fields:
        print(command_line.list_configs() if values.list else command_line.list_fields())
        return DONE
    config = request.resolve()
    # Imported after the flags are checked, because JAX takes seconds.
    from sublim_jax.config.estimate import estimate
    from sublim_jax.config.study import study_of
    from sublim_jax.results import figures

    figures.pick(config.figure)
    if values.csv and Path(values.csv).expanduser().is_dir():
        raise ConfigError(f"--csv={values.csv}: is a folder; must be a file")
    if values.dry_run:
        print(estimate(config, study_of(config)))
        return DONE
    overrides = {name: str(value) for name, value in request.overrides.items()}
    return _run(config, values, {"command": cli.resume_command(argv, "main"), "overrides": overrides})


def _run(config: Any, values: flags.FlagValues, metadata: Mapping[str, Any]) -> int:
    """Train what a config asks for, and write the report; `metadata` is stored with the rows."""
    from sublim_jax import results
    from sublim_jax.config.build import options_of
    from sublim_jax.config.study import study_of
    from sublim_jax.engine import compilation_cache, distributed
    from sublim_jax.engine.session import Session
    from sublim_jax.results import figures, report, tables
    from sublim_jax.results.provenance import provenance

    shard = distributed.parse_shard(values.shard)
    distributed.initialize(values.distributed)
    compilation_cache.enable()
    workdir = Path(values.workdir or default_workdir(config))
    study, stop, seeds = study_of(config), cli.Stop(), seeds_of(config)
    session = Session(
        seeds=seeds,
        workdir=workdir,
        config=identity(config),
        resume=values.resume,
        options=options_of(config),
        stopped=stop,
        metadata={**metadata, "resolved": config.to_dict(), "provenance": provenance(), **study.metadata},
        shard=shard,
    )
    _announce(config, study, session)
    study.run(session)
    distributed.wait_for_others(lambda: study.left(seeds=seeds, workdir=workdir, shard=shard), stop)
    if missing := study.left(seeds=seeds, workdir=workdir):
        print(f"this part is done; {missing} rows of other parts are missing. The last part writes the report")
        return DONE
    figure = figures.pick(config.figure)
    accuracy = "student accuracy: mean and 95 % interval over seeds"
    title = figures.title(figure) if hasattr(figure, "table") else accuracy
    rows = results.load(workdir)
    tables.print_table(figures.table(figure, rows), title)
    if values.csv:
        print(f"table: {tables.write_csv(rows, Path(values.csv).expanduser())}")
    print(f"rows, figure and report: {report.write(workdir, config.figure)}")
    return DONE


def _announce(config: Any, study: Any, session: Any) -> None:
    """Print the data or models, the amount of work, and where the results go."""
    from sublim_jax.config.estimate import estimate

    work, (index, number) = estimate(config, study), session.shard
    hint = " (--config.preset=laptop asks for less)" if config.preset == "paper" and work.seconds > 600 else ""
    part = f", part {index}/{number} of the work" if number > 1 else ""
    print(*study.notes, f"{work}{hint}", sep="\n")
    print(f"asked: {study.size} x {len(session.seeds)} seeds{part}; work folder {session.workdir}", flush=True)


if __name__ == "__main__":
    cli.exit_process(main)
