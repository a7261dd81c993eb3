"""What others would use instead: PyTorch in batches, PyTorch one process a pair, plain JAX."""

import importlib.util
import json
import time
from statistics import median
from typing import Any

from benchmarks import ours_cloud, phases, plain_jax, protocol
from benchmarks.rounds import ROUNDS, python, rounds, seconds_of
from sublim_jax import data

FIGURE2 = {"students": 720, "student_steps": 300, "teachers": 20, "teacher_steps": 295, "marks": 4}
TORCH = "PyTorch is not installed: pip install -e '.[bench]'"


def cloud(quick: bool) -> dict[str, Any]:
    """The six-group experiment by us, by batched PyTorch and by plain JAX; equal steps for all. Quick: 4 models."""
    steps, models = (10, 4) if quick else (59, 10)
    dataset = data.load_dataset("mnist", "auto", mean=0.5, std=0.5)
    conditions = ours_cloud.conditions(dataset, steps, steps)

    def ours() -> float:
        return phases.seconds_of_run(conditions, dataset, models)

    images = protocol.load(protocol.CLOUD_SCALE)
    plain = plain_jax.lower_cloud(models, steps, steps, data=images)
    programs = {"ours": ours, "plain_jax": seconds_of(plain)}
    torch = importlib.util.find_spec("torch") is not None
    if torch:
        from benchmarks import torch_batched, torch_bmm

        programs["torch_bmm"] = seconds_of(lambda: torch_bmm.cloud(models, steps, steps, data=images))
        programs["torch_tuned"] = seconds_of(lambda: torch_batched.cloud(models, steps, steps, data=images))
    for program in programs.values():
        program()
    timed = rounds(programs)

    def against(name: str) -> float | None:
        if name not in timed:
            return None
        return median(other / own for other, own in zip(timed[name], timed["ours"], strict=True))

    numbers: dict[str, Any] = {
        "speedup_vs_batched_torch": against("torch_bmm"),
        "speedup_vs_tuned_torch": against("torch_tuned"),
        "speedup_vs_plain_jax_cloud": against("plain_jax"),
        "cloud_seconds": {name: {"best": min(values), "median": median(values)} for name, values in timed.items()},
        "cloud_steps": steps,
        "cloud_models": models,
    }
    reasons = {"speedup_vs_batched_torch_reason": TORCH, "speedup_vs_tuned_torch_reason": TORCH}
    return numbers if torch else {**numbers, **reasons}


def figure2(quick: bool, measured: dict[str, Any]) -> dict[str, Any]:
    """Figure 2: equal pieces by us, plain JAX and tuned PyTorch; as a whole against one process a pair."""
    numbers = _pieces(quick)
    each = {name: values["median"] / 1e3 for name, values in measured["phases_ms_per_net"].items()}
    ours = (
        FIGURE2["students"] * (FIGURE2["student_steps"] * each["students"] + FIGURE2["marks"] * each["evaluation"])
        + FIGURE2["teachers"] * FIGURE2["teacher_steps"] * each["teachers"]
    )
    ours += sum(parts["cold"] for parts in measured["compile_s"].values()) * 3  # three groups of widths
    numbers |= {"figure2_seconds_predicted": ours}
    names = {"samples": "speedup_vs_process_loop", "arrays": "speedup_vs_lean_process_loop"}
    if importlib.util.find_spec("torch") is None:
        return numbers | {name: None for name in names.values()} | {f"{name}_reason": TORCH for name in names.values()}
    for images, name in names.items():
        pairs = [_pair(seed, images, quick) for seed in range(1 if quick else ROUNDS)]
        numbers[name] = FIGURE2["students"] * median(pairs) / ours
        numbers[f"seconds_of_a_pair_{images}"] = median(pairs)
    return numbers


def _pieces(quick: bool) -> dict[str, Any]:
    steps, seeds = (10, 2) if quick else (60, 2)
    dataset = data.load_dataset("mnist", "auto")
    conditions = phases.shortened(phases.lab().conditions, steps, steps)

    def ours() -> float:
        return phases.seconds_of_run(conditions, dataset, seeds)

    arguments = range(seeds), phases.CONDITIONS, phases.M, steps, steps, protocol.load()
    programs = {"ours": ours, "plain_jax": seconds_of(plain_jax.lower_figure2(*arguments))}
    if importlib.util.find_spec("torch") is not None:
        from benchmarks import torch_batched

        programs["torch_tuned"] = seconds_of(lambda: torch_batched.figure2(*arguments))
    for program in programs.values():
        program()
    timed = rounds(programs)
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
    words = [f"--{net}_steps={steps}" for net, steps in short.items()]
    start = time.perf_counter()
    result = json.loads(
        python("-m", "benchmarks.torch_loop", f"--seed={seed}", f"--m={phases.M}", f"--images={images}", *words)
    )
    spent = time.perf_counter() - start
    return spent + sum(result["seconds"][net] * (FIGURE2[f"{net}_steps"] / short[net] - 1) for net in short)
