"""Training steps of infomorphic networks on MNIST by this package and by the authors' code, batches included.

As a command it trains one network and prints what a step took: python -m benchmarks.infomorphic UNITS STEPS.
"""

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import sublim_jax as sl
from benchmarks import library, published
from benchmarks.infomorphic_authors import peak_gb
from sublim_jax import config as configs
from sublim_jax.config.infomorphic import load_data
from sublim_jax.engine.progress import Progress
from sublim_jax.theory.pid import antichains, moebius

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("context_lateral", "context")  # three sources, two sources
UNITS, WIDE, BATCH = 100, 1000, 1024


def ours(model: str, units: int, steps: int, compiling: dict[str, float]) -> library.Timed:
    """Seconds of a training step with the heuristic goal; `compiling` takes what the first call compiles."""
    config = configs.infomorphic_config()
    config.infomorphic.model, config.infomorphic.units, config.infomorphic.batch = model, units, BATCH
    config.infomorphic.goal, config.infomorphic.epochs, config.infomorphic.eval_epochs = "heuristic", 1, ()
    config.metrics, config.num_eval_noise, config.data.train_limit = ("task",), 64, steps * BATCH
    data = load_data(config)

    def once() -> float:
        progress = Progress(show=False)
        sl.run(config, data, seeds=1, progress=progress)
        compiling.setdefault(model, progress.seconds["compile"])
        return progress.seconds["students"] / progress.steps["students"]

    return once


def authors(checkout: Path, python: str, model: str, units: int, steps: int) -> dict[str, float]:
    """Seconds of a step of the authors' loop, and peak memory, in a process of its own.

    `moebius.pkl` of their repository, antichains and Moebius matrices, is computed here.
    """
    lattices = {
        sources: ([tuple(tuple(sorted(part)) for part in family) for family in antichains(sources)], moebius(sources))
        for sources in (2, 3)
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        run.mkdir()
        published.write_mnist(Path(folder, "datasets"))
        (run / "moebius.pkl").write_bytes(pickle.dumps(lattices))
        script = ROOT / "benchmarks" / "infomorphic_authors.py"
        return _printed([python, str(script), str(checkout.absolute()), model, str(units), str(steps)], run)


def _printed(words: list[str], folder: Path) -> dict[str, float]:
    """The last line that a process prints."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(rounds: int, toy: bool, checkout: Path | None, python: str) -> dict[str, Any]:
    """A step of ours with three and with two sources, in turn with the authors' where their checkout is given."""
    units, wide, steps, few = (10, 100, 2, 1) if toy else (UNITS, WIDE, 46, 8)
    compiling: dict[str, float] = {}
    peaks: dict[str, float] = {}
    calls = {model: ours(model, units, steps, compiling) for model in MODELS}

    def theirs(checkout: Path, model: str) -> float:
        measured = authors(checkout, python, model, units, few)
        peaks[model] = measured["peak_rss_gb"]
        return measured["seconds"]

    if checkout is not None:
        calls |= {f"{model}, authors": lambda model=model: theirs(checkout, model) for model in MODELS}
    seconds = library.in_turn(calls, rounds)
    numbers = {
        "infomorphic_step_ms_best": {name: 1e3 * min(values) for name, values in seconds.items()},
        "infomorphic_step_ms_median": {name: 1e3 * median(values) for name, values in seconds.items()},
        "infomorphic_compile_s": compiling,
        "infomorphic_wide": _printed([sys.executable, "-m", "benchmarks.infomorphic", str(wide), str(4 * few)], ROOT),
    }
    if checkout is None:
        return numbers
    ratios = [library.ratio(seconds, f"{model}, authors", model) for model in MODELS]
    return numbers | {
        "infomorphic_authors_peak_rss_gb": peaks,
        "speedup_vs_infomorphic_authors": ratios[0],
        "speedup_vs_infomorphic_authors_reason": "",
        "speedup_vs_infomorphic_authors_context": ratios[1],
    }


def main(units: str, steps: str) -> None:
    once = ours(MODELS[0], int(units), int(steps), {})
    once()  # compiles
    print(json.dumps({"units": int(units), "ms": 1e3 * once(), "peak_rss_gb": peak_gb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
