"""The benchmark: python -m benchmarks.run --out=bench.json [--quick].

Everything that is compared runs in this process in turn, round after round, so that a slow moment of the machine meets
all; ratios are taken within a round, and the median over rounds is reported. Quick: fewer seeds and steps, within five
minutes on 2 cores. The PyTorch baselines need the extra: pip install -e '.[bench]'.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import baselines, floors, phases
from benchmarks.rounds import ROUNDS, of, python, root, rounds
from sublim_jax.engine.options import RunOptions
from sublim_jax.results.provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="within five minutes on 2 cores")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    begun, numbers = time.perf_counter(), {"quick": args.quick, "rounds": ROUNDS, **provenance()}
    numbers["device"] = str(jax.devices()[0].device_kind)
    numbers |= kernels(args.quick)
    numbers |= compiling()
    numbers |= memory(args.quick)
    numbers |= growth(args.quick)
    numbers |= baselines.cloud(args.quick)
    numbers |= baselines.figure2(args.quick, numbers)
    numbers["benchmark_seconds"] = time.perf_counter() - begun
    args.out.write_text(json.dumps(numbers, indent=1) + "\n")
    show(numbers)


def kernels(quick: bool) -> dict[str, Any]:
    """The floor, and each phase of training against it."""
    figure = phases.lab()
    seeds, steps = (6, 5) if quick else (20, 5)
    products, (copy, moved) = floors.products(len(phases.CONDITIONS)), floors.copy()
    work = phases.phases(figure, seeds, steps)
    # Floors before and after each phase's turn would be fairer still; one round is short.
    timed = rounds({**{name: thing for name, (thing, _) in products.items()}, "copy": copy}
                   | {name: phase.run for name, phase in work.items()})  # fmt: skip
    rates = {name: [flop / seconds / 1e9 for seconds in timed[name]] for name, (_, flop) in products.items()}
    rates |= {name: [phase.flop / seconds / 1e9 for seconds in timed[name]] for name, phase in work.items()}
    peak = [max(rates[name][turn] for name in products) for turn in range(ROUNDS)]
    floor = [_least(len(phases.CONDITIONS), {name: rates[name][turn] for name in products}) for turn in range(ROUNDS)]
    fraction = {name: [rate / top for rate, top in zip(rates[name], peak, strict=True)] for name in work}
    per_step = {name: [seconds / phase.net_steps for seconds in timed[name]] for name, phase in work.items()}
    a_batch = phases.PIXELS * 1000  # samples drawn for the students of a seed at each step
    noise = [
        draw * a_batch / (learn * len(phases.CONDITIONS))
        for draw, learn in zip(per_step["noise"], per_step["students"], strict=True)
    ]
    return {
        "peak_gflops": median(peak),
        "student_fraction_of_peak": median(fraction["students"]),
        "teacher_fraction_of_peak": median(fraction["teachers"]),
        "noise_fraction": median(noise),
        "student_fraction_of_its_shapes": median(
            least / took for least, took in zip(floor, per_step["students"], strict=True)
        ),
        "products_gflops": {name: of(rates[name]) for name in products},
        "copy_gb_per_s": of([moved / seconds / 1e9 for seconds in timed["copy"]]),
        "phases_gflops": {name: of(rates[name]) for name in ("students", "teachers", "evaluation")},
        "phases_ms_per_net": {
            name: {"best": 1e3 * min(per_step[name]), "median": 1e3 * median(per_step[name])}
            for name in ("students", "teachers", "evaluation")
        },
        "noise_ms_per_million": {"best": 1e9 * min(per_step["noise"]), "median": 1e9 * median(per_step["noise"])},
        "population": {"seeds": seeds, "conditions": len(phases.CONDITIONS), "m": phases.M, "steps_a_call": steps},
    }


def _least(conditions: int, gflops: dict[str, float]) -> float:
    """Seconds a student's step would take, were there only its necessary products, each as fast as alone."""
    on, back, hidden, hidden_back, inputs_back = list(gflops.values())[1:6]
    first, second = (2e-6 * size for size in (784 * 256, 256 * 256))  # GFLOP of a product with 1,000 rows
    head = 2e-6 * 256 * phases.M
    answer = (first / on + (second + head) / hidden) / conditions
    heads = head / hidden + head / hidden_back + head / inputs_back
    return first / on + first / back + second / hidden + second / hidden_back + second / inputs_back + heads + answer


def compiling() -> dict[str, Any]:
    """Cold and through the cache on disk, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (json.loads(python("-m", "benchmarks.compiling", folder)) for _ in range(2))
    conditions = cold.pop("conditions")
    warm.pop("conditions")
    return {
        "compile_s_max": max(sum(parts) for parts in cold.values()),
        "compile_s_max_warm": max(sum(parts) for parts in warm.values()),
        "compile_s": {name: {"cold": sum(cold[name]), "warm": sum(warm[name])} for name in cold},
        "programs": len(cold),
        "conditions_compiled": conditions,
    }


def memory(quick: bool) -> dict[str, Any]:
    """The most memory a process of its own takes for Figure 2's widest group, all conditions, few steps."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "-m",
            "sublim_jax.main",
            "--config=configs/figure2.py",
            "--config.m=(100,250)",
            f"--workdir={folder}/w",
        ]
        words += ["--config.student.steps=10", "--config.student.eval_steps=(0,)", "--config.teacher.epochs=1"]
        words += [f"--config.seeds={2 if quick else 10}"]
        process = subprocess.Popen([sys.executable, *words], cwd=root(), stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        asked = RunOptions().memory_gb
    if process.returncode:
        return {"peak_rss_gb": None, "peak_rss_gb_reason": f"the run ended with code {process.returncode}"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_rss_gb": usage.ru_maxrss * unit / 1e9, "memory_gb_asked": asked}


def growth(quick: bool) -> dict[str, Any]:
    """Seconds per seed of a whole run with 64 seeds against one with 4; beginning and end of a run are in both."""
    figure = phases.lab(phases.CONDITIONS[:2], test_limit=1000 if quick else 0)
    few, many = phases.whole_run(figure, 4), phases.whole_run(figure, 64)
    timed = rounds({"4": few, "64": many})
    return {
        "per_seed_cost_64_over_4": median(
            many / 64 / (few / 4) for few, many in zip(timed["4"], timed["64"], strict=True)
        ),
        "seconds_of_4_and_64_seeds": [median(timed["4"]), median(timed["64"])],
    }


def show(numbers: dict[str, Any]) -> None:
    """One table: every number that stands alone, then best and median of those that have both."""
    table = Table("what", "best", "median or value")
    for name, value in numbers.items():
        if isinstance(value, dict):
            for part, number in value.items():
                if isinstance(number, dict):
                    ends = [number.get("best", number.get("cold")), number.get("median", number.get("warm"))]
                    table.add_row(f"{name}: {part}", *(f"{end:.3g}" for end in ends))
        elif isinstance(value, float) or value is None:
            table.add_row(name, "", numbers.get(f"{name}_reason", "") if value is None else f"{value:.3g}")
    Console(width=120).print(table)
    print("compile_s: cold and warm in place of best and median")


if __name__ == "__main__":
    main()
