"""Programs compiled ahead: the run finds them, none is compiled twice, and rows are those of a run without."""

import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import jax
import pandas as pd
import pytest
from helpers.populations import conditions_of, quiet

from sublim_jax import metrics
from sublim_jax.engine import compilation_cache, compile_ahead, schedule
from sublim_jax.engine.compile_ahead import CompileAhead
from sublim_jax.engine.options import Interrupted
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.run import run

PLANNED = {f"jit({name})" for name in ("init_program", "attach_program", "advance", "_prepare", "_measure")}
SMALL = {"net.hidden": (16, 8), "teacher.epochs": 1, "student.steps": 5, "student.eval_steps": (0,), "m": (3,)}
RICH = {"student.mixed": 0.25, "student.mixed_with": "stranger", "perturb.student_after": 0.1}

CHILD = """
    import json, sys
    import jax
    from sublim_jax import data, metrics
    from sublim_jax.engine import compilation_cache, compile_ahead
    from sublim_jax.engine.options import RunOptions
    from sublim_jax.engine.run import run
    from helpers.populations import conditions_of, quiet
    import threading

    events, programs = [], []
    compilation_cache.enable()
    compile_ahead.count_threads = lambda *_: int(sys.argv[1])
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=100)
    fields = json.loads(sys.argv[3])
    conditions = conditions_of(mnist, conditions=("same", "random_hidden"), **fields)

    def heard(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            programs.append((fun_name, threading.current_thread() is threading.main_thread()))

    session = quiet(options=RunOptions(devices=int(sys.argv[2])))
    jax.monitoring.register_event_duration_secs_listener(heard)
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    rows = run(conditions, mnist, session, metrics=(metrics.task, metrics.imitation), num_eval_noise=32)
    misses = sum(event.endswith("cache_misses") for event in events)
    counted = {"misses": misses, "count": session.progress.programs}
    print(json.dumps({"rows": rows.to_csv(), "programs": programs, **counted}))
"""


def in_child(cache, threads, devices=1, **fields):
    """What a process of its own computes and compiles, with a folder of compiled programs."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    variables = {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    arguments = str(threads), str(devices), json.dumps({**SMALL, **fields})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def planned(child, by_run):
    """The planned programs that the run itself compiled or read from disk, or those of the pool."""
    return sorted(name for name, own in child["programs"] if name in PLANNED and own == by_run)


@pytest.mark.e2e
def test_compile_ahead_compiles_each_program_once_for_this_process_and_the_next(tmp_path):
    ahead = in_child(tmp_path, 4)
    assert planned(ahead, by_run=True) == []
    names = planned(ahead, by_run=False)
    assert names == sorted([*PLANNED, "jit(advance)", "jit(init_program)"]), "teachers and students"
    assert ahead["misses"] == ahead["count"] == len(ahead["programs"]), "each is compiled and counted once"
    alone = in_child(tmp_path, 0)
    assert planned(alone, by_run=True) == names and planned(alone, by_run=False) == []
    assert alone["misses"] == 0 and alone["count"] == ahead["count"], "the same programs have the same keys"
    assert alone["rows"] == ahead["rows"]


@pytest.mark.e2e
def test_compile_ahead_knows_how_arrays_are_divided_among_devices(tmp_path):
    ahead, alone = (in_child(tmp_path, threads, devices=2) for threads in (4, 0))
    assert planned(ahead, by_run=True) == [] and planned(ahead, by_run=False) == planned(alone, by_run=True)
    assert alone["misses"] == 0 and alone["rows"] == ahead["rows"]


@pytest.fixture(scope="module")
def groups(mnist):
    """Two groups of conditions; the first has unrelated teachers, and noise at the end."""
    rich = conditions_of(mnist, conditions=("same",), **SMALL, **RICH)
    return (*rich, *conditions_of(mnist, conditions=("random_hidden",), **SMALL))


HEARD = []


def hear(event, _, fun_name="", **__):
    if event.endswith("backend_compile_duration") and fun_name in PLANNED:
        HEARD.append((fun_name, threading.current_thread() is threading.main_thread()))


@pytest.fixture(scope="module")
def listening():
    jax.monitoring.register_event_duration_secs_listener(hear)


def rows_and_programs(monkeypatch, groups, mnist, threads=4, **session):
    """The rows of a run without programs in memory, and the planned programs that it made itself."""
    monkeypatch.setattr(compile_ahead, "count_threads", lambda *_: threads)
    jax.clear_caches()
    HEARD.clear()
    rows = run(groups, mnist, quiet(**session), metrics=(metrics.task, metrics.imitation), num_eval_noise=32)
    return rows, [name for name, own in HEARD if own]


@pytest.fixture(scope="module")
def expected(groups, mnist, listening):
    with pytest.MonkeyPatch.context() as patch:
        rows, programs = rows_and_programs(patch, groups, mnist, threads=0)
    assert set(programs) == PLANNED
    return rows


def in_any_order(monkeypatch):
    original, draw = compile_ahead._compile, random.Random(0)

    def late(lowered):
        time.sleep(draw.uniform(0.0, 1.0))
        original(lowered)

    monkeypatch.setattr(compile_ahead, "_compile", late)


def last_first(monkeypatch):
    original, number = compile_ahead._compile, iter(range(100))

    def late(lowered):
        time.sleep(max(0.0, 2.5 - 0.2 * next(number)))
        original(lowered)

    monkeypatch.setattr(compile_ahead, "_compile", late)


def with_drops(monkeypatch):
    original = schedule.program_drops
    monkeypatch.setattr(schedule, "program_drops", lambda *given: ([False, True], original(*given)[1]))


@pytest.mark.e2e
@pytest.mark.parametrize("change", [in_any_order, last_first, with_drops])
def test_compile_ahead_leaves_the_run_no_program_in_any_order(change, groups, mnist, expected, monkeypatch):
    change(monkeypatch)
    rows, programs = rows_and_programs(monkeypatch, groups, mnist, threads=16)
    assert programs == []
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)


def failing_compile(monkeypatch):
    def fail(lowered):
        raise RuntimeError("the compiler fails")

    monkeypatch.setattr(compile_ahead, "_compile", fail)
    return PLANNED


def failing_shapes(monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes are unknown")

    monkeypatch.setattr(compile_ahead._Programs, "_students", fail)
    return PLANNED - {"jit(attach_program)"}


def few_maps(monkeypatch):
    """Programs are forgotten before each unit, and none is compiled ahead but the first."""
    monkeypatch.setattr(compilation_cache, "few_maps_left", lambda: True)
    return PLANNED


@pytest.mark.e2e
@pytest.mark.parametrize("change", [failing_compile, failing_shapes, few_maps])
def test_compile_ahead_that_fails_leaves_programs_to_the_run(change, groups, mnist, expected, monkeypatch):
    left = change(monkeypatch)
    rows, programs = rows_and_programs(monkeypatch, groups, mnist)
    assert set(programs) == left
    pd.testing.assert_frame_equal(rows, expected, check_exact=True)


@pytest.mark.e2e
def test_compile_ahead_is_cancelled_where_a_run_is_interrupted(groups, mnist, listening, monkeypatch):
    release, begun = threading.Event(), []

    def held(lowered):
        begun.append(lowered)
        release.wait(60.0)

    monkeypatch.setattr(compile_ahead, "_compile", held)
    monkeypatch.setattr(CompileAhead, "_await", lambda *_: False)
    calls = iter((False, True))
    with pytest.raises(Interrupted):
        rows_and_programs(monkeypatch, groups, mnist, threads=2, stopped=lambda: next(calls, True))
    release.set()
    time.sleep(0.5)
    assert len(begun) <= 2 and not any(thread.name.startswith("compile_ahead") for thread in threading.enumerate())


def of_units(monkeypatch, tasks):
    """The context of units whose programs are named; `tasks` gives what compiles each."""

    def of_unit(self, unit):
        for name in unit.group:
            future, _ = self.submit(Program(name, tasks))
            yield name, [future]

    monkeypatch.setattr(compile_ahead._Programs, "of_unit", of_unit)
    return SimpleNamespace(session=SimpleNamespace(progress=Progress(show=False)))


class Program:
    """A program whose compilation is a function."""

    out_info = None

    def __init__(self, name, tasks):
        self.compile = tasks[name]

    def trace(self):
        return self

    def lower(self):
        return self


def test_compile_ahead_waits_for_the_programs_of_the_unit_that_runs(monkeypatch):
    order = []
    tasks = {"slow": lambda: (time.sleep(0.1), order.append("slow")), "quick": lambda: order.append("quick")}
    tasks["broken"] = lambda: 1 / 0
    context = of_units(monkeypatch, tasks)
    units = [schedule.WorkUnit(names, None) for names in (("slow", "quick", "broken"), ("quick",))]
    with CompileAhead(context, units, [False, True], 4) as ahead:
        wait = context.session.progress.await_program
        ahead.begin(0)
        assert wait("slow") and order == ["quick", "slow"]
        assert not wait("broken") and not wait("unknown")
        ahead.begin(1)
        assert wait("quick") and not wait("slow"), "programs were dropped"
    assert context.session.progress.await_program is None


@pytest.mark.parametrize(("cores", "gigabytes", "side_by_side", "threads"), [
    (1, 9.0, False, 0), (3, 9.0, True, 0), (4, 9.0, False, 4), (16, 3.0, False, 4), (16, 2.1, False, 0),
    (16, 1.0, False, 0), (16, 1.0, True, 16),
])  # fmt: skip
def test_count_threads_by_cores_and_memory(cores, gigabytes, side_by_side, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    limits = schedule.ResourceLimits(gigabytes, 100, 1, side_by_side)
    assert compile_ahead.count_threads(limits, 2.0) == threads


def test_compile_ahead_without_threads_leaves_the_run_alone(monkeypatch):
    context = of_units(monkeypatch, {})
    with CompileAhead(context, [schedule.WorkUnit(("program",), None)], [False], 0) as ahead:
        ahead.begin(0)
        assert context.session.progress.await_program is None
