"""Several processes, several jobs: who am I, and is everybody done?"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition
from sublim_jax.engine import schedule
from sublim_jax.engine.plan import Plan, make_plan

_EACH = 2.0  # seconds between two looks into the work folder
_GRACE = 20.0  # seconds that an interrupted process 0 leaves the others


def parse_shard(text: str) -> tuple[int, int]:
    """'i/n' as (i, n); raises `ConfigError` where that is no i-th of n parts counted from 0."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    return _checked((int(found[1]), int(found[2])) if found else (0, 0), repr(text))


def _checked(shard: tuple[int, int], told: str) -> tuple[int, int]:
    index, number = shard
    if not 0 <= index < number:
        raise ConfigError(f"shard={told}: must be i/n with 0 <= i < n, for instance 0/4 to 3/4")
    return shard


def initialize(how: str) -> None:
    """Make this process one of several that JAX knows of. To be called before anything else of JAX.

    how  '' for a process alone; 'auto' where JAX finds out by itself (TPU pods, SLURM steps, Kubernetes, Open MPI);
         'HOST:PORT,i/n' for the i-th of n processes, of which the 0-th listens at that address

    Processes wait for each other only here. One that dies may be started again while the others go on, but for the
    0-th, without which the others end; they go on from what they saved. Raises `ConfigError` where they do not meet.
    """
    if not how:
        return
    address: dict[str, str | int] = {}
    if how != "auto":
        place, comma, part = how.partition(",")
        if not comma or not re.fullmatch(r".+:\d+", place):
            raise ConfigError(f"distributed={how!r}: must be auto, or HOST:PORT,i/n, for instance 10.0.0.1:1234,0/2")
        index, number = parse_shard(part)
        address = {"coordinator_address": place, "process_id": index, "num_processes": number}
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(**address)  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"distributed={how!r}: {' '.join(str(error).split())[:200]}") from error


def rows_left(
    conditions: Sequence[Condition] | Plan,
    seeds: Sequence[int],
    image: tuple[int, ...],
    workdir: str | Path,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """The number of rows of a shard (of all its processes) that are not in the work directory yet."""
    plan, done, left = make_plan(conditions, image), results.completed(workdir), 0
    for group, own in zip(plan.groups, schedule.assign_shards(plan, seeds, image, shard), strict=True):
        wanted = ((frozenset(labels.items()), step) for labels in group.labels for step in group.recipe.eval_steps)
        left += sum(len(set(own) - done.get(key, set())) for key in wanted)
    return left


def leave(code: int) -> None:
    """End one of several processes here and now; process 0 gives the others a moment to save and do the same.

    Without this JAX ends whoever leaves after process 0 with an error of its own.
    """
    if not jax.distributed.is_initialized():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_GRACE if code else _EACH)
    os._exit(code)


def wait_for_others(left: Callable[[], int], stopped: Callable[[], bool]) -> None:
    """Keep the 0-th of several processes alive until nothing is left; the others need it as their meeting point.

    Raises KeyboardInterrupt where it is asked to stop before.
    """
    if jax.process_count() == 1 or jax.process_index():
        return
    said = False
    while left():
        if stopped():
            raise KeyboardInterrupt
        if not said:
            print("waiting for the other processes", flush=True)
        said = True
        time.sleep(_EACH)


def process_shard(shard: tuple[int, int], resume: str, workdir: Any) -> tuple[int, int]:
    """The part of the work this process does: its part, if there are several, of the shard asked for."""
    index, number = _checked(shard, "{}/{}".format(*shard))
    index, number = index * jax.process_count() + jax.process_index(), number * jax.process_count()
    if number > 1 and workdir is None:
        raise ConfigError(f"shard={index}/{number}: needs a workdir, where all parts come together")
    if number > 1 and resume != "auto":
        raise ConfigError(f"resume={resume!r}: must be auto where several jobs share a work folder")
    return index, number
