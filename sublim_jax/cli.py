"""Shared by all commands: one-line errors, exit codes, the command to resume, and signals. Imports no JAX."""

import io
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from absl import flags, logging

from sublim_jax.core.errors import ConfigError, shown
from sublim_jax.engine.options import Interrupted

_SIGNALS = signal.SIGINT, signal.SIGTERM
DONE, FAILED, BAD, INTERRUPTED = 0, 1, 2, 75


def run_command(work: Callable[[], int], argv: Sequence[str], module: str) -> int:
    """Do the work and return the exit code; an error that a user can correct is one line on standard error."""
    # Read when SciPy is first imported, whose LAPACK is JAX's on CPU. Our matrices are small: two threads gain nothing,
    # and wait for each other 200 times as long as they compute where another process has a core.
    try:
        with _plain_output(), _own_signals():
            return work()
    except ConfigError as error:
        _debug_traceback()
        line, code = f"error: {error}", BAD
    except (KeyboardInterrupt, Interrupted):
        line, code = "interrupted; what was saved is kept", INTERRUPTED
    except OSError as error:
        _debug_traceback()
        line, code = f"error: {one_line(error)}; what was saved is kept", FAILED
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        less = "lower --config.run.memory_gb or --config.run.seed_batch"
        line, code = f"error: out of memory; {less}. What was saved is kept", FAILED
    again = "" if code == BAD else f". To go on: {resume_command(argv, module)}"
    print(f"{line}{again}", file=sys.stderr, flush=True)
    return code


@contextmanager
def _plain_output() -> Iterator[None]:
    """Let no sign that a terminal does not know, and no closed output, end a run; later output is as before."""
    replaced = {name: getattr(sys, name) for name in ("stdout", "stderr") if getattr(sys, name) is None}
    for name in replaced:  # closed by the shell
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  used until the command ends
    streams: list[Any] = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = {stream: stream.errors for stream in streams}
    for stream in before:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        for stream, errors in before.items():
            stream.reconfigure(errors=errors)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Give back the handlers of signals when a command ends that was called in another program or a notebook."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def set_verbosity(level: str) -> str:
    """Show the log of the libraries and tracebacks, where the level is debug; returns the level."""
    if level == "debug":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
        logging.set_verbosity(logging.INFO)
    return level


def _debug_traceback() -> None:
    if logging.get_verbosity() >= logging.INFO:
        traceback.print_exc()


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())


def flag_error(error: flags.Error) -> str:
    """What absl says of a flag, with what is allowed."""
    text = re.sub(r": \('Non-boolean.*", ": must be true or false", one_line(error))
    text = re.sub(r": invalid literal for int.*", ": must be a whole number", text)
    return f"{text}; --help lists the flags" if isinstance(error, flags.UnrecognizedFlagError) else text


def folder(flag: str, text: str) -> str:
    """The folder that a flag names, with the user's home folder for ~."""
    if not text or not text.isprintable() or "://" in text:
        raise ConfigError(f"{flag}={shown(text)}: must be a folder that this machine sees, not an address")
    return os.path.expanduser(text)


def resume_command(argv: Sequence[str], module: str) -> str:
    """The command that resumes a run: the given one without --resume, which could remove earlier results."""
    words, previous = [], ""
    for word in argv[1:]:
        if not re.match(r"--?resume(=|$)", word) and previous not in ("--resume", "-resume"):
            words.append(word)
        previous = word
    return shlex.join(["python", "-m", f"sublim_jax.{module}", *words])


class Stop:
    """True once SIGINT or SIGTERM arrived; a second one ends the process at once, keeping what was saved."""

    def __init__(self) -> None:
        self._asked = False
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            for number in _SIGNALS:
                signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, _: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print(f"{signal.Signals(number).name}: stopping after this interval", file=sys.stderr, flush=True)


class _Output(io.FileIO):
    """Standard output or error that goes nowhere once its reader has left, as `head` does: the work goes on."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def _open_standard_streams() -> None:
    """Let the process run to its end though nobody reads what it prints."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by `>&-`: the next file that is opened would receive what is printed
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if os.name == "nt" and before is not None and before.isatty():  # its console takes text, not bytes
            continue
        encoding, errors = (before.encoding, before.errors) if before else ("utf-8", "replace")
        raw = io.BufferedWriter(_Output(number, "w", closefd=False))
        setattr(sys, name, io.TextIOWrapper(raw, encoding, errors, line_buffering=True))


def exit_process(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command as this process, and end it with the command's exit code."""
    _open_standard_streams()
    # The libraries below log what they also raise; a user gets one line from us.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.FATAL)
    code = main(sys.argv)
    if "jax" in sys.modules:
        from sublim_jax.engine import distributed

        distributed.leave(code)
    sys.exit(code)
