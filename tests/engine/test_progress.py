"""The display of a run: phases in words, predictions that end right, and streams that cannot be written to."""

import io
import random
import re
import sys
import threading
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest

from sublim_jax.engine import progress as progress_module
from sublim_jax.engine.progress import COMPILING, Call, Forecast, Progress


class Terminal(io.StringIO):
    """A terminal that keeps when it was written to."""

    encoding = "utf-8"

    def __init__(self):
        super().__init__()
        self.times = []

    def isatty(self):
        return True

    def write(self, text):
        self.times.append(time.perf_counter())
        return super().write(text)


class Broken(io.StringIO):
    encoding = "ascii"

    def write(self, text):
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    monkeypatch.setattr(progress_module, "_busy", lambda: 1.0)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress_module, "_REFRESH", 0.02)


def simulated(calls, slow, slow_compiling, seed):
    """Predicted over true total time at each call, of a run whose phases are slower than predicted by some factors."""
    draw, forecast, known, clock, predictions = random.Random(seed), Forecast(calls), set(), 0.0, []
    for call in calls:
        forecast.drop(call)
        if call.program not in known and not known.add(call.program):
            spent = call.compiling * slow_compiling * draw.uniform(0.8, 1.25)
            for part in (0.25, 0.75):
                now = clock + part * spent
                left = forecast.remaining(COMPILING, call.compiling, part * spent, call)
                predictions.append((now, now + left))
            forecast.learn(COMPILING, call.compiling, spent)
            clock += spent
        spent = call.seconds * slow * draw.uniform(0.8, 1.25)
        predictions.append((clock, clock + forecast.remaining(call.phase, call.seconds, 0.0)))
        clock += spent
        forecast.learn(call.phase, call.seconds, spent)
    assert forecast.remaining() == pytest.approx(0.0, abs=1e-9)
    return [predicted / clock for now, predicted in predictions if now > 0.2 * clock]


def test_forecast_is_within_half_from_a_fifth_of_the_run_on():
    some = [Call("teachers", 1.0, "t", 1.0), *[Call("students", 0.5, "s", 1.0), Call("measuring", 0.1, "m", 5.0)] * 12]
    many = [Call("students", 0.02, f"s{n // 5}", 0.6) for n in range(50)]
    for calls in (some, many):
        for slow, slow_compiling in ((1, 1), (5, 5), (1, 0.1), (4, 3), (0.5, 0.7), (1.5, 1)):
            for seed in range(4):
                ratios = simulated(calls, slow, slow_compiling, seed)
                assert min(ratios) > 1 / 1.5 and max(ratios) < 1.5, (slow, slow_compiling, ratios)


def test_forecast_drops_what_is_skipped():
    call = Call("students", 10.0, "program", 5.0)
    forecast = Forecast([call, call])
    assert forecast.remaining() == pytest.approx(25.0) and forecast.programs == 1
    forecast.drop(call)
    assert forecast.remaining() == pytest.approx(10.0)
    forecast.drop(call)
    forecast.drop(call)
    assert forecast.remaining() == 0.0


def test_forecast_grows_while_a_call_takes_longer_than_predicted():
    call = Call("students", 1.0)
    forecast = Forecast([call] * 10)
    forecast.drop(call)
    left = [forecast.remaining("students", 1.0, elapsed) for elapsed in (0.0, 0.5, 5.0, 50.0)]
    assert left[1] < left[0] < left[2] < left[3]
    assert left[3] > 9 * 20, "the other calls take as long"


def phases(calls, work=time.sleep):
    progress = Progress()
    with progress.over(calls):
        for call in calls:
            progress.subject = "same (1/2)" if call.phase == "students" else ""
            with progress.call(call):
                work(0.15)
    return progress


def test_progress_prints_lines_where_there_is_no_terminal(at_once, monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "_NEW_PHASE", 0.0)
    phases([Call("teachers", 0.1), Call("students", 0.1, object(), 0.1), Call("measuring", 0.1)])
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r" *\d+ % after \d+ s(, about \d+ s left: .+)?", line) for line in lines), lines
    text = "\n".join(lines)
    assert "left: teachers" in text and "compiling 1/1 (students of same (1/2))" in text and "left: measuring" in text
    assert lines[-1].startswith("100 % after")


def test_progress_prints_few_lines_in_a_log(at_once, capsys):
    calls = [Call("students", 0.15), Call("measuring", 0.15)] * 8
    phases(calls)
    assert len(capsys.readouterr().out.splitlines()) <= 4, "a new phase, and the end"


def test_progress_names_compiling_until_the_program_is_there(at_once):
    def traced(x):
        time.sleep(0.05)
        return jnp.tanh(x)

    program, seen = object(), []
    call = Call("students", 0.1, program, 0.1)
    progress = Progress(show=False)
    with progress.over([call, call]):
        for number in (3.0, 4.0):
            with progress.call(call):
                jax.block_until_ready(jnp.ones(3) * number)  # an operation of its own
                seen.append(progress.state()[0])
                jax.jit(lambda x: traced(x) * number)(jnp.float32(2)).block_until_ready()  # noqa: B023
                seen.append(progress.state()[0])
    assert seen == ["compiling 1/1 (students)", "students", "students", "students"]
    assert progress.programs >= 1 and progress.seconds["compile"] > 0


def test_progress_counts_the_wait_for_a_program_as_compiling_and_its_events_once(at_once):
    progress, program, call, seen = Progress(show=False), object(), Call("students", 0.1, "ahead", 0.1), []

    def compile_beside():
        progress_module.mark_beside()
        jax.jit(lambda x: jnp.cos(x) * 3.5 + id(program) % 7)(jnp.float32(2)).block_until_ready()

    def await_program(name):
        seen.append((name, progress.state()[0]))
        thread = threading.Thread(target=compile_beside)
        thread.start()
        thread.join()
        time.sleep(0.2)
        return True

    jax.block_until_ready(jnp.float32(2))
    with progress.over([call]):
        progress.await_program = await_program
        with progress.call(call):
            seen.append(progress.state()[0])
            time.sleep(0.1)
    assert seen == [("ahead", "compiling 1/1 (students)"), "students"]
    assert progress.seconds["compile"] >= 0.2 and 0.1 <= progress.seconds["students"] < 0.15
    assert progress.programs >= 1
    start = progress.seconds["compile"], progress.programs
    progress.hear("backend_compile_duration", 5.0, beside=True)
    assert (progress.seconds["compile"], progress.programs) == (start[0], start[1] + 1)


def test_progress_updates_a_terminal_at_least_every_two_seconds(monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    calls = [Call("teachers", 1.0), Call("students", 1.0, object(), 1.0)]
    progress = Progress()
    with progress.over(calls):
        for call in calls:
            progress.subject = "condition same (1/7)" if call.phase == "students" else ""
            with progress.call(call):
                # Work that holds the interpreter's lock, as tracing does.
                end = time.perf_counter() + 1.3
                while time.perf_counter() < end:
                    sum(range(1000))
    gaps = [after - before for before, after in pairwise(terminal.times)]
    assert max(gaps) < 2.0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "teachers" in text and "compiling 1/1 (students of condition same" in text and "0:02 left" in text
    assert "100 %" in text


@pytest.mark.parametrize("stream", [None, "closed", "broken", "ascii"])
def test_progress_never_ends_a_run_whose_output_cannot_be_written(stream, at_once, monkeypatch):
    raw = io.BytesIO()
    streams = {"closed": io.StringIO(), "broken": Broken(), "ascii": io.TextIOWrapper(raw, encoding="ascii")}
    streams["closed"].close()
    monkeypatch.setattr(sys, "stdout", streams.get(stream))
    progress = Progress()
    call = Call("students", 0.1)
    with progress.over([call]):
        progress.subject = "condition naïve → β"
        with progress.call(call):
            time.sleep(0.1)
    assert progress.seconds["students"] >= 0.1
    if stream == "ascii":
        assert b"condition na?ve ? ?" in raw.getvalue() and b"100 % after" in raw.getvalue()


def test_progress_that_is_not_shown_prints_nothing(capsys):
    progress = Progress(show=False)
    with progress.over([Call("students", 0.1)]), progress.call(Call("students", 0.1)):
        pass
    assert capsys.readouterr() == ("", "")
