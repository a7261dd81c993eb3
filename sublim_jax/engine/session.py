"""What every study does around its work: check arguments, open the work directory, record how the run went."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import distributed
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.progress import Progress


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds as a tuple; a number n stands for 0, ..., n - 1.

    Raises:
        ConfigError: There is no seed, or one is negative or given twice.
    """
    checked = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not checked or min(checked) < 0 or len(set(checked)) != len(checked):
        raise ConfigError(f"seeds={checked}: must be at least one, distinct and not negative")
    return checked


@dataclasses.dataclass(kw_only=True)
class Session:
    """One run of a study in one work directory.

    Attributes:
        seeds: Seeds of the whole study, not of one shard; see `check_seeds`.
        identity: Returns plain values that decide the results; called only where a work directory is given.
        workdir: Directory of rows and checkpoints; None = a temporary one.
        resume: 'auto', 'never' or 'overwrite'; see `results.Workdir`.
        options: How the study is computed.
        progress: Progress bar and timers.
        stopped: Called between compiled calls; the run saves and stops when it returns True.
        metadata: Plain values stored with the rows.
        shard: (i, n) as given; afterwards the share of this process.
        trains_students: Whether the study has students whose parameters can be kept.
        devices: Number of local devices in use; computed.

    Raises:
        ConfigError: A value cannot be used on this machine or by this study.
    """

    seeds: tuple[int, ...]
    identity: Callable[[], Mapping[str, Any]]
    workdir: str | Path | None = None
    resume: str = "auto"
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    progress: Progress = dataclasses.field(default_factory=Progress)
    stopped: Callable[[], bool] = lambda: False
    metadata: Mapping[str, Any] | None = None
    shard: tuple[int, int] = (0, 1)
    trains_students: bool = False
    devices: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        local, asked = jax.local_device_count(), self.options.devices
        if not 0 <= asked <= local:
            raise ConfigError(f"config.run.devices={asked}: must be at most {local}, the devices here, or 0 for all")
        if self.options.keep_params and not self.trains_students:
            raise ConfigError("config.run.keep_params=True: must be False; only the study transfer keeps parameters")
        self.devices = asked or local
        self.shard = distributed.process_shard(self.shard, self.resume, self.workdir)

    @contextmanager
    def open(self) -> Iterator[results.Workdir]:
        """Open the work directory and set the precision of matrix products while it is open.

        Raises:
            ConfigError: The directory cannot be used, or belongs to another config.
        """
        with ExitStack() as stack:
            stack.enter_context(jax.default_matmul_precision(self.options.precision))
            if self.workdir is None:
                yield results.Workdir(stack.enter_context(tempfile.TemporaryDirectory()), {})
            else:
                yield results.Workdir(self.workdir, self.identity(), self.resume)

    @contextmanager
    def record(self, workdir: results.Workdir, total: float, what: str, devices: int = 1) -> Iterator[None]:
        """Show progress over `total` units of work, and store when the run began, how it ended and what it took."""
        workdir.begin(devices=[str(device) for device in jax.local_devices()[:devices]], **(self.metadata or {}))
        start, status, progress = time.perf_counter(), "failed", self.progress
        try:
            with progress.over(total, what):
                yield
            status = "done"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            seconds = {"total": time.perf_counter() - start, **progress.seconds}
            workdir.finish(status=status, seconds=seconds, steps=progress.steps, programs=progress.programs)

    def stop_if_asked(self) -> None:
        """Raises `Interrupted` where the run was asked to stop."""
        if self.stopped():
            raise Interrupted
