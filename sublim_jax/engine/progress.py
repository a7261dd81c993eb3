"""What a run is doing, how much of it is left, and the seconds and net-steps that it took."""

import functools
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

_listening: list["Progress"] = []
_compiled: set[Hashable] = set()  # programs that this process has
_beside = threading.local()  # whether a thread compiles beside the run
COMPILING = "compile"
_REFRESH = 0.5  # seconds between two looks at a terminal
_LINES_EVERY = 12.0  # seconds between two lines elsewhere
_WORDS = {"bases": "base models", "lessons": "teachers"}  # phases in words, where the name of their seconds differs
_NEW_PHASE = 1.0  # the same where the phase is new
_SHORT = 0.02  # seconds to trace an operation outside of planned programs
_CLOSED = (OSError, ValueError, AttributeError)  # what a stream raises that is closed, full or not there


class Call(NamedTuple):
    """A part of a run: one call of a compiled program, or a few that belong together.

    Attributes:
        phase: What is done, for instance `students`.
        seconds: Predicted time on 2 CPU cores, without compilation.
        program: What is compiled at its first call in a process; None = nothing.
        compiling: Predicted seconds of compilation.
        programs: Number of programs that are compiled.
    """

    phase: str
    seconds: float
    program: Hashable = None
    compiling: float = 0.0
    programs: int = 1


class Forecast:
    """The time that is left of planned calls, from their predictions and from what earlier calls took.

    For each phase, and for compilation, predictions are multiplied by the ratio of measured to predicted seconds so
    far. A phase that has not begun takes the ratio of the others.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        self.left: dict[str, float] = {}
        self.to_compile: dict[Hashable, Call] = {}
        for call in calls:
            self.left[call.phase] = self.left.get(call.phase, 0.0) + call.seconds
            if call.program is not None and call.program not in _compiled:
                self.to_compile.setdefault(call.program, call)
        compiling = sum((call.compiling for call in self.to_compile.values()), 0.0)
        # A prediction weighs as much as a thirtieth of its phase, at most as one second of measurement.
        totals = {**self.left, COMPILING: compiling, "": sum(self.left.values(), 0.0)}
        self._weights = {kind: min(1.0, 0.03 * total + 0.01) for kind, total in totals.items()}
        self._weights[""] = min(5.0, 0.3 * totals[""] + 0.01)  # other phases say less about a phase than its own calls
        self.planned = bool(self.left)
        self._busy = _busy() if self.planned else 1.0
        self._predicted: dict[str, float] = {}
        self._measured: dict[str, float] = {}
        self.warm = False  # whether programs are read from a cache rather than compiled
        self.programs = sum(call.programs for call in self.to_compile.values())

    def is_new(self, call: Call) -> bool:
        """Whether the call compiles its program."""
        return call.program in self.to_compile

    def compile_seconds(self, call: Call) -> float:
        """Predicted seconds until the programs of a call are there; reading them from a cache takes a tracing."""
        return min(call.compiling, 0.25 * call.programs + 0.15 * call.compiling) if self.warm else call.compiling

    def drop(self, call: Call) -> None:
        """Take a call off what is left."""
        self.left[call.phase] = max(0.0, self.left.get(call.phase, 0.0) - call.seconds)
        self.to_compile.pop(call.program, None)

    def learn(self, kind: str, predicted: float, measured: float) -> None:
        """Add the predicted and the measured seconds of a call of a phase, or of compilation."""
        self._predicted[kind] = self._predicted.get(kind, 0.0) + predicted
        self._measured[kind] = self._measured.get(kind, 0.0) + measured

    def ratio(self, kind: str, predicted: float = 0.0, measured: float = 0.0) -> float:
        """Measured over predicted seconds of a kind, with those of a call that has not ended."""
        if kind == COMPILING:
            prior = self._busy
        elif kind:
            prior = self.ratio("")
        else:  # a slow machine is slow at everything, but a fast compilation may only have been read from a cache
            prior = max(self._busy, self.ratio(COMPILING))
        kinds = [kind] if kind else [name for name in self._predicted if name != COMPILING]
        weight = self._weights.get(kind, 0.02)
        measured += weight * prior + sum(self._measured.get(name, 0.0) for name in kinds)
        return measured / (weight + predicted + sum(self._predicted.get(name, 0.0) for name in kinds))

    def remaining(
        self, kind: str = "", predicted: float = 0.0, elapsed: float = 0.0, later: Call | None = None
    ) -> float:
        """The seconds left.

        Args:
            kind: Kind of the running call, a phase or compilation; '' = none runs.
            predicted: Its predicted seconds.
            elapsed: Seconds since it began.
            later: The call itself where its program is still compiled.
        """
        own = self.ratio(kind) * predicted if kind else 0.0
        late = (predicted, elapsed) if elapsed > own else (0.0, 0.0)
        ratios = {name: self.ratio(name, *(late if name == kind else (0.0, 0.0))) for name in (*self.left, COMPILING)}
        left = sum((ratios[name] * seconds for name, seconds in self.left.items()), 0.0)
        left += ratios[COMPILING] * sum(map(self.compile_seconds, list(self.to_compile.values())))
        if later is not None:
            left += self.ratio(later.phase) * later.seconds
        return left + (max(own - elapsed, 0.15 * elapsed) if kind else 0.0)


def _busy() -> float:
    """How many processes want each processor, at least one; with as many a run takes that much longer."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1.0, load / (os.cpu_count() or 1))


class Progress:
    """Shows the phase, the fraction done and the time left, and counts seconds by kind of work.

    A terminal or a notebook with ipywidgets shows a bar; elsewhere a line is printed where a phase is new, and now and
    then. `show=False` prints nothing. A stream that cannot be written to ends the display and not the run.

    Attributes:
        seconds: Wall time by kind of work; compilation, or waiting for it, is under `compile` and in no other.
        steps: Net-steps by kind of work, without those read back.
        programs: Number of compiled programs.
        subject: What is trained or measured, for instance a condition; shown behind the phase.
        await_program: Waits until the program of a call is compiled by other threads and returns whether it is; None =
            each call compiles its own.
    """

    def __init__(self, show: bool = True) -> None:
        self.seconds: dict[str, float] = {COMPILING: 0.0}
        self.steps: dict[str, int] = {}
        self.programs = 0
        self.subject = ""
        self.await_program: Callable[[Hashable], bool] | None = None
        self._console = Console()
        widgets = self._console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
        self._show, self._bar = show, self._console.is_terminal or widgets
        self._lock = threading.RLock()
        self._lines: list[tuple[float, str]] = []  # time and phase of each printed line
        self._plan(())

    def _plan(self, calls: Iterable[Call], text: str = "") -> None:
        self._forecast, self._call, self._text, self._number, self._done = Forecast(calls), None, text, 0, False
        self._start = self._call_start = time.perf_counter()
        self._wait_for = self._events = 0  # number of programs that the running call compiles, and number compiled
        self._traced = 0.0  # seconds to trace the next program
        self._spent = self._saved = 0.0  # seconds of compilation, and seconds that a cache saved
        self._spans: list[tuple[float, float]] = []  # when the running call traced and compiled

    @contextmanager
    def over(self, calls: Iterable[Call], text: str = "preparing") -> Iterator["Progress"]:
        """Show progress over planned calls; `text` names what is done where no call runs."""
        self._plan(calls, text)
        _listening.append(self)
        try:
            with self._display():
                _listen_to_jax()
                yield self
                self._done = True
        finally:
            _listening.remove(self)

    @contextmanager
    def call(self, call: Call) -> Iterator[None]:
        """Do a planned call in the body."""
        with self._lock:
            self._wait_for = call.programs if self._forecast.is_new(call) else 0
            self._forecast.drop(call)
            self._events, self._spans, self._call_start = 0, [], time.perf_counter()
            self._call, self._text = call, self._in_words(call)
        try:
            with self.timed(call.phase):
                self._await(call)
                yield
        finally:
            with self._lock:
                spent, compiling = time.perf_counter() - self._call_start, self._compiling_seconds()
                if self._wait_for:
                    self._forecast.learn(COMPILING, self._forecast.compile_seconds(call), compiling)
                    _compiled.add(call.program)
                self._forecast.learn(call.phase, call.seconds, spent - compiling)
                self._number, self._wait_for, self._call = self._number + self._wait_for, 0, None

    def _in_words(self, call: Call) -> str:
        """The phase of a call and its subject, which may change while it runs."""
        phase = _WORDS.get(call.phase, call.phase)
        return f"{phase} of {self.subject}" if self.subject else phase

    def _await(self, call: Call) -> None:
        """Wait for the call's program where other threads compile it; the run compiles while it waits."""
        if self.await_program is None:
            return
        start = time.perf_counter()
        ready = self.await_program(call.program)
        with self._lock:
            self.hear("waited", time.perf_counter() - start)
            if ready:
                self._events = self._wait_for

    def skip(self, call: Call) -> None:
        """Take a call off what is left, because it is done already."""
        with self._lock:
            self._forecast.drop(call)

    def count(self, name: str, steps: int) -> None:
        """Count net-steps."""
        self.steps[name] = self.steps.get(name, 0) + steps

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the wall seconds of the body under `name`, without compilation."""
        start, compiled = time.perf_counter(), self.seconds[COMPILING]
        try:
            yield
        finally:
            spent = time.perf_counter() - start - (self.seconds[COMPILING] - compiled)
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def state(self) -> tuple[str, float, float]:
        """The phase in words, the seconds since the start and the predicted seconds that are left."""
        with self._lock:
            now = time.perf_counter()
            if self._done or self._call is None:
                return self._text, now - self._start, 0.0 if self._done else self._forecast.remaining()
            elapsed, what = now - self._call_start, self._in_words(self._call)
            if self._events < self._wait_for:
                number = self._number + self._events + 1
                text = f"compiling {number}/{self._forecast.programs} ({what})"
                compiling = self._forecast.compile_seconds(self._call)
                left = self._forecast.remaining(COMPILING, compiling, elapsed, self._call)
            else:
                text, elapsed = what, elapsed - self._compiling_seconds()
                left = self._forecast.remaining(self._call.phase, self._call.seconds, elapsed)
            return text, now - self._start, left

    def _compiling_seconds(self) -> float:
        return sum((end - start for start, end in self._spans), 0.0)

    def hear(self, event: str, duration: float, beside: bool = False) -> None:
        """Count an event that has just ended; an event may contain earlier ones.

        Args:
            event: Its name in JAX.
            duration: Its seconds.
            beside: It happened beside the run, in a thread that compiles ahead, and takes none of the run's time.
        """
        with self._lock:
            if event.endswith(_SAVED):
                self._saved += duration
                return
            compiled = event.endswith("backend_compile_duration")
            if compiled:
                self.programs += 1
                self._spent += duration
                self._forecast.warm = self._saved > self._spent
            if beside:
                return
            end = time.perf_counter()
            while self._spans and self._spans[-1][0] >= end - duration:
                self._spans.pop()
            self._spans.append((end - duration, end))
            if compiled:
                self._events += self._traced > _SHORT
                self._traced = 0.0
            # Not the time to trace: that event is nested in itself on JAX 0.7, and would count twice.
            if event.endswith("jaxpr_trace_duration"):
                self._traced = max(self._traced, duration)
            else:
                self.seconds[COMPILING] += duration

    @contextmanager
    def _display(self) -> Iterator[None]:
        """Show the state in a thread, because a call may take minutes."""
        if not self._show:
            yield
            return
        ended, live = threading.Event(), None
        if self._bar:
            live = Live(console=self._console, auto_refresh=False, get_renderable=self._renderable)
        thread = threading.Thread(target=self._refresh, args=(ended, live), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _refresh(self, ended: threading.Event, live: Live | None) -> None:
        with suppress(*_CLOSED):
            if live is None:
                while not ended.wait(_REFRESH):
                    self._print_line()
                if self._done and self._forecast.planned:
                    _print(f"100 % after {self.state()[1]:.0f} s")
            else:
                with live:
                    while not ended.wait(_REFRESH):
                        live.refresh()

    def _renderable(self) -> Table:
        text, elapsed, left = self.state()
        first, bar = Column(ratio=1, no_wrap=True, overflow="ellipsis"), Column(width=24)
        grid = Table.grid(first, bar, Column(no_wrap=True), Column(no_wrap=True), padding=(0, 1))
        grid.expand = True
        if not self._forecast.planned:
            grid.add_row(text, ProgressBar(pulse=True, width=24), "", _clock(elapsed))
            return grid
        share, times = _share(elapsed, left), f"{_clock(elapsed)}, {_clock(left)} left"
        grid.add_row(text, ProgressBar(1.0, share, width=24), f"{100 * share:3.0f} %", times)
        return grid

    def _print_line(self) -> None:
        """Print a line if the phase is new, or the last line is old."""
        text, elapsed, left = self.state()
        phase, last = text.split()[0], self._lines[-1][0] if self._lines else -_LINES_EVERY
        new = phase not in [shown for _, shown in self._lines]
        if elapsed - last >= (_NEW_PHASE if new else max(_LINES_EVERY, elapsed / 20)):
            self._lines.append((elapsed, phase))
            times = f"{100 * _share(elapsed, left):3.0f} % after {elapsed:.0f} s, about {left:.0f} s left: "
            _print(f"{times if self._forecast.planned else ''}{text}")


def _share(elapsed: float, left: float) -> float:
    return elapsed / max(elapsed + left, 1e-9)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _print(line: str) -> None:
    """Print a line; signs that the stream does not know are replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(line.encode(encoding, "replace").decode(encoding), flush=True)


_SAVED = "compile_time_saved_sec"
_EVENTS = "jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration", _SAVED


def _listen(event: str, duration: float, /, **_: Any) -> None:
    if event.endswith(_EVENTS):
        for progress in _listening:
            progress.hear(event, duration, getattr(_beside, "marked", False))


def mark_beside() -> None:
    """Say that the current thread compiles beside the run: its programs count, and its seconds do not."""
    _beside.marked = True


@functools.cache
def _listen_to_jax() -> None:
    import jax  # takes a second, while which the first line of a run is printed

    listener: Any = _listen
    jax.monitoring.register_event_duration_secs_listener(listener)
