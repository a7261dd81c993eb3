"""Whole commands on an accelerator: python -m benchmarks.accelerator --out=DIR [--limit=540] [--toy].

Each case runs one command in its own process and trains its teachers: first with an empty program cache (cold), then
with the cache of the first run (warm). DIR/accelerator.json is written after each case, so that a time limit
loses at most the case that it cuts short. `--toy` runs the smoke sizes, to test the benchmark itself on a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax import results

SETTLED = ("--config.run.memory_gb=60", "--config.run.teachers=")


class Case(NamedTuple):
    """One command: a config with overrides; cases of one config share a cache of compiled programs."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


SEEDS = "--config.seeds=20"
CASES = (
    Case("quickstart_cold", "quickstart"),
    Case("quickstart_warm", "quickstart"),
    Case("figure2_cold", "figure2"),
    Case("figure2_warm", "figure2"),
    Case("cloud_cold", "cloud"),
    Case("cloud_warm", "cloud"),
    Case("figure2_high", "figure2", ("--config.run.precision=high",)),
    Case("figure2_default", "figure2", ("--config.run.precision=default",)),
    Case("figure2_bfloat16", "figure2", ("--config.net.dtype=bfloat16",)),
    Case("lm_transfer_laptop", "lm_transfer", ("--config.preset=laptop",)),
    Case("figure6_laptop", "figure6", ("--config.preset=laptop", SEEDS)),
)
COMPARED = ("figure2_high", "figure2_default", "figure2_bfloat16")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    parser.add_argument("--limit", type=float, default=540, help="seconds for everything")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--toy", action="store_true", help="smoke sizes")
    args = parser.parse_args(argv)
    deadline = time.monotonic() + args.limit
    args.out.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {"peak": json.loads(_child("_peak", [str(int(args.toy))], {}, args.limit))}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            left = deadline - time.monotonic()
            if case.name in args.cases and left > 0:
                numbers[case.name] = run_case(case, Path(folder), left, args.toy)
                _compare(numbers, Path(folder), case.name)
                (args.out / "accelerator.json").write_text(json.dumps(numbers, indent=1) + "\n")
                print(case.name, json.dumps(numbers[case.name]), flush=True)


def run_case(case: Case, folder: Path, limit: float, toy: bool) -> dict[str, Any]:
    """Run one command and return its wall seconds, seconds by cause, programs and peak memory; or why it failed."""
    preset = [word for word in case.overrides if "preset" not in word] + ["--config.preset=smoke"]
    overrides = preset if toy else case.overrides
    workdir = folder / case.name
    words = [f"--config=configs/{case.config}.py", f"--workdir={workdir}", *SETTLED, *overrides]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"programs_{case.config}")}
    begun = time.perf_counter()
    try:
        memory = json.loads(_child("_command", words, environment, limit))
    except subprocess.TimeoutExpired:
        return {"failed": f"cut short after {limit:.0f} s", **_recorded(workdir)}
    except subprocess.CalledProcessError as error:
        return {"failed": error.stderr[-2000:]}
    return {"wall_seconds": time.perf_counter() - begun, **memory, **_recorded(workdir)}


def _recorded(workdir: Path) -> dict[str, Any]:
    """What the run recorded of itself: seconds by cause, net-steps, programs."""
    if not (workdir / "config.json").exists():
        return {}
    run = results.metadata(workdir)["runs"][-1]
    return {name: run[name] for name in ("seconds", "steps", "programs") if name in run}


def _compare(numbers: dict[str, Any], folder: Path, name: str) -> None:
    """Add to a case with other products the differences of final accuracy from the cold float32 run, by condition."""
    reference = folder / "figure2_cold"
    if name not in COMPARED or not (folder / name / "rows").exists() or not (reference / "rows").exists():
        return
    labels = ["condition", "m", "seed", "step"]
    one, other = (results.load(path).set_index(labels)["at/student_accuracy"] for path in (reference, folder / name))
    last = one.index.get_level_values("step").max()
    difference = (other - one).dropna().xs(last, level="step").groupby("condition").agg(["mean", "min", "max", "size"])
    numbers[name]["accuracy_minus_float32"] = json.loads(difference.to_json(orient="index") or "{}")


def _child(function: str, words: Sequence[str], environment: dict[str, str], limit: float) -> str:
    """The last line that a function of this module prints in a process of its own."""
    code = f"import sys; from benchmarks import accelerator; accelerator.{function}(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, **environment},
        timeout=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]


def _command(words: Sequence[str]) -> None:
    """Run the main command here, and print the peak memory of the process and of its device."""
    import resource

    import jax

    from sublim_jax.main import main as run

    code = run(["main", *words])
    if code:
        raise SystemExit(code)
    device = jax.devices()[0].memory_stats() or {}
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"host_gb": host, "device_gb": device.get("peak_bytes_in_use", 0) / 1e9}))


def _peak(words: Sequence[str]) -> None:
    """Print the rate of a square product at each precision, in TFLOP/s: median of ten."""
    import jax
    import jax.numpy as jnp

    size = 256 if int(words[0]) else 8192
    rates: dict[str, Any] = {"device": jax.devices()[0].device_kind, "size": size}
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"),
        ("high", jnp.float32, "high"),
        ("default", jnp.float32, "default"),
        ("bfloat16", jnp.bfloat16, "default"),
    ):
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
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
