"""Shared by all commands: one-line errors, exit codes, the command to resume, and signals. Imports no JAX."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import logging

from sublim_jax.core.errors import ConfigError

DONE, FAILED, BAD, INTERRUPTED = 0, 1, 2, 75


def run_command(work: Callable[[], int], argv: Sequence[str], module: str) -> int:
    """Do the work and return the exit code; an error that a user can correct is one line on standard error."""
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
    """The command that resumes a run: the given one without --resume, which could remove earlier results."""
    words = list(argv[1:])
    for index, word in enumerate(words):
        if word in ("--resume", "-resume"):
            words[index : index + 2] = [""] * len(words[index : index + 2])
    kept = [word for word in words if word and not word.startswith(("--resume=", "-resume="))]
    return shlex.join(["python", "-m", f"sublim_jax.{module}", *kept])


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def exit_process(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command as this process, and end it with the command's exit code."""
    # The libraries below log what they also raise; a user gets one line from us.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    code = main(sys.argv)
    if "jax" in sys.modules:
        from sublim_jax.engine import distributed

        distributed.leave(code)
    if code == FAILED:  # threads of the array writers may still complain after the one line that says it
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
