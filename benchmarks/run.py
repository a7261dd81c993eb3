"""The benchmark: python -m benchmarks.run --out=bench.json [--quick] [--authors=DIR --cloud=FILE --infomorphic=DIR].

Commands are timed as a user runs them, each in a process of its own, with the fastest product of the machine before and
after. What is compared runs in turn. The file is written after each part. A part that fails writes its reason under
`failed`, the others go on, and the exit code is 1. Quick: fewer steps, within five minutes on 2 cores. Batched PyTorch
needs the extra: pip install -e '.[bench]'.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share an accelerator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import commands, floors, infomorphic, library, published
from sublim_jax.core.files import replace_file
from sublim_jax.results.provenance import provenance

CONDITIONS, EPOCH = 6, 59  # of Figure 2; steps of an epoch of noise in the six groups
PAIRS, GROUPS = 720, 3  # of the published Figure 2, and programs of students
UNITS = {"students": 180_000, "teachers": 5_900, "measuring": PAIRS * 4, "saving": PAIRS * 4}  # its net-steps, or nets
TRAINING = ("students", "teachers")
FEW_STEPS = ("--config.student.steps=10", "--config.student.eval_steps=()", "--config.teacher.epochs=1")
SMOKE = ("--config.preset=smoke", "--config.metrics=('task',)", "--config.conditions=('same',)", "--config.m=(3,)")


class Size(NamedTuple):
    """How much is measured.

    rounds: of what takes turns; steps, nets, conditions: of short sweeps, growing to `many` seeds; models, epochs: of
    the six groups as a command; figure2: the part of Figure 2, with so many programs of students; common: overrides of
    every command.
    """

    rounds: int
    steps: int
    nets: int
    models: int
    epochs: int
    figure2: tuple[str, ...]
    groups: int = 1
    common: tuple[str, ...] = ()
    conditions: int = CONDITIONS
    many: int = 64


SHORT = ("--config.m=(50,)", "--config.student.steps=100", "--config.student.eval_steps=(0,)")
FULL = Size(3, 20, nets=10, models=10, epochs=5, figure2=("--config.seeds=2",), groups=GROUPS)
QUICK = Size(2, 10, nets=4, models=4, epochs=1, figure2=("--config.seeds=2", *SHORT))
TOY = Size(1, 1, nets=2, models=2, epochs=1, figure2=(), common=SMOKE, conditions=1, many=4)


class Bench:
    """Options of the command line, and the figures measured so far."""

    def __init__(self, args: argparse.Namespace, programs: Path) -> None:
        self.args, self.programs = args, programs
        self.size = TOY if args.toy else QUICK if args.quick else FULL
        self.numbers: dict[str, Any] = {"size": "toy" if args.toy else "quick" if args.quick else "full"}
        scripts = {"authors": "authors", "cloud": "cloud", "infomorphic_authors": "infomorphic"}
        for name, option in scripts.items():
            reason = "not measured" if getattr(args, option) else f"--{option} is not given"
            self.numbers |= {f"speedup_vs_{name}": None, f"speedup_vs_{name}_reason": reason}
        self.numbers |= {"peaks_gflops": [], **provenance()}

    def command(self, config: str, *overrides: str) -> commands.Ran:
        return commands.command(config, (*self.size.common, *overrides), self.programs)

    def peak(self) -> float:
        """GFLOP/s of the fastest product between the last two measurements of all products."""
        return mean(self.numbers["peaks_gflops"][-2:])

    def utilisation(self, ran: commands.Ran) -> float:
        """Necessary floating-point operations of training over the seconds of the whole command and the peak."""
        amounts = commands.amounts(ran)
        return sum(amounts[phase][0] for phase in TRAINING) / ran.wall / 1e9 / self.peak()


def products(bench: Bench) -> dict[str, Any]:
    """The fastest product of each round is the peak; the median of rounds counts."""
    words = [sys.executable, "-m", "benchmarks.floors", str(CONDITIONS), str(bench.size.rounds)]
    done = subprocess.run(words, cwd=commands.ROOT, capture_output=True, text=True, check=True)
    rates = json.loads(done.stdout.splitlines()[-1])
    copy = rates.pop(floors.COPY)
    peaks = [*bench.numbers["peaks_gflops"], median(map(max, zip(*rates.values(), strict=True)))]
    return {
        "peak_gflops": median(peaks),
        "peaks_gflops": peaks,
        "products_gflops": {name: median(values) for name, values in rates.items()},
        "copy_gb_per_s": median(copy),
    }


def quickstart(bench: Bench) -> dict[str, Any]:
    """The first command of the README without compiled programs; compiling with and without them."""
    cold = bench.command("quickstart")
    bench.numbers |= products(bench)
    warm = bench.command("quickstart", *FEW_STEPS)
    refused = [sys.executable, "-m", "sublim_jax.main", "--config=configs/quickstart.py", "--config.m=(0,)"]
    slow = sorted(cold.compiling, key=lambda name: -cold.compiling[name])[:8]
    return {
        "utilisation_quickstart": bench.utilisation(cold),
        "quickstart_seconds": cold.wall,
        "quickstart_seconds_by_cause": cold.seconds,
        "first_line_s": cold.first_line,
        "refusal_s": commands.timed(refused, bench.programs, code=2)[0],
        "programs": cold.run["programs"],
        "compile_s_quickstart": cold.seconds["compile"],
        "compile_s_quickstart_warm": warm.seconds["compile"],
        "compile_s_max": max(cold.compiling.values()),
        "compile_s_max_warm": max(warm.compiling.values()),
        "compile_s": {name: {"cold": cold.compiling[name], "warm": warm.compiling.get(name)} for name in slow},
    }


def figure2(bench: Bench) -> dict[str, Any]:
    """A part of Figure 2: each phase against the peak, and what all of it would take."""
    ran = bench.command("figure2", *bench.size.figure2)
    bench.numbers |= products(bench)
    amounts = commands.amounts(ran)
    gflops = {name: flop / 1e9 / ran.seconds[name] for name, (flop, _) in amounts.items()}
    each = {name: ran.seconds[name] / units for name, (_, units) in amounts.items()}
    each["saving"] = ran.seconds["saving"] / amounts["measuring"][1]
    rest = ran.wall - ran.seconds["compile"] - sum(ran.seconds[name] for name in UNITS)
    predicted = rest + ran.seconds["compile"] * GROUPS / bench.size.groups
    predicted += sum(UNITS[name] * seconds for name, seconds in each.items())
    least = floors.least(CONDITIONS, bench.numbers["products_gflops"], library.M)
    return {
        "utilisation_figure2": bench.utilisation(ran),
        "student_fraction_of_peak": gflops["students"] / bench.peak(),
        "teacher_fraction_of_peak": gflops["teachers"] / bench.peak(),
        "student_fraction_of_its_shapes": least / each["students"],
        "phases_gflops": gflops,
        "phases_ms_per_net": {name: 1e3 * seconds for name, seconds in each.items()},
        "figure2_seconds_measured": ran.wall,
        "figure2_seconds_by_cause": ran.seconds,
        "figure2_note": f"part of the figure: {' '.join((*bench.size.common, *bench.size.figure2))}",
        "figure2_seconds_predicted": predicted,
        "figure2_seconds_predicted_note": "phases of the part in proportion to net-steps and nets, compiling to groups",
        "peak_rss_gb": ran.rss_gb,
        "memory_gb_asked": ran.config["run"]["memory_gb"],
    }


def authors(bench: Bench) -> dict[str, Any]:
    """One pair by the authors' script, before and after our part of Figure 2."""
    if not bench.args.authors:
        return {}
    epochs = 1 if bench.args.toy else 5
    pair = published.authors_pair(bench.args.authors, bench.args.python, library.M, epochs)
    numbers = {"authors_seconds_of_a_pair": [*bench.numbers.get("authors_seconds_of_a_pair", []), pair]}
    if "figure2_seconds_predicted" not in bench.numbers:
        return numbers
    ours = bench.numbers["figure2_seconds_predicted"] / PAIRS
    note = f"one process a pair, m = {library.M}, {epochs} epochs; against figure2_seconds_predicted / {PAIRS}"
    return numbers | {
        "speedup_vs_authors": mean(numbers["authors_seconds_of_a_pair"]) / ours,
        "speedup_vs_authors_reason": "",
        "speedup_vs_authors_note": note,
    }


def cloud(bench: Bench) -> dict[str, Any]:
    """The six groups by the script of Cloud et al. and by our command, which measures accuracies as it does."""
    if not bench.args.cloud:
        return {}
    models, epochs = bench.size.models, bench.size.epochs
    theirs = published.cloud(bench.args.cloud, bench.args.python, models, epochs)
    overrides = [f"--config.seeds={models}", f"--config.teacher.epochs={epochs}"]
    overrides += [f"--config.student.steps={EPOCH * epochs}", "--config.metrics=('task',)"]
    ran = bench.command("cloud", *overrides)
    return {
        "speedup_vs_cloud": theirs / ran.wall,
        "speedup_vs_cloud_reason": "",
        "speedup_vs_cloud_note": f"{models} models, {epochs} epochs; whole commands, ours without compiled programs",
        "cloud_command_seconds": {"theirs": theirs, "ours": ran.wall},
        "cloud_seconds_by_cause": ran.seconds,
    }


def infomorphic_authors(bench: Bench) -> dict[str, Any]:
    """Training steps of infomorphic networks, beside those of the authors' code where it is given."""
    return infomorphic.measure(bench.size.rounds, bench.args.toy, bench.args.infomorphic, bench.args.python)


def noise(bench: Bench) -> dict[str, Any]:
    """Drawing noise as a part of the students' time: one batch serves all students of a seed that are trained."""
    numbers = library.noise(bench.size.rounds)
    batch = numbers["noise_ms_per_million"] * library.IMAGES_A_BATCH * commands.PIXELS / 1e6
    students = bench.numbers["phases_ms_per_net"]["students"] * (CONDITIONS - 1)  # two of six are trained alike
    return numbers | {"noise_fraction": batch / students}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "products": products,
    "quickstart": quickstart,
    "authors before": lambda bench: {} if bench.args.quick else authors(bench),
    "figure2": figure2,
    "authors": authors,
    "cloud": cloud,
    "noise": noise,
    "infomorphic_authors": infomorphic_authors,
    "growth": lambda bench: library.growth(bench.size.many, bench.size.rounds - 1 or 1),
    "figure2 and plain JAX": lambda bench: library.figure2(bench.size.conditions, bench.size.steps, bench.size.rounds),
    "six groups": lambda bench: library.cloud(bench.size.nets, bench.size.steps, bench.size.rounds),
}


def run_parts(parts: dict[str, Callable[[Bench], dict[str, Any]]], bench: Bench, out: Path) -> None:
    """Measure part after part; write everything after each."""
    numbers, begun = bench.numbers, time.perf_counter()
    numbers |= {"failed": {}, "seconds_of_parts": {}}
    for name, part in parts.items():
        start = time.perf_counter()
        try:
            numbers |= part(bench)
        except Exception as error:  # of any kind: the other parts are worth measuring
            numbers["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if f"speedup_vs_{name}_reason" in numbers:
                numbers[f"speedup_vs_{name}_reason"] = "the script or our command failed"
            traceback.print_exc()
        numbers["seconds_of_parts"][name] = time.perf_counter() - start
        numbers["benchmark_seconds"] = time.perf_counter() - begun
        replace_file(out, (json.dumps(numbers, indent=1) + "\n").encode())
        print(f"{name}: {numbers['seconds_of_parts'][name]:.0f} s", flush=True)


def show(numbers: dict[str, Any]) -> None:
    """One table of all numbers."""
    table = Table("what", "value")
    for name, value in numbers.items():
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            label = f"{name}: {part}" if part else name
            if isinstance(number, dict):
                number = " / ".join(f"{one:.3g}" for one in number.values() if one is not None)
            table.add_row(label, escape(f"{number:.3g}" if isinstance(number, float) else str(number)))
    Console(width=120).print(table)
    print("compile_s: cold / warm")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--quick", action="store_true", help="within five minutes on 2 cores")
    parser.add_argument("--toy", action="store_true", help="smoke sizes, to test the benchmark itself")
    parser.add_argument("--authors", type=Path, help="checkout of Priesemann-Group/subliminal_learning")
    parser.add_argument("--cloud", type=Path, help="scripts/run_mnist_experiment.py of MinhxLe/subliminal-learning")
    parser.add_argument("--infomorphic", type=Path, help="checkout of Priesemann-Group/Infomorphic_Networks")
    parser.add_argument("--python", default=sys.executable, help="interpreter of these scripts, with torchvision")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as programs:
        bench = Bench(args, Path(programs))
        run_parts({name: part for name, part in PARTS.items() if name in args.parts}, bench, args.out.absolute())
    show(bench.numbers)
    return 1 if bench.numbers["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
