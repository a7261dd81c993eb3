"""Whole commands on an accelerator: python -m benchmarks.accelerator --out=DIR [--limit=540] [--toy].

Each case runs one command in its own process and trains its teachers: first with an empty program cache (cold), then
with the cache of the first run (warm); cases of one config share a cache. DIR/accelerator.json is written after each
case. The most important cases come first: the limit cuts a later case short, which then says what it had done, and
leaves out the cases after it, which it names. `--toy` runs small sizes, to test the benchmark itself on a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax import results

SETTLED = ("--config.run.memory_gb=60", "--config.run.teachers=")
_GRACE = 20  # seconds that a case which is cut short has to save what it did


class Case(NamedTuple):
    """One command.

    Attributes:
        name: Its name in the results.
        config: A config.
        overrides: Fields of the config.
        products: Products whose peak the case is compared with, a name in `PRODUCTS`.
        goal: Wall seconds wanted on an H100; 0 = no goal.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    products: str = "float32"
    goal: float = 0.0


PRODUCTS = {  # type of the operands and precision
    "float32": ("float32", "highest"),
    "tf32": ("float32", "high"),
    "default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
SEEDS = "--config.seeds=20"
_ONE_ARM = ("--config.arms.width.teacher.frozen=((),)", "--config.arms.width.student.frozen=((),)")
CASES = (
    Case("figure2_cold", "figure2", goal=60),
    Case("figure2_warm", "figure2", goal=15),
    Case("quickstart_cold", "quickstart"),
    Case("quickstart_warm", "quickstart"),
    Case("cloud_cold", "cloud"),
    Case("cloud_warm", "cloud", goal=30),
    Case("figure2_high", "figure2", ("--config.run.precision=high",), "tf32"),
    Case("figure2_bfloat16", "figure2", ("--config.net.dtype=bfloat16",), "bfloat16"),
    Case("lm_transfer_laptop", "lm_transfer", ("--config.preset=laptop",)),
    Case("figure6_widths", "figure6", (SEEDS, *_ONE_ARM)),
)
TOY = {  # the smallest sizes at which every part of a case runs
    "figure2": ("--config.m=(3,)", "--config.conditions=('same',)", "--config.metrics=('task',)"),
    "quickstart": ("--config.m=(3,)", "--config.conditions=('same',)", "--config.metrics=('task',)"),
    "cloud": ("--config.seeds=2", "--config.metrics=('task',)"),
    "figure6": ("--config.seeds=2", "--config.metrics=('task',)", "--config.arms.width.net.hidden=((32,2),)"),
    "lm_transfer": (
        "--config.seeds=1",
        "--config.arms.hard.lm.data=('greedy',)",
        "--config.arms.soft.lm.data=('soft',)",
        "--config.arms.teacher_hard.lm.teacher=('shuffled',)",
        "--config.arms.teacher_soft.lm.teacher=('shuffled',)",
        "--config.arms.unfiltered.lm.filtered=(True,)",
        "--config.arms.carrier.lm.carrier=('code',)",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    parser.add_argument("--limit", type=float, default=540, help="seconds for everything")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--toy", action="store_true", help="smoke sizes")
    args = parser.parse_args(argv)
    deadline = time.monotonic() + args.limit - _GRACE
    args.out.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {"peak": _peak_rates(args.toy, args.limit)}
    with tempfile.TemporaryDirectory() as folder:
        for case in (case for case in CASES if case.name in args.cases):
            left = deadline - time.monotonic()
            numbers[case.name] = run_case(case, Path(folder), left, args.toy)
            _add_shares(numbers[case.name], numbers["peak"], case)
            _compare(numbers, Path(folder), case.name)
            (args.out / "accelerator.json").write_text(json.dumps(numbers, indent=1) + "\n")
            print(case.name, _beside_goal(case, numbers[case.name]), json.dumps(numbers[case.name]), flush=True)


def _peak_rates(toy: bool, limit: float) -> dict[str, Any]:
    """Rates of a square product by name, in TFLOP/s, measured in a process of its own, which leaves the device."""
    return json.loads(_child("_peak", [str(int(toy))], {}, limit))


def overrides(case: Case, toy: bool) -> list[str]:
    """The fields that a case sets, as words of a command line."""
    kept = [word for word in case.overrides if not (toy and "preset" in word)]
    return ["--config.preset=smoke", *kept, *TOY[case.config]] if toy else kept


def run_case(case: Case, folder: Path, limit: float, toy: bool) -> dict[str, Any]:
    """Run one command and return its wall seconds, seconds by cause, programs and peak memory; or why it failed."""
    if limit <= 0:
        return {"left_out": "no time was left"}
    workdir = folder / case.name
    words = [f"--config={case.config}", f"--workdir={workdir}", *SETTLED, *overrides(case, toy)]
    # Base models are kept in the user's cache; a folder of its own makes the run train them.
    cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/programs_{case.config}", "XDG_CACHE_HOME": f"{folder}/cache"}
    begun = time.perf_counter()
    try:
        measured = json.loads(_child("_command", words, cache, limit))
    except subprocess.TimeoutExpired:
        return {"failed": f"cut short after {limit:.0f} s, the time that was left", **_recorded(workdir)}
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr[-2000:]}
    return {"wall_seconds": time.perf_counter() - begun, **measured, **_recorded(workdir)}


def _recorded(workdir: Path) -> dict[str, Any]:
    """What the run recorded of itself: seconds by cause, net-steps, programs."""
    if not (workdir / "config.json").exists():
        return {}
    run = results.metadata(workdir)["runs"][-1]
    return {name: run[name] for name in ("seconds", "steps", "programs") if name in run}


def _add_shares(measured: dict[str, Any], peak: Mapping[str, Any], case: Case) -> None:
    """Add the rate of the students' necessary products, and its shares of the peaks that were measured here."""
    if "flop" not in measured or not measured["seconds"].get("students"):
        return
    rate = measured["flop"]["students"] / measured["seconds"]["students"] / 1e12
    names = dict.fromkeys(("float32", "tf32", case.products))
    measured["students_tflops"] = rate
    measured["share_of_peak"] = {name: rate / peak[name] for name in names}


def _beside_goal(case: Case, measured: Mapping[str, Any]) -> str:
    """Wall seconds, beside the goal where there is one."""
    if "wall_seconds" not in measured:
        return str(measured.get("left_out", "failed"))
    return f"{measured['wall_seconds']:.1f} s" + (f" (goal on an H100: {case.goal:g} s)" if case.goal else "")


def _compare(numbers: dict[str, Any], folder: Path, name: str) -> None:
    """Add to a case with other products the differences of final accuracy from the cold float32 run, by condition."""
    reference = folder / "figure2_cold"
    if (
        name not in ("figure2_high", "figure2_bfloat16")
        or not (folder / name / "rows").exists()
        or not (reference / "rows").exists()
    ):
        return
    labels = ["condition", "m", "seed", "step"]
    one, other = (results.load(path).set_index(labels)["at/student_accuracy"] for path in (reference, folder / name))
    last = one.index.get_level_values("step").max()
    difference = (other - one).dropna().xs(last, level="step").groupby("condition").agg(["mean", "min", "max", "size"])
    numbers[name]["accuracy_minus_float32"] = json.loads(difference.to_json(orient="index") or "{}")


def _child(function: str, words: Sequence[str], environment: dict[str, str], limit: float) -> str:
    """The last line that a function of this module prints in a process of its own."""
    code = f"import sys; from benchmarks import accelerator; accelerator.{function}(sys.argv[1:])"
    words = [sys.executable, "-c", code, *words]
    folder, environment = Path(__file__).resolve().parents[1], {**os.environ, **environment}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=folder, env=environment, **pipes) as process:
        try:
            out, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # the command saves, records its seconds and ends
            try:
                process.communicate(timeout=_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, out, errors)
    return out.strip().splitlines()[-1]


def _command(words: Sequence[str]) -> None:
    """Run the main command here; print peak memory of process and device, and the operations that training needs."""
    import resource

    import jax
    from absl import flags

    from benchmarks.amounts import necessary_flop
    from sublim_jax.config.command_line import parse_flags
    from sublim_jax.main import main as run

    code = run(["main", *words])
    if code:
        raise SystemExit(code)
    device = jax.devices()[0].memory_stats() or {}
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    flop = necessary_flop(parse_flags(flags.FlagValues(), ["main", *words], "").resolve())
    print(json.dumps({"host_gb": host, "device_gb": device.get("peak_bytes_in_use", 0) / 1e9, "flop": flop}))


def _peak(words: Sequence[str]) -> None:
    """Print the rate of a square product at each precision, in TFLOP/s: median of ten."""
    import jax
    import jax.numpy as jnp

    size = 256 if int(words[0]) else 8192
    rates: dict[str, Any] = {"device": jax.devices()[0].device_kind, "size": size}
    for name, (dtype, precision) in PRODUCTS.items():
        matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        product = jax.jit(lambda a, p=precision: jnp.matmul(a, a, precision=p))
        jax.block_until_ready(product(matrix))
        seconds = []
        for _ in range(10):
            begun = time.perf_counter()
            jax.block_until_ready(product(matrix))
            seconds.append(time.perf_counter() - begun)
        rates[name] = 2 * size**3 / sorted(seconds)[5] / 1e12
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
