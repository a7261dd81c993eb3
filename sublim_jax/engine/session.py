"""What every study does around its work: check arguments, open the work directory, record how the run went."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import pandas as pd

from sublim_jax import results
from sublim_jax.core import compiler
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import distributed, trackers
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.progress import Call, Progress
from sublim_jax.results.workdir import refuse_address


def count_devices(asked: int) -> int:
    """The number of local devices in use, where 0 asks for all; raises `ConfigError` where there are fewer."""
    local = jax.local_device_count()
    if not 0 <= asked <= local:
        raise ConfigError(f"config.run.devices={asked}: must be at most {local}, the devices here, or 0 for all")
    return asked or local


@dataclasses.dataclass(kw_only=True)
class Session:
    """One run of a study in one work directory: what all studies take besides what they train and measure.

    Attributes:
        seeds: Seeds of the whole study, not of one shard. Results of a seed do not depend on the other seeds.
        workdir: Directory of rows, checkpoints and teachers; None = a temporary one that is removed.
        config: Plain values that identify the run in the work directory; default: a description of what is trained.
        resume: 'auto' continues an earlier run of the same config, also with more seeds, 'never' refuses a directory
            with results, 'overwrite' replaces them; see `results.Workdir`.
        options: How the study is computed.
        progress: Progress bar and timers; default: a bar on the terminal.
        stopped: Called between compiled calls; when it returns True, the state is saved and `Interrupted` raised.
        metadata: Plain values to store with the rows.
        shard: (i, n): do part i of n; other jobs with the same work directory do the others. Processes that JAX knows
            of divide this part further; afterwards the share of this process.
        tracker: Names of experiment trackers, for instance 'tensorboard,wandb'; see `engine.trackers`.
        devices: Number of local devices in use; computed.

    Raises:
        ConfigError: A value cannot be used on this machine.
    """

    seeds: Sequence[int] = range(4)
    workdir: str | Path | None = None
    config: Mapping[str, Any] | None = None
    resume: str = "auto"
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    progress: Progress = dataclasses.field(default_factory=Progress)
    stopped: Callable[[], bool] = lambda: False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)
    tracker: str | Sequence[str] = ()
    devices: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        compiler.check_derivatives()
        if self.workdir is not None:
            refuse_address(self.workdir)
        self.seeds = tuple(self.seeds)
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}: must be at least one, distinct and not negative")
        self.devices = count_devices(self.options.devices)
        self.tracker = trackers.names_of(self.tracker, self.workdir)
        self.shard = distributed.process_shard(self.shard, self.resume, self.workdir)

    def refuse_keep_params(self) -> None:
        """Raise `ConfigError` where parameters should be kept, for studies that keep none."""
        if self.options.keep_params:
            raise ConfigError("config.run.keep_params=True: must be False; only the study transfer keeps parameters")

    @contextmanager
    def open(self, identity: Callable[[], Mapping[str, Any]]) -> Iterator[results.Workdir]:
        """Open the work directory and set the precision of matrix products while it is open.

        Args:
            identity: Returns the plain values that decide the results; called only where a work directory is given.

        Raises:
            ConfigError: The directory cannot be used, or belongs to another config.
        """
        with ExitStack() as stack:
            stack.enter_context(jax.default_matmul_precision(self.options.precision))
            if self.workdir is None:
                workdir = results.Workdir(stack.enter_context(tempfile.TemporaryDirectory()), {})
            else:
                workdir = results.Workdir(self.workdir, identity(), self.resume, self.shard)
            stack.callback(workdir.close)
            yield workdir

    @contextmanager
    def record(self, workdir: results.Workdir, calls: Iterable[Call], devices: int = 1) -> Iterator[None]:
        """Show progress over planned calls, and store when the run began, how it ended and what it took."""
        workdir.begin(devices=[str(device) for device in jax.local_devices()[:devices]], **self.metadata)
        start, status, progress = time.perf_counter(), "failed", self.progress
        tracked = self._trackers(workdir)
        try:
            with progress.over(calls):
                yield
            tracked.finish(results.load(workdir.path, empty=True) if self.tracker else pd.DataFrame())
            status = "done"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            seconds = {"total": time.perf_counter() - start, **progress.seconds}
            workdir.finish(status=status, seconds=seconds, steps=progress.steps, programs=progress.programs)

    def _trackers(self, workdir: results.Workdir) -> trackers.Trackers:
        """The trackers, which get all rows that are written from now on."""
        index, number = self.shard
        name = workdir.path.resolve().name + (f"-part{index}of{number}" if number > 1 else "")
        config = self.metadata.get("resolved") or self.config or {}
        # Conditions that lack seeds of other parts are logged at the end.
        tracked = trackers.Trackers(self.tracker, name, workdir.path, config, self.seeds)
        workdir.on_write = tracked.add
        return tracked

    def stop_if_asked(self) -> None:
        """Raises `Interrupted` where the run was asked to stop."""
        if self.stopped():
            raise Interrupted
