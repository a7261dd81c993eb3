"""The command: python -m sublim_jax.main --config=configs/quickstart.py [--config.field=value] [--workdir=DIR].

On several machines: --shard=i/n (the i-th of n jobs), --distributed=auto (the processes of a TPU pod or SLURM step).

Exit codes: 0 done, 1 the machine failed (no space, no memory), 2 bad config, 75 interrupted and saved.
"""

import functools
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from sublim_jax.errors import Refused, unknown

DONE, FAILED, BAD, INTERRUPTED = 0, 1, 2, 75
_HOUR = 1e15  # floating-point operations of an hour on 2 CPU cores, measured; see BUILD.md


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks and return the exit code; every refusal is one line on standard error."""
    try:
        values = _flags(argv)
        return _experiment(values, argv)
    except Refused as error:
        return _say(f"error: {error}", BAD)
    except KeyboardInterrupt:
        return _say(f"interrupted; what was saved is kept. To go on: {_command(argv)}", INTERRUPTED)
    except OSError as error:
        return _say(f"error: {_line(error)}; what was saved is kept. To go on: {_command(argv)}", FAILED)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        less = "lower --config.run.memory_gb or --config.run.chunk"
        return _say(f"error: out of memory; {less}. What was saved is kept. To go on: {_command(argv)}", FAILED)


def _say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code


def _command(argv: Sequence[str]) -> str:
    """The command that goes on: as it was given, but never again one to refuse or remove earlier results."""
    words = list(argv[1:])
    for index, word in enumerate(words):
        if word in ("--resume", "-resume"):
            words[index : index + 2] = [""] * len(words[index : index + 2])
    kept = [word for word in words if word and not word.startswith(("--resume=", "-resume="))]
    return shlex.join(["python", "-m", "sublim_jax.main", *kept])


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    """Parse the command line; a wrong flag, file, field or type becomes one `Refused` line."""
    values = flags.FlagValues()
    parsing = {"flag_values": values, "lock_config": True, "sys_argv": list(argv)}
    config_flags.DEFINE_config_file("config", None, "A file with get_config().", **parsing)
    flags.DEFINE_string("workdir", None, "Where results are kept; default results/NAME.", flag_values=values)
    flags.DEFINE_enum(
        "resume", "auto", ["auto", "never", "overwrite"], "What to do with earlier results.", flag_values=values
    )
    flags.DEFINE_string("shard", "0/1", "i/n: do the i-th of n parts of the work, from 0.", flag_values=values)
    flags.DEFINE_string(
        "distributed", "", "auto: one of several processes as JAX finds them; or HOST:PORT,i/n.", flag_values=values
    )
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    if {"-h", "--help"} & set(argv[1:]):
        print(__doc__, values.main_module_help(), sep="\n")
        raise SystemExit(DONE)
    _check_fields(argv[1:])
    try:
        rest = values(list(argv))
    except flags.Error as error:
        raise Refused(_line(error)) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refused(f"command line: {_line(error)}") from error
    if rest[1:]:
        raise Refused(f"command line: {rest[1]!r} is not a flag; fields are given as --config.field=value")
    if values.config is None:
        raise Refused("config: not given; say for instance --config=configs/quickstart.py")
    return values


def _experiment(values: flags.FlagValues, argv: Sequence[str]) -> int:
    # Imported late: a misspelt flag should not wait for JAX.
    import jax

    from sublim_jax import cluster, figures, programs, records, report, run, theorem1
    from sublim_jax import config as door
    from sublim_jax.progress import Watch

    overrides = dict(config_flags.get_override_values(values["config"]))
    config = door.resolve(values.config, overrides)
    figures.pick(config.figure)
    shard = cluster.shard_of(values.shard)
    cluster.join(values.distributed)
    programs.keep()
    size = "" if config.preset == "paper" else f"-{config.preset}"
    workdir = Path(values.workdir or f"results/{config.name}{size}")
    dataset = door.load(config)
    conditions = door.build(config, dataset)
    seeds = door.seeds(config)
    print(f"data: {dataset.name}, {len(dataset.train.y)} + {len(dataset.test.y)} images, {dataset.source}")
    stop, me, all_ = _Stop(), jax.process_index(), jax.process_count()
    part = "" if shard == (0, 1) else f", part {values.shard} of the work"
    part += f", process {me}/{all_}" if all_ > 1 else ""
    print(f"asked: {len(conditions)} conditions x {len(seeds)} seeds{part}; work folder {workdir}")
    if config.study == "theorem1":
        measured = functools.partial(theorem1.run, conditions, door.grids(config))
        left = functools.partial(theorem1.left, len(conditions), seeds, workdir)
    else:
        measured, left = _transfer(config, conditions, dataset, seeds, workdir)
    facts = {
        "command": _command(argv),
        "resolved": config.to_dict(),
        "overrides": {name: str(value) for name, value in overrides.items()},
        "data": {"name": dataset.name, "source": dataset.source, "sha256": dataset.checksum},
        "provenance": records.provenance(),
    }
    try:
        measured(
            dataset,
            seeds=seeds,
            root=config.root,
            workdir=workdir,
            config=door.identity(config),
            resume=values.resume,
            how=door.how(config),
            watch=Watch(),
            stopped=stop,
            facts=facts,
            shard=shard,
        )
    except run.Interrupted as saved:
        raise KeyboardInterrupt from saved
    cluster.wait_for_others(lambda: left(shard), stop)
    if others := left():
        print(f"this part is done; {others} rows of others are still to come. Whoever comes last writes the report")
        return DONE
    print(_show(records.load(workdir), figures.pick(config.figure)))
    print(f"rows, figure and report: {report.write(workdir, config.figure)}")
    return DONE


def _transfer(config: Any, conditions: Any, dataset: Any, seeds: Sequence[int], workdir: Path) -> tuple[Any, Any]:
    """What the study `transfer` does with a data set, and how many rows of a shard are left; says how much it is."""
    from sublim_jax import cluster, run
    from sublim_jax import config as door

    image = dataset.train.x.shape[1:]
    print(_amount(conditions, seeds, image), flush=True)

    def measured(dataset: Any, **how: Any) -> Any:
        return run.run(conditions, dataset, metrics=door.metrics_of(config), exam=config.exam, **how)

    return measured, functools.partial(cluster.rows_left, conditions, seeds, image, workdir)


def _amount(conditions: Any, seeds: Sequence[int], image: tuple[int, ...]) -> str:
    """How much training is asked for; on CPU, how long that may take."""
    import jax

    from sublim_jax import units

    each = [(one.student.recipe, units.cost(one.student.recipe, 1, image)) for one in conditions]
    steps = len(seeds) * sum(recipe.marks[-1] for recipe, _ in each)
    flop = 2 * len(seeds) * sum(recipe.marks[-1] * cost for recipe, cost in each)
    said = f"students: {steps:,} net-steps, {flop:.1e} floating-point operations"
    if jax.default_backend() != "cpu" or flop < _HOUR / 6:
        return said
    return f"{said}, about {flop / _HOUR:.1g} hours on 2 CPU cores (--config.preset=laptop asks for less)"


class _Stop:
    """True once SIGINT or SIGTERM arrived; a second one ends the process at once, keeping what was saved."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print(f"{signal.Signals(number).name}: stopping after this interval", file=sys.stderr, flush=True)


def _show(rows: Any, figure: Any) -> str:
    """The table as text, fitted to the terminal."""
    from rich.console import Console
    from rich.table import Table

    from sublim_jax import figures

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


def _check_fields(words: Sequence[str]) -> None:
    """Refuse a misspelt field before anything else, with the names that exist and the nearest one."""
    path = next((word.split("=", 1)[1] for word in words if word.startswith(("--config=", "-config="))), None)
    pairs = zip(words, words[1:], strict=False)
    path = path or next((after for word, after in pairs if word in ("--config", "-config")), None)
    if path is None:
        return
    config = _config_of(path)
    for word in words:
        name = word.lstrip("-").split("=", 1)[0]
        if not (word.startswith("-") and name.startswith("config.")):
            continue
        here: Any = config
        for depth, part in enumerate(parts := name.split(".")[1:]):
            if not isinstance(here, ConfigDict) or part not in here:
                names = list(here) if isinstance(here, ConfigDict) else []
                raise Refused(unknown(f"--{'.'.join(['config', *parts[:depth]])}", part, names or ["(no fields)"]))
            here = here[part]


def _config_of(path: str) -> ConfigDict:
    """What `get_config` of a file gives; the part after a colon is its argument."""
    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        raise Refused(f"config={file!r}: no such file; those of the project are in configs/")
    spec = importlib.util.spec_from_file_location("sublim_jax_config", file)
    if spec is None or spec.loader is None:
        raise Refused(f"config={file!r}: must be a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(argument) if argument else module.get_config()
    except Exception as error:  # anybody's code
        raise Refused(f"config={file!r}: {type(error).__name__}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    # The libraries below log what they also raise; a user gets one line from us.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    code = main(sys.argv)
    if "jax" in sys.modules:
        from sublim_jax import cluster

        cluster.leave(code)
    if code == FAILED:  # threads of the array writers may still complain after the one line that says it
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
