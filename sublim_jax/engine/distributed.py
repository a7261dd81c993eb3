"""Several processes and jobs: which part of the work is this process's, and are the others done?"""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition
from sublim_jax.engine import schedule
from sublim_jax.engine.options import check_shard, parse_cluster
from sublim_jax.engine.plan import Plan, make_plan

_JOIN = 300  # seconds that a process waits for the others to begin
# How processes are started on a cluster, and the variables that they get: two of the job, then numbers.
_CLUSTERS = {
    "SLURM": (
        "srun",
        ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ),
    "Open MPI": (
        "mpirun",
        (
            "OMPI_MCA_orte_hnp_uri",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ),
    ),
    "a TPU pod": ("the TPU runtime", ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")),
}
_EACH = 2.0  # seconds between two looks into the work folder
_GRACE = 20.0  # seconds that an interrupted process 0 leaves the others


def _partly_set(environment: Mapping[str, str]) -> str:
    """What is wrong with the variables of a cluster of which only some are set, or hold no numbers; empty if nothing.

    Where JAX misses one it believes that there is no cluster, or fails with the name of its own argument.
    """
    wrong = ""
    for cluster, (start, names) in _CLUSTERS.items():
        missing = [name for name in names if not environment.get(name)]
        if environment.get("TPU_PROCESS_ADDRESSES"):  # JAX takes these instead
            missing = [name for name in missing if name != "TPU_WORKER_HOSTNAMES"]
        bad = [name for name in names[2:] if not missing and not environment[name].isdecimal()]
        if not missing and not bad:
            return ""  # mpirun within a job of SLURM, for instance, sets all of its own
        if bad:
            wrong = wrong or f"{bad[0]}={environment[bad[0]]!r}: must be a whole number, as {start} sets it"
        elif len(missing) < len(names):
            absent = ", ".join(missing)
            wrong = wrong or f"of the variables of {cluster} {absent} are not set; start every process with {start}"
    return wrong


def initialize(cluster: str) -> None:
    """Make this process one of several that JAX knows of; call it before anything else of JAX.

    Processes wait for each other only here. A process that died may be started again while the others continue,
    except process 0, without which the others end.

    Args:
        cluster: '' for a single process; 'auto' where JAX detects the cluster (TPU pods, SLURM steps, Kubernetes,
            Open MPI); 'HOST:PORT,i/n' for process i of n, of which process 0 listens at that address.

    Raises:
        ConfigError: The processes do not find each other.
    """
    if not cluster:
        return
    address = parse_cluster(cluster)
    if cluster == "auto" and (partly := _partly_set(os.environ)):
        raise ConfigError(f"distributed='auto': {partly}")
    place = address.get("coordinator_address", "that the cluster names")
    print(f"waiting at most {_JOIN} s for process 0 at {place} and the others", file=sys.stderr, flush=True)
    if address.get("process_id"):
        _wait_for_answer(address["coordinator_address"])
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(**address, initialization_timeout=_JOIN)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"distributed={cluster!r}: {' '.join(str(error).split())[:200]}") from error


def _wait_for_answer(place: str) -> None:
    """Wait until process 0 listens, because JAX ends a process in which it does not find it with a stack of C++."""
    host, _, port = place.rpartition(":")
    end = time.monotonic() + _JOIN
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > end:
                reason = f"process 0 does not answer at {place} within {_JOIN} s ({error})"
                raise ConfigError(f"distributed={place!r}: {reason}; start it first") from error
        time.sleep(min(1.0, _JOIN / 10))


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
    """End one of several processes at once; process 0 waits until the others had time to save and end.

    Without this, JAX ends every process that leaves after process 0 with an error.
    """
    if not jax.distributed.is_initialized():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(_GRACE if code else _EACH)
    os._exit(code)


def wait_for_others(left: Callable[[], int], stopped: Callable[[], bool]) -> None:
    """Keep process 0 alive until no rows are left, because the others need it as their coordinator.

    Raises:
        KeyboardInterrupt: `stopped` returned True before.
    """
    if jax.process_count() == 1 or jax.process_index():
        return
    if left():
        print("waiting for the other processes", flush=True)
    while left():
        if stopped():
            raise KeyboardInterrupt
        time.sleep(_EACH)


def process_shard(shard: tuple[int, int], resume: str, workdir: Any) -> tuple[int, int]:
    """The shard of this process: its share, if JAX knows of several processes, of the shard asked for."""
    index, number = check_shard(shard, "{}/{}".format(*shard))
    index, number = index * jax.process_count() + jax.process_index(), number * jax.process_count()
    if number > 1 and workdir is None:
        raise ConfigError(f"shard={index}/{number}: needs a workdir, where all parts come together")
    if number > 1 and resume != "auto":
        raise ConfigError(f"resume={resume!r}: must be auto where several jobs share a work folder")
    return index, number
