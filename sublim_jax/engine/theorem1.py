"""The study theorem1: a student's first steps, and what Theorem 1 of Cloud et al. 2026 predicts for them.

    for condition, seed_batch in work:
        measure(condition, seed_batch)       # every eps, evaluation step and alpha: one part of rows

The teacher is not trained; see `first_steps`. Nets, streams, losses, sharing and optimisers are the condition's.
Everything is computed in float64, because float32 does not resolve small eps.
"""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa

from sublim_jax import results
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition, ImageData
from sublim_jax.data.load import Dataset
from sublim_jax.engine import compilation_cache
from sublim_jax.engine.first_steps import Grid, float64, measure
from sublim_jax.engine.progress import Call
from sublim_jax.engine.session import Session
from sublim_jax.nets.costs import step_macs
from sublim_jax.training import losses, population

_SEEDS = 10  # in a unit of work
_MACS_PER_SECOND, _COMPILE = 4.5e9, 4.6  # measured on 2 CPU cores


def run(
    conditions: Sequence[Condition], grids: Sequence[Grid], dataset: Dataset, session: Session, *, root_seed: int = 0
) -> pd.DataFrame:
    """Measure the first steps of every condition for every seed.

    Args:
        conditions: Conditions whose students have the teacher's architecture.
        grids: What is measured of each condition.
        dataset: Images with labels; see `data.load`.
        session: Seeds, work directory and options.
        root_seed: Seed of the key from which all draws are derived.

    Returns:
        One row per condition, eps, alpha, seed and evaluation step. Columns besides the labels: `at/inner` (the inner
        product of the student's displacement, per step and learning rate, with the teacher's, divided by eps),
        `at/ratio` (to `theory/inner`), `at/cosine`, `at/norm`, `at/loss_change` (of the teacher's loss) and
        `at/positive` (share of positive inner products); predictions under `theory/`, NaN where the theorem does not
        apply.

    Raises:
        ConfigError: A value cannot be used, or the work directory belongs to another config.
        Interrupted: `session.stopped` returned True.
    """
    check(conditions, grids)
    session.refuse_keep_params()
    with session.open(lambda: {**(session.config or {}), "data_sha256": dataset.checksum}) as workdir, float64():
        todo = _units(len(conditions), session.seeds, session.shard, workdir.seeds())
        images = jax.device_put(dataset.train)
        calls = [_call(conditions[number], grids[number], len(batch), images) for number, batch, _ in todo]
        with session.record(workdir, calls):
            for call, (number, batch, name) in zip(calls, todo, strict=True):
                session.progress.subject = (
                    f"{conditions[number].labels.get('condition', '')} ({number + 1}/{len(conditions)})"
                )
                with session.progress.call(call):
                    table = _rows(conditions[number], grids[number], images, keys.root(root_seed), batch)
                workdir.write(name, table)
                session.progress.count("students", table.num_rows)
                session.stop_if_asked()
                compilation_cache.release_memory()
        return results.load(workdir.path, empty=True)


def left(conditions: int, seeds: Sequence[int], workdir: str | Path, shard: tuple[int, int] = (0, 1)) -> int:
    """The number of files of rows of a shard that are not in the work directory yet."""
    return len(_units(conditions, seeds, shard, results.completed_seeds(workdir)))


def _units(
    conditions: int, seeds: Sequence[int], shard: tuple[int, int], done: Mapping[str, Set[int]]
) -> list[tuple[int, tuple[int, ...], str]]:
    """Condition, seeds and name of each part of rows that is not done; every n-th of all parts for one of n shards."""
    starts = range(0, len(seeds), _SEEDS)
    every = [(number, seeds[start : start + _SEEDS]) for number in range(conditions) for start in starts]
    units = []
    for number, batch in every[shard[0] :: shard[1]]:
        name = f"condition{number:03d}"
        if left := tuple(seed for seed in batch if seed not in done.get(name, ())):
            units.append((number, left, f"{name}-seed{left[0]:04d}-{left[-1]:04d}"))
    return units


def check(conditions: Sequence[Condition], grids: Sequence[Grid]) -> None:
    """Raise `ConfigError` for a condition that Theorem 1 says nothing about."""
    for condition, grid in zip(conditions, grids, strict=True):
        _check(condition, grid)


def _check(condition: Condition, grid: Grid) -> None:
    recipe, knobs = condition.student
    if recipe.teacher != recipe.net:
        raise ConfigError("config.student.hidden: theorem1 needs students of the teacher's architecture")
    if getattr(recipe.net, "dtype", "float32") != "float32":
        raise ConfigError("config.net.dtype: must be float32 for theorem1, which computes in float64")
    if any(float(rate) != 1 for rate in knobs.trainable.values()):
        raise ConfigError("config.student.frozen: must be () for theorem1; its student moves every layer")
    noises = [sigma for each in (knobs, condition.teacher.knobs) for sigma in (each.init_noise, each.final_noise)]
    if recipe.init_transform is not None or any(float(sigma) for noise in noises for sigma in noise.values()):
        raise ConfigError("config.student.rotated, config.perturb: must be empty for theorem1")
    if recipe.gradient_transform is not None or recipe.target_transform is not None:
        raise ConfigError("config.student: cut, guard, mixed, target_noise and levels must be empty or 0 for theorem1")
    if {float(share) for share in knobs.share.values()} not in ({0}, {1}):
        raise ConfigError("config.conditions: theorem1 knows same and random, all layers shared or none, and no share")
    if grid.samples and (recipe.loss is not losses.kl or recipe.eval_steps != (1,) or float(knobs.temperature) != 1):
        raise ConfigError(
            f"config.theorem1.samples={grid.samples}: needs config.student.loss='kl', steps=1, eval_steps=() and "
            "temperature=1.0"
        )


def _call(condition: Condition, grid: Grid, seeds: int, images: ImageData) -> Call:
    """The measurement of a condition, with predicted times on 2 CPU cores."""
    student, image = condition.student.recipe, images.x.shape[1:]
    steps = len(grid.eps) * student.eval_steps[-1]
    macs = steps * step_macs(student, 1, image) + step_macs(condition.teacher.recipe, 1, image)
    program = (student, condition.teacher.recipe, grid, seeds)
    return Call("students", seeds * macs / _MACS_PER_SECOND, program, _COMPILE)


def _rows(condition: Condition, grid: Grid, images: ImageData, root: Any, seeds: tuple[int, ...]) -> pa.Table:
    """The rows of one condition and some seeds at every evaluation step."""
    shared = all(float(share) == 1 for share in condition.student.knobs.share.values())
    seed_keys = population.keys_by_phase(root, np.asarray(seeds))
    phase_keys = [seed_keys[phase] for phase in (keys.TEACHER, keys.STUDENT)]
    measured = jax.device_get(measure(condition.teacher, condition.student, grid, shared, phase_keys, images))
    labels = [{**condition.labels, "eps": eps, "alpha": alpha} for eps in grid.eps for alpha in grid.alpha]
    tables = []
    for index, step in enumerate(condition.student.recipe.eval_steps):
        # [seed, eps, step, alpha] as [seed, (eps, alpha)]
        at_step = {name: values[:, :, index].reshape(len(seeds), -1) for name, values in measured.items()}
        tables.append(results.tidy(labels, seeds, step, at_step))
    return pa.concat_tables(tables)
