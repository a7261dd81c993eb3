"""Runs of the main command as children of one process that has imported everything, so that each starts at once.

A child can be killed at a moment that no clock finds: directly before or after a given rename.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

KILLED = -signal.SIGKILL


class ForkServer:
    """A context in which `run` runs commands; JAX is imported and not started, so that the process may fork."""

    def __enter__(self):
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def run(self, folder, *words, rename=0, when="before", seconds=0.0):
        """Run a command in a folder; returns exit code (negative: the signal), seconds, renames and standard error.

        Args:
            folder: The current folder of the command.
            *words: Words after `python -m sublim_jax.main`.
            rename: The process kills itself at this rename, counted from 1; 0 = at none.
            when: 'before' or 'after' that rename.
            seconds: The process is killed after this time; 0.0 = never.
        """
        request = {"folder": str(folder), "words": words, "rename": rename, "when": when, "seconds": seconds}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _child(main, compilation_cache, folder, words, rename, when, kill, errors):
    os.chdir(folder)
    for number, name in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    count, replace = 0, os.replace

    def counted(*paths):
        nonlocal count
        count += 1
        if count == rename and when == "before":
            _die()
        replace(*paths)
        if count == rename:
            _die()

    os.replace = counted
    if kill:  # JAX writes compiled programs in place: a partial one would disturb other tests
        compilation_cache.put_executable_and_time = lambda *_, **__: None
    code = 1
    with contextlib.suppress(SystemExit):
        code = main(["main", *words])
    print(f"renames={count}", file=sys.stderr, flush=True)
    os._exit(code)


def _serve():
    warnings.simplefilter("ignore")  # JAX warns of forks

    import jax  # noqa: F401
    from jax._src import compilation_cache, xla_bridge

    import sublim_jax.lm.run  # noqa: F401
    from sublim_jax import main
    from sublim_jax.config import lm, study  # noqa: F401
    from sublim_jax.engine import theorem1  # noqa: F401
    from sublim_jax.results import figures, report, tables  # noqa: F401

    assert not xla_bridge._backends, "JAX has started: its threads do not survive a fork"
    for line in sys.stdin:
        request = json.loads(line)
        errors, start = Path(request["folder"]) / "stderr.txt", time.perf_counter()
        pid = os.fork()
        if not pid:
            fields = {name: request[name] for name in ("folder", "words", "rename", "when")}
            kill = bool(request["rename"] or request["seconds"])
            _child(main.main, compilation_cache, **fields, kill=kill, errors=errors)
        status = 0
        while request["seconds"] and not status and time.perf_counter() - start < request["seconds"]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.002)
        else:
            if request["seconds"]:
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        told = errors.read_text()
        renames = int(told.rpartition("renames=")[2] or 0) if "renames=" in told else 0
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.perf_counter() - start,
            "renames": renames,
            "stderr": told,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
