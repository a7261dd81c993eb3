"""The benchmark: python -m benchmarks.run --out=bench.json [--quick].

Everything that is compared runs in this process in turn, round after round, so that a slow moment of the machine meets
all; ratios are taken within a round, and the median over rounds is reported. Quick: fewer seeds and steps, within five
minutes on 2 cores. The PyTorch baselines need the extra: pip install -e '.[bench]'.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import floors, ours_cloud, phases, plain_jax, protocol
from sublim_jax import data, metrics, records, run
from sublim_jax.progress import Watch

ROUNDS = 5
FIGURE2 = {"students": 720, "student_steps": 300, "teachers": 20, "teacher_steps": 295, "marks": 4}
TORCH = "PyTorch is not installed: pip install -e '.[bench]'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="within five minutes on 2 cores")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    begun, told = time.perf_counter(), {"quick": args.quick, "rounds": ROUNDS, **records.provenance()}
    told["device"] = str(jax.devices()[0].device_kind)
    told |= kernels(args.quick)
    told |= compiling()
    told |= memory(args.quick)
    told |= growth(args.quick)
    told |= cloud(args.quick)
    told |= figure2(args.quick, told)
    told["benchmark_seconds"] = time.perf_counter() - begun
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    show(told)


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


def kernels(quick: bool) -> dict[str, Any]:
    """The floor, and each phase of training against it."""
    here = phases.lab()
    seeds, steps = (6, 5) if quick else (20, 5)
    products, (copy, moved) = floors.products(len(phases.CONDITIONS)), floors.copy()
    work = phases.phases(here, seeds, steps)
    # Floors before and after each phase's turn would be fairer still; one round is short.
    timed = rounds({**{name: thing for name, (thing, _) in products.items()}, "copy": copy}
                   | {name: phase.run for name, phase in work.items()})  # fmt: skip
    rates = {name: [flop / one / 1e9 for one in timed[name]] for name, (_, flop) in products.items()}
    rates |= {name: [phase.flop / one / 1e9 for one in timed[name]] for name, phase in work.items()}
    peak = [max(rates[name][turn] for name in products) for turn in range(ROUNDS)]
    floor = [_least(len(phases.CONDITIONS), {name: rates[name][turn] for name in products}) for turn in range(ROUNDS)]
    fraction = {name: [rate / top for rate, top in zip(rates[name], peak, strict=True)] for name in work}
    per_step = {name: [one / phase.net_steps for one in timed[name]] for name, phase in work.items()}
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
        "copy_gb_per_s": of([moved / one / 1e9 for one in timed["copy"]]),
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
        cold, warm = (json.loads(_python("-m", "benchmarks.compiling", folder)) for _ in range(2))
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
        words += ["--config.student.steps=10", "--config.student.marks=(0,)", "--config.teacher.epochs=1"]
        words += [f"--config.seeds={2 if quick else 10}"]
        process = subprocess.Popen([sys.executable, *words], cwd=_root(), stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        asked = run.How().memory_gb
    if process.returncode:
        return {"peak_rss_gb": None, "peak_rss_gb_reason": f"the run ended with code {process.returncode}"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_rss_gb": usage.ru_maxrss * unit / 1e9, "memory_gb_asked": asked}


def growth(quick: bool) -> dict[str, Any]:
    """Seconds per seed of a whole run with 64 seeds against one with 4; beginning and end of a run are in both."""
    here = phases.lab(phases.CONDITIONS[:2], test_limit=1000 if quick else 0)
    few, many = phases.whole_run(here, 4), phases.whole_run(here, 64)
    timed = rounds({"4": few, "64": many})
    return {
        "per_seed_cost_64_over_4": median(
            many / 64 / (few / 4) for few, many in zip(timed["4"], timed["64"], strict=True)
        ),
        "seconds_of_4_and_64_seeds": [median(timed["4"]), median(timed["64"])],
    }


def cloud(quick: bool) -> dict[str, Any]:
    """The six-group experiment by us, by batched PyTorch and by plain JAX; equal steps for all. Quick: 4 models."""
    steps, models = (10, 4) if quick else (59, 10)
    dataset = data.load("mnist", "auto", mean=0.5, std=0.5)
    conditions = ours_cloud.conditions(dataset, steps, steps)

    def ours() -> float:
        watch, start = Watch(show=False), time.perf_counter()
        run.run(conditions, dataset, seeds=models, metrics=(metrics.task,), exam=64, watch=watch)
        return time.perf_counter() - start - watch.seconds["compile"]

    images = protocol.load(protocol.CLOUD_SCALE)
    plain = plain_jax.lower_cloud(models, steps, steps, data=images)
    things = {"ours": ours, "plain_jax": _seconds(plain)}
    torch = importlib.util.find_spec("torch") is not None
    if torch:
        from benchmarks import torch_batched, torch_bmm

        things["torch_bmm"] = _seconds(lambda: torch_bmm.cloud(models, steps, steps, data=images))
        things["torch_tuned"] = _seconds(lambda: torch_batched.cloud(models, steps, steps, data=images))
    for thing in things.values():
        thing()
    timed = rounds(things)

    def against(name: str) -> float | None:
        if name not in timed:
            return None
        return median(other / own for other, own in zip(timed[name], timed["ours"], strict=True))

    told: dict[str, Any] = {
        "speedup_vs_batched_torch": against("torch_bmm"),
        "speedup_vs_tuned_torch": against("torch_tuned"),
        "speedup_vs_plain_jax_cloud": against("plain_jax"),
        "cloud_seconds": {name: {"best": min(values), "median": median(values)} for name, values in timed.items()},
        "cloud_steps": steps,
        "cloud_models": models,
    }
    return told if torch else {**told, "speedup_vs_batched_torch_reason": TORCH, "speedup_vs_tuned_torch_reason": TORCH}


def figure2(quick: bool, told: dict[str, Any]) -> dict[str, Any]:
    """Figure 2: equal pieces by us, plain JAX and tuned PyTorch; as a whole against one process a pair."""
    found = _pieces(quick)
    each = {name: values["median"] / 1e3 for name, values in told["phases_ms_per_net"].items()}
    ours = (
        FIGURE2["students"] * (FIGURE2["student_steps"] * each["students"] + FIGURE2["marks"] * each["evaluation"])
        + FIGURE2["teachers"] * FIGURE2["teacher_steps"] * each["teachers"]
    )
    ours += sum(parts["cold"] for parts in told["compile_s"].values()) * 3  # three groups of widths
    found |= {"figure2_seconds_predicted": ours}
    names = {"samples": "speedup_vs_process_loop", "arrays": "speedup_vs_lean_process_loop"}
    if importlib.util.find_spec("torch") is None:
        return found | {name: None for name in names.values()} | {f"{name}_reason": TORCH for name in names.values()}
    for images, name in names.items():
        pairs = [_pair(seed, images, quick) for seed in range(1 if quick else ROUNDS)]
        found[name] = FIGURE2["students"] * median(pairs) / ours
        found[f"seconds_of_a_pair_{images}"] = median(pairs)
    return found


def _pieces(quick: bool) -> dict[str, Any]:
    steps, seeds = (10, 2) if quick else (60, 2)
    dataset = data.load("mnist", "auto")
    conditions = phases.shortened(phases.lab().conditions, steps, steps)

    def ours() -> float:
        watch, start = Watch(show=False), time.perf_counter()
        run.run(conditions, dataset, seeds=seeds, metrics=(metrics.task,), exam=64, watch=watch)
        return time.perf_counter() - start - watch.seconds["compile"]

    asked = range(seeds), phases.CONDITIONS, phases.M, steps, steps, protocol.load()
    things = {"ours": ours, "plain_jax": _seconds(plain_jax.lower_figure2(*asked))}
    if importlib.util.find_spec("torch") is not None:
        from benchmarks import torch_batched

        things["torch_tuned"] = _seconds(lambda: torch_batched.figure2(*asked))
    for thing in things.values():
        thing()
    timed = rounds(things)
    ratio = {
        name: median(other / own for other, own in zip(values, timed["ours"], strict=True))
        for name, values in timed.items()
    }
    return {
        "speedup_vs_plain_jax": ratio["plain_jax"],
        "speedup_vs_tuned_torch_figure2": ratio.get("torch_tuned"),
        "figure2_seconds": {name: {"best": min(values), "median": median(values)} for name, values in timed.items()},
        "figure2_steps": steps,
    }


def _pair(seed: int, images: str, quick: bool) -> float:
    """Seconds of one teacher and one student in a process of their own; steps left out cost what the others cost."""
    short = {"teacher": 30, "student": 30} if quick else {"teacher": 295, "student": 300}
    words = [f"--{who}_steps={steps}" for who, steps in short.items()]
    start = time.perf_counter()
    one = json.loads(
        _python("-m", "benchmarks.torch_loop", f"--seed={seed}", f"--m={phases.M}", f"--images={images}", *words)
    )
    spent = time.perf_counter() - start
    return spent + sum(one["seconds"][who] * (FIGURE2[f"{who}_steps"] / short[who] - 1) for who in short)


def show(told: dict[str, Any]) -> None:
    """One table: every number that stands alone, then best and median of those that have both."""
    table = Table("what", "best", "median or value")
    for name, value in told.items():
        if isinstance(value, dict):
            for part, one in value.items():
                if isinstance(one, dict):
                    ends = [one.get("best", one.get("cold")), one.get("median", one.get("warm"))]
                    table.add_row(f"{name}: {part}", *(f"{end:.3g}" for end in ends))
        elif isinstance(value, float) or value is None:
            table.add_row(name, "", told.get(f"{name}_reason", "") if value is None else f"{value:.3g}")
    Console(width=120).print(table)
    print("compile_s: cold and warm in place of best and median")


def _seconds(call: Callable[[], Any]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


def _python(*words: str) -> str:
    """The last line that a Python process of its own prints."""
    done = subprocess.run([sys.executable, *words], cwd=_root(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


if __name__ == "__main__":
    main()
