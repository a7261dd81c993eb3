"""From conditions to rows of another kind: the student's first steps, beside what Theorem 1 of Cloud et al. 2026 says.

    for condition, slice of seeds:
        measure(condition, slice)            # every eps, mark and alpha: one part of rows

The teacher is not trained: see `first_steps`. Everything else is the condition's own: nets, streams, losses, what is
shared, optimisers. All in float64, because eps goes down to where float32 knows no difference.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import pyarrow as pa

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, ImageData, Phase
from sublim_jax.data.load import Dataset
from sublim_jax.engine import distributed
from sublim_jax.engine.first_steps import Grid, float64, measure
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.progress import Progress
from sublim_jax.training import losses, population

_SEEDS = 10  # in a unit of work


def run(
    conditions: Sequence[Condition],
    grids: Sequence[Grid],
    dataset: Dataset,
    *,
    seeds: int | Sequence[int] = 4,
    root_seed: int = 0,
    workdir: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: str = "auto",
    how: RunOptions = RunOptions(),  # noqa: B008  frozen
    watch: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    facts: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
) -> pd.DataFrame:
    """Measure the first steps of every condition for every seed; arguments and refusals are those of `run.run`.

    Returns one row per condition, eps, alpha, seed and mark. Columns besides the labels: `at/inner` (the inner product
    of the student's displacement, per step and learning rate, with the teacher's, divided by eps), `at/ratio` (to
    `theory/inner`), `at/cosine`, `at/norm`, `at/loss_change` (of the teacher's loss) and `at/positive` (share of
    positive inner products); predictions under `theory/`, NaN where the theorem says nothing.
    """
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    for one, grid in zip(conditions, grids, strict=True):
        _check(one, grid)
    shard, watch = distributed.process_shard(shard, resume, workdir), watch or Progress()
    with ExitStack() as stack:
        who = {**(config or {}), "data_sha256": dataset.checksum}
        place = stack.enter_context(tempfile.TemporaryDirectory()) if workdir is None else workdir
        folder = results.Workdir(place, who, resume)
        work = _units(len(conditions), seeds, shard)
        folder.begin(devices=[str(jax.local_devices()[0])], **(facts or {}))
        begun, status = time.perf_counter(), "failed"
        try:
            with watch.over(float(sum(len(slice_) for _, slice_, _ in work)), "measuring"), float64():
                bank = jax.tree.map(jnp.asarray, dataset.train)
                for number, slice_, name in work:
                    if folder.has(name):
                        watch.skip(float(len(slice_)))
                        continue
                    with watch.timed("students"):
                        table = _rows(conditions[number], grids[number], bank, keys.root(root_seed), slice_)
                    folder.write(name, table)
                    watch.count("students", table.num_rows)
                    watch.advance(float(len(slice_)))
                    if stopped():
                        raise Interrupted
            status = "done"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            seconds = {"total": time.perf_counter() - begun, **watch.seconds}
            folder.finish(status=status, seconds=seconds, steps=watch.steps, programs=watch.programs)
        return results.load(folder.path, empty=True)


def left(conditions: int, seeds: Sequence[int], workdir: str | Path, shard: tuple[int, int] = (0, 1)) -> int:
    """How many parts of a shard are not in the work folder yet."""
    there = {path.stem for path in (Path(workdir) / "rows").glob("*.parquet")}
    return len({name for _, _, name in _units(conditions, seeds, shard)} - there)


def _units(conditions: int, seeds: Sequence[int], shard: tuple[int, int]) -> list[tuple[int, tuple[int, ...], str]]:
    """Pairs of a condition and some seeds, and the name of their part; every n-th of them for one of n shards."""
    slices = [tuple(seeds[start : start + _SEEDS]) for start in range(0, len(seeds), _SEEDS)]
    found = [
        (number, slice_, f"condition{number:03d}-seed{slice_[0]:04d}-{slice_[-1]:04d}")
        for number in range(conditions)
        for slice_ in slices
    ]
    return found[shard[0] :: shard[1]]


def _check(condition: Condition, grid: Grid) -> None:
    recipe, knobs = condition.student
    if recipe.teacher != recipe.net:
        raise ConfigError("config.student.hidden: theorem1 needs students of the teacher's architecture")
    if getattr(recipe.net, "dtype", "float32") != "float32":
        raise ConfigError("config.net.dtype: must be float32 for theorem1, which computes in float64")
    if any(float(one) != 1 for one in knobs.trainable.values()):
        raise ConfigError("config.student.frozen: must be () for theorem1; its student moves every layer")
    noises = (
        knobs.init_noise,
        knobs.final_noise,
        condition.teacher.knobs.init_noise,
        condition.teacher.knobs.final_noise,
    )
    if recipe.init_transform is not None or any(float(one) for noise in noises for one in noise.values()):
        raise ConfigError("config.student.rotated, config.perturb: must be empty for theorem1")
    if recipe.gradient_transform is not None or recipe.target_transform is not None:
        raise ConfigError("config.student: guard, mixed, target_noise and levels must be empty or 0 for theorem1")
    if len({float(one) for one in knobs.share.values()}) > 1 or float(next(iter(knobs.share.values()))) not in (0, 1):
        raise ConfigError("config.conditions: theorem1 knows same and random, all layers shared or none, and no share")
    if grid.samples and (recipe.loss is not losses.kl or recipe.eval_steps[-1] != 1 or float(knobs.temperature) != 1):
        raise ConfigError(
            f"config.theorem1.samples={grid.samples}: needs config.student.loss='kl', steps=1 and temperature=1.0"
        )


def _rows(condition: Condition, grid: Grid, bank: ImageData, root: Any, seeds: tuple[int, ...]) -> pa.Table:
    """The rows of one condition and some seeds: tidy at every mark, one below the other."""
    shared = _is_shared(condition.student)
    who = [population.phase_keys(root, jnp.asarray(seeds), phase) for phase in (keys.TEACHER, keys.STUDENT)]
    found = jax.device_get(measure(condition.teacher, condition.student, grid, shared, who, bank))
    labels = [{**condition.labels, "eps": eps, "alpha": alpha} for eps in grid.eps for alpha in grid.alpha]
    tables = []
    for place, mark in enumerate(condition.student.recipe.eval_steps):
        # [seed, eps, mark, alpha] as [seed, (eps, alpha)]
        here = {name: values[:, :, place].reshape(len(seeds), -1) for name, values in found.items()}
        tables.append(results.tidy(labels, seeds, mark, here))
    return pa.concat_tables(tables)


def _is_shared(student: Phase) -> bool:
    """Whether the student begins exactly where the teacher does."""
    knobs = student.knobs
    return all(float(one) == 1 for one in knobs.share.values())
