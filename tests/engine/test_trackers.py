"""Trackers get one run for a sweep with a curve for each condition, and never end a run."""

import importlib.util
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers.rows import rows_of

from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import trackers
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.session import Session
from sublim_jax.engine.trackers import Trackers, names_of


class Recorder:
    """A tracker that keeps what it gets."""

    runs: list = []  # noqa: RUF012

    def __init__(self, name, folder, config):
        self.name, self.config, self.logged, self.table = name, config, [], None
        self.runs.append(self)

    def log(self, step, values):
        self.logged.append((step, values))

    def finish(self, table):
        self.table = table


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(trackers._KINDS, "tensorboard", Recorder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(Recorder, "runs", [])
    return Recorder.runs


def curves(recorder):
    """Every logged value by tag and step."""
    return {(tag, step): value for step, values in recorder.logged for tag, value in values.items()}


def expected(rows):
    means = rows.groupby(["condition", "m", "step"])["at/student_accuracy"].agg(["mean", "std"])
    for (condition, m, step), line in means.iterrows():
        yield (f"accuracy/{condition},m={m}", step), line["mean"]
        yield (f"accuracy spread/{condition},m={m}", step), line["std"]


def session_of(folder, rows, parts, **fields):
    """A session that writes these rows as a study would, in parts."""
    session = Session(seeds=range(3), workdir=folder, config={"name": "toy"}, progress=Progress(show=False), **fields)
    with session.open(dict) as workdir, session.record(workdir, ()):
        for number, part in enumerate(parts(rows)):
            workdir.write(f"part{number}-{part['step'].iloc[0]}", pa.Table.from_pandas(part, preserve_index=False))
    return session


def by_step(rows):
    return [part for _, part in rows.groupby("step")]


def by_seed(rows):
    return [part for _, part in rows.groupby("seed")]


@pytest.mark.parametrize("parts", [by_step, by_seed])
def test_trackers_get_the_mean_and_the_spread_of_every_condition_and_step(parts, recorder, tmp_path):
    rows = rows_of()
    metadata = {"resolved": {"student": {"lr": 0.1}}}
    session_of(tmp_path / "toy", rows, parts, tracker="tensorboard", metadata=metadata)
    (run,) = recorder
    assert run.name == "toy" and run.config == {"student.lr": 0.1}
    found = curves(run)
    for key, value in expected(rows):
        assert found[key] == pytest.approx(value)
    differences = rows["at/student_accuracy"] - rows["at/untrained_accuracy"]
    mean = differences[(rows["condition"] == "same") & (rows["m"] == 3) & (rows["step"] == 10)].mean()
    assert found["transfer/same,m=3", 10] == pytest.approx(mean)
    assert len(run.table) == 4 and {"condition", "accuracy", "accuracy spread", "transfer"} <= set(run.table)
    assert all(len({tag for tag, _ in values.items()}) == len(values) for _, values in run.logged)


def test_trackers_get_the_rows_of_earlier_runs(recorder, tmp_path):
    rows = rows_of()
    session_of(tmp_path, rows, lambda rows: by_step(rows)[:2])
    session_of(tmp_path, rows, lambda rows: by_step(rows)[2:], tracker=("tensorboard",))
    found = curves(recorder[0])
    assert all(found[key] == pytest.approx(value) for key, value in expected(rows))


def test_trackers_average_the_animals_of_a_seed():
    rows = pd.DataFrame({"arm": "soft", "animal": [0, 1, 0, 1], "seed": [0, 0, 1, 1], "step": 4})
    rows["at/transfer"] = [1.0, 3.0, 5.0, 7.0]
    (line,) = [trackers._values(part) for _, part in trackers._conditions(rows)]
    assert line["transfer"] == 4.0 and line["transfer spread"] == pytest.approx(np.std([2, 6], ddof=1))


@pytest.mark.parametrize("when", ["__init__", "log", "finish"])
def test_trackers_that_fail_never_stop_the_run(when, recorder, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(Recorder, when, fail)
    session_of(tmp_path, rows_of(), by_step, tracker="tensorboard")
    error = capsys.readouterr().err
    assert error == "tracker tensorboard: stopped (ConnectionError: no network); the run goes on without it\n"
    assert len(results.load(tmp_path)) == len(rows_of())
    assert results.metadata(tmp_path)["runs"][-1]["status"] == "done"


def test_names_of_refuses_unknown_and_missing_trackers_in_one_line(monkeypatch, tmp_path):
    assert names_of("", None) == () == names_of((), tmp_path)
    with pytest.raises(ConfigError, match=r"tracker: 'tensorbord' is none of .*; did you mean 'tensorboard'"):
        names_of("tensorbord", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(ConfigError, match=rf"its package is not installed; pip install 'sublim_jax\[{name}\]'"):
            names_of(name, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert names_of("wandb, trackio,wandb", tmp_path) == ("wandb", "trackio")
    with pytest.raises(ConfigError, match="needs a workdir"):
        Session(tracker="wandb")
    assert "wandb" not in sys.modules and "trackio" not in sys.modules


def trackers_of(name, folder):
    rows = rows_of(widths=(3,))
    tracked = Trackers([name], "toy", folder, {"student": {"lr": 0.1}}, range(3))
    for part in by_step(rows):
        tracked.add(pa.Table.from_pandas(part, preserve_index=False))
    tracked.finish(rows)
    return rows


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_files_are_read_back(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = trackers_of("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "toy")).Reload()
    assert capsys.readouterr().err == ""
    for (tag, step), value in expected(rows):
        assert {event.step: event.value for event in events.Scalars(tag)}[step] == pytest.approx(value, rel=1e-6)
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("config", "table")}
    assert '"student.lr": 0.1' in texts["config"] and "| same,m=3 |" in texts["table"]


@pytest.mark.e2e
def test_wandb_offline_keeps_a_run(tmp_path):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    # In a process of its own, because the file is complete when the process has ended.
    code = "import sys, pathlib; from test_trackers import trackers_of; trackers_of('wandb', pathlib.Path(sys.argv[1]))"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    quiet = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": path}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True)
    assert done.returncode == 0 and "stopped" not in done.stderr, done.stderr
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"accuracy/same,m=3" in content and b"student_step" in content and b"student.lr" in content


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_a_run_in_its_folder(tmp_path, monkeypatch, capsys):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackers_of("trackio", tmp_path)
    assert "stopped" not in capsys.readouterr().err
    (file,) = (tmp_path / "trackio").glob("sublim_jax*.db")
    with sqlite3.connect(file) as database:
        logged = "\n".join(str(line) for line in database.execute("select * from metrics"))
    assert "accuracy/same,m=3" in logged and "accuracy spread/random_hidden,m=3" in logged
