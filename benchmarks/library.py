"""Parts of the benchmark that call the package in this process, warm, in turn with what others would write instead."""

import importlib.util
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax

import sublim_jax as sl
from benchmarks import plain_jax
from sublim_jax import config as configs
from sublim_jax.engine.progress import Progress

M, IMAGES_A_BATCH = 50, 1000  # of Figure 2's students
TORCH = "PyTorch is not installed: pip install -e '.[bench]'"
Timed = Callable[[], float]  # runs once and returns seconds


def in_turn(calls: dict[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; one round before warms up."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call())
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """The median over rounds."""
    return median(one / two for one, two in zip(seconds[name], seconds[other], strict=True))


def seconds_of(call: Callable[[], Any]) -> Timed:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


def short(config: configs.Config, steps: int) -> configs.Config:
    """The config with so many steps of teachers and students, of which only accuracies are measured, at the end."""
    config.data.train_limit, config.teacher.batch, config.teacher.epochs = steps * plain_jax.BATCH, plain_jax.BATCH, 1
    config.student.steps, config.student.eval_steps = steps, ()
    config.metrics, config.num_eval_noise = ("task",), 64
    return config


def ours(config: configs.Config, seeds: int) -> Timed:
    """A sweep from a config to rows, without what the compiler takes."""
    data = sl.load_data(config)

    def once() -> float:
        progress, start = Progress(show=False), time.perf_counter()
        sl.run(config, data, seeds=seeds, progress=progress)
        return time.perf_counter() - start - progress.seconds["compile"]

    return once


def growth(many: int, rounds: int) -> dict[str, Any]:
    """Seconds per seed of a whole sweep with `many` seeds (64) against one with 4; beginning and end are in both."""
    config = short(sl.base_config(conditions="same", m=M), steps=5)
    config.data.test_limit = 1000
    seconds = in_turn({"4": ours(config, 4), "64": ours(config, many)}, rounds)
    return {
        "per_seed_cost_64_over_4": ratio(seconds, "64", "4") * 4 / many,
        "seconds_of_4_and_64_seeds": [median(seconds["4"]), median(seconds["64"])],
    }


def noise(rounds: int) -> dict[str, Any]:
    """Milliseconds for a million samples of a student's noise."""
    config = short(sl.base_config(conditions="same", m=M), 1)
    data = sl.load_data(config)
    knobs, key, batches = sl.build(config, data)[0].student.knobs, jax.random.key(0), 20

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        steps = jax.numpy.arange(batches)
        return jax.lax.map(
            lambda step: sl.streams.uniform(key, step, IMAGES_A_BATCH, knobs, data.train)[0].sum(), steps
        )

    seconds = in_turn({"noise": seconds_of(lambda: jax.block_until_ready(draw(key)))}, rounds)["noise"]
    return {"noise_ms_per_million": 1e9 * median(seconds) / (batches * IMAGES_A_BATCH * 784)}


def figure2(conditions: int, steps: int, rounds: int, seeds: int = 2) -> dict[str, Any]:
    """Figure 2 by this package and by plain JAX; both train their teachers for as many steps."""
    config = short(sl.base_config(conditions=tuple(plain_jax.RANDOM_LAYERS)[:conditions], m=M), steps)
    arrays = plain_jax.images(sl.load_data(config))
    plain = plain_jax.figure2(seeds, config.conditions, M, steps, arrays)
    seconds = in_turn({"ours": ours(config, seeds), "plain_jax": seconds_of(plain)}, rounds)
    return {
        "speedup_vs_plain_jax": ratio(seconds, "plain_jax", "ours"),
        "figure2_seconds": {name: median(values) for name, values in seconds.items()},
        "figure2_steps": steps,
    }


def cloud(models: int, steps: int, rounds: int) -> dict[str, Any]:
    """The six groups of Cloud et al. by this package, by batched PyTorch and by plain JAX, with as many steps."""
    config = short(configs.cloud_config(), steps)
    config.conditions, config.m = ("same", "random"), (3,)
    sl.add_grid(config, "groups", {"student.sees": ("aux", "all")})
    arrays = plain_jax.images(sl.load_data(config))
    calls = {"ours": ours(config, models), "plain_jax": seconds_of(plain_jax.cloud(models, steps, arrays))}
    torch = importlib.util.find_spec("torch") is not None
    if torch:
        from benchmarks import torch_batched

        calls["torch"] = seconds_of(lambda: torch_batched.cloud(models, steps, arrays))
    seconds = in_turn(calls, rounds)
    against_torch = {"speedup_vs_batched_torch": ratio(seconds, "torch", "ours") if torch else None}
    return {
        **against_torch,
        **({} if torch else {"speedup_vs_batched_torch_reason": TORCH}),
        "speedup_vs_plain_jax_cloud": ratio(seconds, "plain_jax", "ours"),
        "cloud_seconds": {name: median(values) for name, values in seconds.items()},
        "cloud_models_and_steps": [models, steps],
    }
