"""Whole commands of this package, each in a process of its own, and the products that their training needs."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax import results

ROOT = Path(__file__).resolve().parents[1]
TRAINING_IMAGES, TEST_IMAGES, PIXELS, CLASSES = 60_000, 10_000, 784, 10
# What JAX_LOG_COMPILES makes JAX print; a program is what is compiled, under the name of its function.
_STEPS = "tracing|jaxpr to MLIR module conversion|XLA compilation of"
_COMPILED = re.compile(rf"Finished ({_STEPS}) (?:jit\()?(\w+).* in (\S+) sec")


class Ran(NamedTuple):
    """What a command took.

    wall: seconds of the process; first_line: until it printed a line; rss_gb: its largest memory; run: what the run
    recorded of itself; compiling: seconds to trace, lower and compile, or to read from the cache, by program.
    """

    wall: float
    first_line: float
    rss_gb: float
    run: dict[str, Any]
    compiling: dict[str, float]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by cause, as the run recorded them."""
        return self.run["seconds"]

    @property
    def config(self) -> dict[str, Any]:
        return self.run["resolved"]


def command(config: str, overrides: Sequence[str], programs: Path) -> Ran:
    """Run the main command with the compiled programs of a folder; it trains its teachers."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--config=configs/{config}.py", f"--workdir={folder}/w", "--config.run.teachers=", *overrides]
        wall, first_line, rss_gb, log = timed([sys.executable, "-m", "sublim_jax.main", *words], programs)
        run = results.metadata(f"{folder}/w")["runs"][-1]
    compiling: dict[str, float] = {}
    events = _COMPILED.findall(log)
    compiled = {name for step, name, _ in events if step.startswith("XLA")}
    for _, name, seconds in events:
        if name in compiled:
            compiling[name] = compiling.get(name, 0.0) + float(seconds)
    return Ran(wall, first_line, rss_gb, run, compiling)


def timed(words: Sequence[str], programs: Path, code: int = 0) -> tuple[float, float, float, str]:
    """Seconds until a process ended and until it printed a line, GB of its largest memory, and its standard error."""
    settings = {"JAX_LOG_COMPILES": "1", "JAX_COMPILATION_CACHE_DIR": str(programs), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        with process.stdout as printed:
            printed.readline()
            first_line = time.perf_counter() - start
            printed.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
    if process.returncode != code:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}: {text.strip()[-500:]}")
    return wall, first_line, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, text


def necessary(rows: float, hidden: Sequence[int], outputs: int, backward: bool = True) -> float:
    """Floating-point operations of one net's products on `rows` images: the first layer needs no input gradient."""
    sizes = (*hidden, outputs)
    first, rest = PIXELS * sizes[0], sum(one * other for one, other in pairwise(sizes))
    return 2 * rows * ((2 * first + 3 * rest) if backward else (first + rest))


def amounts(ran: Ran) -> dict[str, tuple[float, float]]:
    """Necessary floating-point operations of each phase of a sweep of MLPs, and its net-steps, or nets measured.

    Students whose training is the same are trained once. The answers of a teacher are needed once for each m.
    """
    config, steps = ran.config, ran.run["steps"]
    student, hidden, widths = config["student"], config["net"]["hidden"], config["m"]
    images = config["data"]["train_limit"] or TRAINING_IMAGES
    tests, noise = config["data"]["test_limit"] or TEST_IMAGES, config["num_eval_noise"]
    rows = images / ceil(images / config["teacher"]["batch"])
    marks = len({step for step in student["eval_steps"] if step < student["steps"]}) + 1
    measured = config["seeds"] * len(config["conditions"]) * marks * len(widths)
    learning = sum(necessary(student["batch"], hidden, m) for m in widths) * steps["students"] / len(widths)
    answers = sum(necessary(student["batch"], hidden, m, backward=False) for m in widths)
    # Products x'y and x'x of latents for the similarities; the teacher's y'y is needed once per seed.
    similarities = 4 * (tests + noise) * hidden[-1] ** 2
    evaluation = necessary(tests, hidden, CLASSES, backward=False) + similarities
    evaluation += 2 * sum(necessary(noise, hidden, m, backward=False) for m in widths) / len(widths)
    return {
        "students": (learning + answers * config["seeds"] * student["steps"], steps["students"]),
        "teachers": (necessary(rows, hidden, CLASSES) * steps["teachers"], steps["teachers"]),
        "measuring": (evaluation * measured, measured),
    }
