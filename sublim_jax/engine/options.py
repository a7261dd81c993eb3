"""How a sweep is computed, which part of it, and the exception that ends it early. Imports no JAX."""

import dataclasses
import re
from typing import Any

from sublim_jax.core.errors import ConfigError


class Interrupted(Exception):
    """The run was asked to stop; everything up to the last finished interval is saved."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a sweep is computed. No option changes a draw; only `precision` changes results by more than rounding.

    Attributes:
        seed_batch: Seeds trained at once; 0 = as many as `memory_gb` allows.
        save_every: Steps in one compiled call; after each call the run saves, reports progress and may stop.
        devices: Local devices over which seeds are spread; 0 = all.
        memory_gb: Memory in GB of the process on CPU, or of one device elsewhere, by a generous estimate; a sweep is
            split into parts that fit.
        precision: Precision of float32 matrix products; 'highest' is float32 everywhere, 'high' and 'default' may be
            bfloat16 or TF32 on an accelerator.
        teachers: Directory of trained teachers, shared by all sweeps; '' = the work directory.
        keep_params: Whether the final parameters of every student are stored in the work directory; see
            `engine.params`.
    """

    seed_batch: int = 0
    save_every: int = 100
    devices: int = 0
    memory_gb: float = 4.0
    precision: str = "highest"
    teachers: str = ""
    keep_params: bool = False


def parse_shard(text: str) -> tuple[int, int]:
    """'i/n' as (i, n); raises `ConfigError` unless 0 <= i < n."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    return check_shard((int(match[1]), int(match[2])) if match else (0, 0), repr(text))


def check_shard(shard: tuple[int, int], shown: str) -> tuple[int, int]:
    """Return the shard (i, n); raises `ConfigError` unless 0 <= i < n."""
    index, number = shard
    if not 0 <= index < number:
        raise ConfigError(f"shard={shown}: must be i/n with 0 <= i < n, for instance 0/4 to 3/4")
    return shard


def parse_cluster(cluster: str) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize`; raises `ConfigError` for what is no cluster."""
    if cluster in ("", "auto"):
        return {}
    coordinator, comma, part = cluster.partition(",")
    port = re.fullmatch(r"[^\s:/]+:(\d{1,5})", coordinator)
    if not comma or not port or not 0 < int(port[1]) < 2**16:
        raise ConfigError(f"distributed={cluster!r}: must be auto, or HOST:PORT,i/n, for instance 10.0.0.1:1234,0/2")
    index, number = parse_shard(part)
    return {"coordinator_address": coordinator, "process_id": index, "num_processes": number}
