"""A progress bar, and the seconds and net-steps of a run."""

import functools
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_listening: list["Progress"] = []


class Progress:
    """A progress bar with the time left, and seconds by kind of work.

    A terminal or a notebook with ipywidgets shows a bar; elsewhere a line is printed at every tenth. `show=False`
    prints nothing.

    Attributes:
        seconds: Wall time by kind of work; compilation is under `compile` and in no other.
        steps: Net-steps by kind of work, without those read back.
        programs: Number of compiled programs.
    """

    def __init__(self, show: bool = True) -> None:
        self.seconds: dict[str, float] = {"compile": 0.0}
        self.steps: dict[str, int] = {}
        self.programs = 0
        self._console = Console()
        widgets = self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        self._live = show and (self._console.is_terminal or widgets)
        self._lines = show and not self._live
        self._tenth = 0
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Bar(*columns, *times, console=self._console, disable=not self._live)
        self._task: Any = None

    @contextmanager
    def over(self, total: float, what: str) -> Iterator["Progress"]:
        """Show progress over `total` units of work called `what`."""
        self._tenth = 0
        _listen_to_jax()
        _listening.append(self)
        try:
            with self._bar:
                self._bar.add_task(what, total=total)
                self._task = self._bar.tasks[-1]
                yield self
        finally:
            _listening.remove(self)

    def advance(self, amount: float) -> None:
        """Count units of work as done."""
        self._bar.update(self._task.id, advance=amount)
        tenth = int(self._task.percentage / 10)
        if self._lines and tenth > self._tenth:
            self._tenth = tenth
            seconds = self._task.elapsed
            left = seconds * (self._task.total / self._task.completed - 1)
            print(f"{10 * tenth:3d} % after {seconds:.0f} s, about {left:.0f} s left", flush=True)

    def skip(self, amount: float) -> None:
        """Take units of work off the total, because they are done already."""
        self._bar.update(self._task.id, total=self._task.total - amount)

    def count(self, name: str, steps: int) -> None:
        """Count net-steps."""
        self.steps[name] = self.steps.get(name, 0) + steps

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the wall seconds of the body under `name`, without compilation."""
        start, compiled = time.perf_counter(), self.seconds["compile"]
        try:
            yield
        finally:
            spent = time.perf_counter() - start - (self.seconds["compile"] - compiled)
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


def _listen(event: str, duration: float, /, **_: Any) -> None:
    # Not the time to trace: that event is nested in itself on JAX 0.7, and would count twice.
    if event.endswith(("backend_compile_duration", "jaxpr_to_mlir_module_duration")):
        for progress in _listening:
            progress.seconds["compile"] += duration
            progress.programs += event.endswith("backend_compile_duration")


@functools.cache
def _listen_to_jax() -> None:
    listener: Any = _listen
    jax.monitoring.register_event_duration_secs_listener(listener)
