"""What every command of the project shares: flags, one-line refusals, exit codes, stopping in order."""

import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.engine import distributed

DONE, FAILED, BAD, INTERRUPTED = 0, 1, 2, 75


def run_command(work: Callable[[], int], argv: Sequence[str], module: str) -> int:
    """Do the work and return the exit code; whatever a user can mend is one line on standard error."""
    # Read when SciPy is first imported, whose LAPACK is JAX's on CPU. Our matrices are small: two threads gain nothing,
    # and wait for each other 200 times as long as they compute where another process has a core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return work()
    except ConfigError as error:
        return _say(f"error: {error}", BAD)
    except KeyboardInterrupt:
        return _say(f"interrupted; what was saved is kept. To go on: {resume_command(argv, module)}", INTERRUPTED)
    except OSError as error:
        return _say(f"error: {_line(error)}; what was saved is kept. To go on: {resume_command(argv, module)}", FAILED)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        less = "lower --config.run.memory_gb or --config.run.seed_batch"
        return _say(
            f"error: out of memory; {less}. What was saved is kept. To go on: {resume_command(argv, module)}", FAILED
        )


def _say(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code


def resume_command(argv: Sequence[str], module: str) -> str:
    """The command that goes on: as it was given, but never again one to refuse or remove earlier results."""
    words = list(argv[1:])
    for index, word in enumerate(words):
        if word in ("--resume", "-resume"):
            words[index : index + 2] = [""] * len(words[index : index + 2])
    kept = [word for word in words if word and not word.startswith(("--resume=", "-resume="))]
    return shlex.join(["python", "-m", f"sublim_jax.{module}", *kept])


def parse_flags(values: flags.FlagValues, argv: Sequence[str], told: str) -> flags.FlagValues:
    """The command line, with the flags that every command has beside those already in `values`.

    A wrong flag, file, field or type becomes one `ConfigError` line; `told` is what --help says first.
    """
    parsing = {"flag_values": values, "lock_config": True, "sys_argv": list(argv)}
    config_flags.DEFINE_config_file("config", None, "A file with get_config().", **parsing)
    flags.DEFINE_string("workdir", None, "Where results are kept; default results/NAME.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    if {"-h", "--help"} & set(argv[1:]):
        print(told, values.main_module_help(), sep="\n")
        raise SystemExit(DONE)
    _check_fields(argv[1:])
    try:
        rest = values(list(argv))
    except flags.Error as error:
        raise ConfigError(_line(error)) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"command line: {_line(error)}") from error
    if rest[1:]:
        raise ConfigError(f"command line: {rest[1]!r} is not a flag; fields are given as --config.field=value")
    if values.config is None:
        raise ConfigError("config: not given; say for instance --config=configs/quickstart.py")
    return values


class Stop:
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
                raise ConfigError(
                    unknown_name(f"--{'.'.join(['config', *parts[:depth]])}", part, names or ["(no fields)"])
                )
            here = here[part]


def _config_of(path: str) -> ConfigDict:
    """What `get_config` of a file gives; the part after a colon is its argument."""
    file, _, argument = path.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"config={file!r}: no such file; those of the project are in configs/")
    spec = importlib.util.spec_from_file_location("sublim_jax_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config={file!r}: must be a Python file with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(argument) if argument else module.get_config()
    except Exception as error:  # anybody's code
        raise ConfigError(f"config={file!r}: {type(error).__name__}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def exit_process(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command as this process, and end it with the command's exit code."""
    # The libraries below log what they also raise; a user gets one line from us.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    code = main(sys.argv)
    if "jax" in sys.modules:
        distributed.leave(code)
    if code == FAILED:  # threads of the array writers may still complain after the one line that says it
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
