"""Things that take turns, and processes of their own."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 5


def rounds(things: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Seconds of each thing in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(ROUNDS):
        for name, thing in things.items():
            seconds[name].append(thing())
    return seconds


def of(values: list[float]) -> dict[str, float]:
    """Best and median; the best of rates is the highest."""
    return {"best": max(values), "median": median(values)}


def seconds_of(call: Callable[[], Any]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


def python(*words: str) -> str:
    """The last line that a Python process of its own prints."""
    done = subprocess.run([sys.executable, *words], cwd=root(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def root() -> Path:
    return Path(__file__).resolve().parents[1]
