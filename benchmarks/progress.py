"""How well the progress display predicts the end of a run: the factor between predicted and true time.

    python -m benchmarks.progress [--config=quickstart --config.seeds=2 ...] [--cold]

Without a config three are measured. Every half second the share of the run that has passed and the time left are
noted. For the time from a fifth of the run on, the command prints the largest and the median factor between the
predicted and the true total time, and the longest time between two changes of the display. `--cold` begins with an
empty cache of programs.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RUNS = (
    ("--config=quickstart", "--config.seeds=2", "--config.student.steps=60", "--config.student.eval_steps=(0, 30)"),
    ("--config=figure2", "--config.preset=smoke"),
    ("--config=lm_dose", "--config.preset=smoke"),
)


def record(words: list[str]) -> list[tuple[float, float, str]]:
    """Run a config in this process; returns (seconds, predicted seconds left, phase) every half second."""
    from sublim_jax.engine.progress import Progress
    from sublim_jax.main import main

    samples: list[tuple[float, float, str]] = []
    ended, over = threading.Event(), Progress.over

    def sampled(self: Progress, calls: Any, text: str = "preparing") -> Any:
        def look() -> None:
            while not ended.wait(0.5):
                phase, elapsed, left = self.state()
                if self._done:
                    break
                samples.append((elapsed, left, phase))

        if calls := list(calls):
            threading.Thread(target=look, daemon=True).start()
        return over(self, calls, text)

    Progress.over = sampled
    start = time.perf_counter()
    code = main(["main", *words])
    ended.set()
    assert code == 0, f"exit code {code} after {time.perf_counter() - start:.0f} s"
    return samples


def factors(samples: list[tuple[float, float, str]], part: float = 0.2) -> list[float]:
    """The factor between predicted and true total time at each sample after a part of the run; at least 1."""
    total = samples[-1][0]
    ratios = [(elapsed + left) / total for elapsed, left, _ in samples if part * total < elapsed]
    return [max(ratio, 1 / ratio) for ratio in ratios]


def _left(samples: list[tuple[float, float, str]]) -> float:
    """The largest factor of the time left, between a fifth and nine tenths of the run."""
    total = samples[-1][0]
    ratios = [left / (total - elapsed) for elapsed, left, _ in samples if 0.2 * total < elapsed < 0.9 * total]
    return max((max(ratio, 1 / max(ratio, 1e-9)) for ratio in ratios), default=float("nan"))


def main(argv: list[str]) -> None:
    """Measure the configs, each in a process and a work folder of its own, and print a line for each."""
    cold = "--cold" in argv
    words = [word for word in argv if word != "--cold"]
    if "--child" in words:
        words.remove("--child")
        print("samples", json.dumps(record(words)))
        return
    for run in [tuple(words)] if words else RUNS:
        with tempfile.TemporaryDirectory() as folder:
            kept = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/programs", "XDG_CACHE_HOME": folder} if cold else {}
            command = [sys.executable, "-m", "benchmarks.progress", "--child", *run, f"--workdir={folder}/work"]
            root = Path(__file__).parents[1]
            done = subprocess.run(command, env={**os.environ, **kept}, cwd=root, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        samples = json.loads(done.stdout.rpartition("samples ")[2])
        measured = factors(samples)
        print(
            f"{' '.join(run)}: {samples[-1][0]:.0f} s; total time within {max(measured):.2f} (median "
            f"{statistics.median(measured):.2f}), time left within {_left(samples):.2f} from a fifth of the run on"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
