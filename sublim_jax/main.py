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
from sublim_jax.core.errors import ConfigError, shown
from sublim_jax.engine import options
from sublim_jax.engine.progress import Progress


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks and return the exit code; every refusal is one line on standard error."""
    words = list(argv)
    return cli.run_command(lambda: _command(words), words, "main")


_VERBOSITY = "quiet: errors and the final table only; debug: also the log of JAX and tracebacks, e.g. --verbosity=debug"


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    resume = "what to do with earlier results, e.g. --resume=overwrite"
    shard = "part i of n of the work, counted from 0, e.g. --shard=0/4"
    distributed = "several processes, as JAX detects them or HOST:PORT,i/n, e.g. --distributed=auto"
    flags.DEFINE_enum("resume", "auto", ["auto", "never", "overwrite"], resume, flag_values=values)
    flags.DEFINE_string("shard", "0/1", shard, flag_values=values)
    flags.DEFINE_string("distributed", "", distributed, flag_values=values)
    flags.DEFINE_string(
        "plot", "", "write the figure there too (.png, .svg or .pdf), e.g. --plot=figure.pdf", flag_values=values
    )
    flags.DEFINE_enum("verbosity", "normal", ["quiet", "normal", "debug"], _VERBOSITY, flag_values=values)
    flags.DEFINE_bool("quiet", False, "the same as --verbosity=quiet", flag_values=values)
    tracker = "where curves are logged besides: tensorboard, wandb, trackio; e.g. --tracker=tensorboard"
    flags.DEFINE_string("tracker", "", tracker, flag_values=values)
    csv = "a file for the table of means and intervals with full precision, e.g. --csv=table.csv"
    flags.DEFINE_string("csv", "", csv, flag_values=values)
    flags.DEFINE_bool("dry_run", False, "print what would be trained, and train nothing", flag_values=values)
    flags.DEFINE_bool("list", False, "print every config with its purpose and measured time", flag_values=values)
    flags.DEFINE_bool("fields", False, "print every config field with its allowed values", flag_values=values)
    return values


def _command(argv: list[str]) -> int:
    values = _flags()
    request = command_line.parse_flags(values, argv, __doc__ or "")
    if values.list or values.fields:
        print(command_line.list_configs() if values.list else command_line.list_fields())
        return DONE
    values.verbosity = cli.set_verbosity("quiet" if values.quiet else values.verbosity)
    plot, config = _plot_file(values.plot), request.resolve()
    options.parse_shard(values.shard)
    options.parse_cluster(values.distributed)
    if values.csv and Path(values.csv).expanduser().is_dir():
        raise ConfigError(f"--csv={values.csv}: is a folder; must be a file")
    if values.workdir == "auto" and (values.shard != "0/1" or values.distributed):
        raise ConfigError("workdir='auto': must be a name where several jobs share a work folder")
    if values.dry_run:
        from sublim_jax.config.estimate import estimate
        from sublim_jax.config.study import study_of

        print(estimate(config, study_of(config)))
        return DONE
    progress = Progress(show=values.verbosity != "quiet")
    with progress.over((), "reading data"):  # JAX and other libraries, which take seconds, are imported meanwhile
        workdir = _work_folder(config, values)
        study = _read(config, values, workdir)
    if values.workdir == "auto":
        argv.append(f"--workdir={workdir}")  # the line that says how to go on names it
    overrides = {name: str(value) for name, value in request.overrides.items()}
    metadata = {"command": cli.resume_command(argv, "main"), "overrides": overrides}
    if _run(config, values, workdir, metadata, study, progress):
        _report(config, values, workdir, plot)
    return DONE


def _plot_file(text: str) -> Path | None:
    """The file that --plot names; raises `ConfigError` where no figure can be written there."""
    if not text:
        return None
    path = Path(text).expanduser()
    if not text.isprintable() or path.suffix not in (".png", ".svg", ".pdf") or not path.parent.is_dir():
        raise ConfigError(f"plot={shown(text)}: must be a file .png, .svg or .pdf in a folder that exists")
    return path


def _work_folder(config: Any, values: flags.FlagValues) -> Path:
    """The work directory that the flags name."""
    from sublim_jax.results.workdir import choose_folder

    return choose_folder(values.workdir or "", default_workdir(config))


def _read(config: Any, values: flags.FlagValues, workdir: Path) -> Any:
    """The study of a config, with its data; also begins to work with other processes, where flags name them."""
    from sublim_jax.engine import compilation_cache, distributed, trackers

    trackers.names_of(values.tracker, workdir)
    distributed.initialize(values.distributed)
    compilation_cache.enable()
    from sublim_jax.config.study import study_of

    return study_of(config)


def _run(
    config: Any, values: flags.FlagValues, workdir: Path, metadata: Mapping[str, Any], study: Any, progress: Progress
) -> bool:
    """Train what a config asks for and return whether all rows are there; `metadata` is stored with the rows."""
    from sublim_jax.config.build import options_of
    from sublim_jax.engine import distributed
    from sublim_jax.engine.session import Session
    from sublim_jax.results.provenance import provenance

    shard, seeds, stop = options.parse_shard(values.shard), seeds_of(config), cli.Stop()
    session = Session(
        seeds=seeds,
        workdir=workdir,
        config=identity(config),
        resume=values.resume,
        options=options_of(config),
        progress=progress,
        stopped=stop,
        metadata={**metadata, "resolved": config.to_dict(), "provenance": provenance(), **study.metadata},
        shard=shard,
        tracker=values.tracker,
    )
    if values.verbosity != "quiet":
        _announce(config, study, session)
    study.run(session)
    distributed.wait_for_others(lambda: study.left(seeds=seeds, workdir=workdir, shard=shard), stop)
    if missing := study.left(seeds=seeds, workdir=workdir):
        print(f"this part is done; {missing} rows of other parts are missing. The last part writes the report")
    return not missing


def _report(config: Any, values: flags.FlagValues, workdir: Path, plot: Path | None) -> None:
    """Write the report, which needs no terminal, then print the table."""
    import matplotlib

    from sublim_jax import results
    from sublim_jax.results import figures, plots, report, tables

    path, rows, figure = report.write(workdir, config.figure), results.load(workdir), figures.pick(config.figure)
    if plot:
        with matplotlib.rc_context(plots.STYLE):
            figure.draw(rows).savefig(plot)
    accuracy = "student accuracy: mean and 95 % interval over seeds"
    title = figures.title(figure) if hasattr(figure, "table") else accuracy
    tables.print_table(figures.table(figure, rows), title)
    if len(claims := figures.claims(figure, rows)):
        tables.print_table(claims, "claims: mean and 95 % interval over students")
    if values.csv:
        print(f"table: {tables.write_csv(rows, Path(values.csv).expanduser())}")
    if values.verbosity != "quiet":
        print(f"rows, figure and report: {path}")


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
