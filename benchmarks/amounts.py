"""What every config asks for in its published size: runs of one pair each, what is left of them, and predicted times.

    python -m benchmarks.amounts

A published run is one process for one point of a grid. What is left: marks of one run stand for runs of other lengths,
students whose training is the same are trained once, teachers are shared. Seconds are floating-point operations over
the rate that Figure 2 reaches on 2 CPU cores (measured; BUILD.md, 'Speed'), and over shares of the peak that BUILD.md's
cost model assumes elsewhere.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from sublim_jax import data
from sublim_jax.config import build_conditions, grid, resolve, seeds_of
from sublim_jax.engine.plan import make_plan
from sublim_jax.nets.costs import step_macs

# FLOP/s by `step_macs`: measured on 2 Xeon cores; assumed: 0.6 of an H100's float32, half of 8 TPU v5e in six passes.
RATES = {"2 cores, h": 3e11 * 3600, "H100, min": 0.6 * 67e12 * 60, "TPU v5e-8, min": 0.5 * 8 * 33e12 * 60}
IMAGE = (28, 28)


def amount(path: Path) -> dict[str, Any]:
    """One line of the table."""
    spec: Any = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = resolve(module.get_config())
    seeds = len(seeds_of(config))
    plan = make_plan(build_conditions(config, _images(config)), IMAGE)
    students = sum(group.unique_knobs.size * group.recipe.eval_steps[-1] for group in plan.groups)
    lengths = sum(group.knobs.size * _lengths(path.stem, group.recipe.eval_steps) for group in plan.groups)
    cost = sum(
        group.recipe.eval_steps[-1] * step_macs(group.recipe, group.unique_knobs.size, IMAGE) for group in plan.groups
    )
    cost += sum(phase.recipe.eval_steps[-1] * step_macs(phase.recipe, 1, IMAGE) for phase in plan.teachers)
    line = {"config": path.stem, "runs of one pair": lengths * seeds, "students' net-steps": students * seeds}
    line |= {"teachers": len(plan.teachers) * seeds, "programs": len({group.recipe for group in plan.groups})}
    return line | {device: 2 * cost * seeds / rate for device, rate in RATES.items()}


def _lengths(name: str, marks: tuple[int, ...]) -> int:
    """How many published runs one run stands for: in Figure 4 every mark is a run of its own."""
    return len([mark for mark in marks if mark]) if name == "figure4" else 1


def _images(config: Any) -> data.Dataset:
    """As many labelled images as there are, all of MNIST's; what they show does not matter here."""
    dataset = data.load_dataset("mnist", "embedded")
    others = {point.config.student.images for point in grid.expand(config)} - {"", "mnist"}
    for name in others:
        more = {**dataset.train.extra, name: dataset.train.x}
        dataset = dataclasses.replace(dataset, train=dataset.train._replace(extra=more))
    return dataset


def main() -> None:
    """Print the table as Markdown."""
    others = ("theorem1", "lm_")  # which train no populations of nets that look at images
    lines = [amount(path) for path in sorted(Path("configs").glob("*.py")) if not path.stem.startswith(others)]
    print("| " + " | ".join(lines[0]) + " |\n|" + "---|" * len(lines[0]))
    for line in lines:
        print("| " + " | ".join(f"{one:,}" if isinstance(one, int) else _text(one) for one in line.values()) + " |")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2g}"


if __name__ == "__main__":
    main()
