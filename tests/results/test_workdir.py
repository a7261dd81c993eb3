"""The work folder: whole parts, one config, tidy rows."""

import numpy as np
import pytest

import sublim_jax
from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.results.provenance import provenance

LABELS = [{"condition": "a", "m": 3}, {"condition": "b", "m": 3}]


def table(step=0, value=0.0):
    return results.tidy(LABELS, [4, 5, 6], step, {"x": np.arange(8.0).reshape(4, 2) + value})


def test_tidy_is_one_row_per_condition_and_seed_and_drops_padding():
    rows = table().to_pandas()
    assert list(rows.columns) == ["condition", "m", "seed", "step", "at/x"]
    assert rows["at/x"].tolist() == [0, 2, 4, 1, 3, 5]
    assert rows["seed"].tolist() == [4, 5, 6, 4, 5, 6]
    assert rows["condition"].tolist() == ["a"] * 3 + ["b"] * 3


def test_tidy_refuses_labels_with_names_of_columns():
    with pytest.raises(ValueError, match="seed"):
        results.tidy([{"seed": 1}], [0], 0, {"x": np.zeros((1, 1))})


def test_load_reads_all_parts_and_no_unfinished_one(tmp_path):
    folder = results.Workdir(tmp_path / "w", {"a": (1, 2)})
    folder.begin()
    folder.write("one", table(0))
    folder.write("two", table(10, 0.5))
    (tmp_path / "w" / "rows" / ".three.123.tmp").write_bytes(b"half a par")
    assert folder.has("one") and not folder.has("three")
    rows = sublim_jax.load(tmp_path / "w")
    assert len(rows) == 12 and sorted(rows["step"].unique()) == [0, 10]


def test_load_refuses_nothing_and_damage(tmp_path):
    with pytest.raises(ConfigError, match="holds no rows"):
        sublim_jax.load(tmp_path)
    folder = results.Workdir(tmp_path / "w", {})
    folder.write("one", table())
    part = tmp_path / "w" / "rows" / "one.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"one.parquet: cannot be read"):
        sublim_jax.load(tmp_path / "w")


def test_workdir_belongs_to_one_config(tmp_path):
    folder = results.Workdir(tmp_path, {"student": {"lr": 1e-3, "steps": 300}, "m": (3, 10)})
    folder.begin()
    folder.write("one", table())
    results.Workdir(tmp_path, {"m": [3, 10], "student": {"steps": 300, "lr": 1e-3}})
    with pytest.raises(ConfigError, match=r"student.lr: 0.001 there, 0.0003 here"):
        results.Workdir(tmp_path, {"student": {"lr": 3e-4, "steps": 300}, "m": (3, 10)})
    with pytest.raises(ConfigError, match="holds results"):
        results.Workdir(tmp_path, {"student": {"lr": 1e-3, "steps": 300}, "m": (3, 10)}, "never")
    with pytest.raises(ConfigError, match="resume='again'"):
        results.Workdir(tmp_path, {}, "again")


def test_workdir_overwrite_removes_its_files_and_no_other(tmp_path):
    folder = results.Workdir(tmp_path, {"a": 1})
    folder.begin()
    folder.write("one", table())
    (tmp_path / "notes.txt").write_text("mine")
    folder = results.Workdir(tmp_path, {"a": 2}, "overwrite")
    folder.begin()
    assert not folder.has("one")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert results.metadata(tmp_path)["config"] == {"a": 2}


def test_workdir_refuses_an_address():
    with pytest.raises(ConfigError, match="^workdir=gs://a/b: must be a folder that this machine sees"):
        results.Workdir("gs://a/b", {})


def test_workdir_refuses_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(ConfigError, match="config.json cannot be read"):
        results.Workdir(tmp_path, {})


def test_metadata_keeps_every_run_and_a_killed_one(tmp_path):
    results.Workdir(tmp_path, {"a": 1}).begin(command="first")
    folder = results.Workdir(tmp_path, {"a": 1})
    folder.begin(command="second")
    folder.finish(status="done")
    runs = results.metadata(tmp_path)["runs"]
    assert [(run["command"], run["status"]) for run in runs] == [("first", "running"), ("second", "done")]


def test_workdir_refuses_rows_without_config(tmp_path):
    results.Workdir(tmp_path, {"a": 1}).write("one", table())
    with pytest.raises(ConfigError, match="holds rows but no config.json"):
        results.Workdir(tmp_path, {"a": 1})
    assert not results.Workdir(tmp_path, {"a": 1}, "overwrite").has("one")


def test_completed_is_read_off_the_rows(tmp_path):
    folder = results.Workdir(tmp_path, {})
    for mark in (0, 10):
        folder.write(f"part{mark}", table(mark))
    a, b = (frozenset(labels.items()) for labels in LABELS)
    assert results.completed(tmp_path) == {(a, 0): {4, 5, 6}, (b, 0): {4, 5, 6}, (a, 10): {4, 5, 6}, (b, 10): {4, 5, 6}}


def test_load_takes_rows_written_twice_once(tmp_path):
    folder = results.Workdir(tmp_path, {})
    folder.write("one", table())
    folder.write("two", table())
    assert sublim_jax.load(tmp_path).equals(table().to_pandas())


def test_provenance_names_versions_and_commit():
    found = provenance()
    assert found["versions"]["jax"] and found["versions"]["python"].startswith("3.")
    assert found["commit"] == "unknown" or len(found["commit"].split("+")[0]) == 40
