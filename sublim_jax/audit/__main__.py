"""Audit every student of a config before any is trained.

    python -m sublim_jax.audit --config=share [--config.field=value] [--workdir=DIR]

Teachers are trained or read from the cache; students are only initialised. The command prints a table and writes
audit.csv (one row per condition and seed, columns as in the rows of a run) and audit.json (everything) into the work
directory. Exit codes: 0 done, 1 the machine failed, 2 bad config, 75 interrupted.

To audit a pair of your own, call `sublim_jax.audit_pair`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from sublim_jax import cli
from sublim_jax.config import command_line, default_workdir, identity, seeds_of
from sublim_jax.config.grid import expand
from sublim_jax.core.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Audit what the command line asks and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _command(argv), argv, "audit")


def _command(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    config = command_line.parse_flags(values, argv, __doc__ or "").resolve()
    if config.study != "transfer":
        allowed = "must be transfer; language's rows have at/coverage and slopes"
        raise ConfigError(f"config.study={config.study!r}: {allowed}")
    if cuts := [point.config.student.cut for point in expand(config) if point.config.student.cut]:
        raise ConfigError(f"config.student.cut={cuts[0]}: an audit is of students that imitate the trained teacher")
    # Imported after the flags are checked, because JAX takes seconds.
    from sublim_jax.audit import calibration, sweep
    from sublim_jax.config.build import load_data, options_of
    from sublim_jax.engine import compilation_cache
    from sublim_jax.engine.progress import Progress
    from sublim_jax.engine.session import Session
    from sublim_jax.results import tables
    from sublim_jax.results.provenance import provenance

    compilation_cache.enable()
    workdir = Path(values.workdir or default_workdir(config))
    dataset, seeds = load_data(config), seeds_of(config)
    session = Session(
        seeds=seeds,
        workdir=workdir,
        options=options_of(config),
        progress=Progress(show=False),
        stopped=cli.Stop(),
    )
    print(f"data: {dataset.name}, {len(dataset.train.y)} + {len(dataset.test.y)} images, {dataset.source}")
    print(f"audit: {len(expand(config))} conditions x {len(seeds)} seeds; work folder {workdir}", flush=True)
    metadata = {
        "command": cli.resume_command(argv, "audit"),
        "config": identity(config),
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum},
        "provenance": provenance(),
        "calibration": calibration.load(),
    }
    rows = sweep.write(workdir, list(sweep.audits(config, dataset, session)), metadata)
    tables.print_table(sweep.table(rows), "before distillation: means over seeds")
    print(f"audits: {workdir / 'audit.csv'}, {workdir / 'audit.json'}")
    return cli.DONE


if __name__ == "__main__":
    cli.exit_process(main)
