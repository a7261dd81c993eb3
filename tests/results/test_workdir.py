"""The work folder: whole parts, one config, tidy rows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sublim_jax
from sublim_jax import results
from sublim_jax.core.errors import ConfigError
from sublim_jax.results.provenance import provenance
from sublim_jax.results.workdir import choose_folder

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


def finished(path, config, value=0.0):
    """A work folder with one part of rows."""
    folder = results.Workdir(path, config)
    folder.begin()
    folder.write("one", table(value=value))
    folder.finish(status="done")
    folder.close()
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_workdir_overwrite_replaces_its_files_and_no_other(tmp_path, capsys):
    finished(tmp_path, {"a": 1})
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("students", "preferences", "params"):  # of which a later run would read something
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("of the earlier run")
    folder = results.Workdir(tmp_path, {"a": 2}, "overwrite")
    assert not folder.has("one") and not folder.completed()
    folder.begin()
    assert not list(tmp_path.glob("*/kept"))
    (aside,) = tmp_path.glob("replaced-*")
    assert str(aside) in capsys.readouterr().err and (aside / "rows" / "one.parquet").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert results.metadata(tmp_path)["config"] == {"a": 2}
    folder.write("two", table())
    assert not list(tmp_path.glob("replaced-*")) and not folder.has("one") and folder.has("two")


def test_workdir_overwrite_changes_nothing_before_it_begins(tmp_path):
    before = finished(tmp_path, {"a": 1})
    results.Workdir(tmp_path, {"a": 2}, "overwrite")
    assert {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_workdir_says_where_replaced_results_are_after_a_kill(tmp_path, capsys):
    finished(tmp_path, {"a": 1})
    killed = results.Workdir(tmp_path, {"a": 2}, "overwrite")
    killed.begin()
    killed.close()
    capsys.readouterr()
    again = results.Workdir(tmp_path, {"a": 2})
    again.begin()
    (aside,) = tmp_path.glob("replaced-*")
    assert capsys.readouterr().err.startswith(f"{aside}: holds replaced results")
    assert sublim_jax.load(aside).equals(table().to_pandas()), "a work folder of its own"
    again.write("one", table())
    assert not aside.exists()


@pytest.mark.parametrize("kill", range(1, 6))
def test_workdir_overwrite_killed_between_two_moves_loses_nothing(kill, tmp_path, monkeypatch):
    before = finished(tmp_path, {"a": 1})
    (tmp_path / "report.html").write_text("page")
    moves = iter(range(kill))

    def replace(*paths):
        next(moves)  # StopIteration stands for the kill
        rename(*paths)

    rename = os.replace
    folder = results.Workdir(tmp_path, {"a": 2}, "overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises((StopIteration, RuntimeError)):
            folder.begin()
    folder.close()
    again = results.Workdir(tmp_path, {"a": 2}, "auto" if kill > 4 else "overwrite")
    again.begin()
    kept = [file.read_bytes() for file in tmp_path.glob("replaced-*/**/*") if file.is_file()]
    assert all(content in kept for name, content in before.items() if name.parts[0] != ".locks")
    again.write("one", table())
    assert not list(tmp_path.glob("replaced-*"))


FOREIGN = {
    "a model": {"config.json": '{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": "x"},
    "a list": {"config.json": "[1, 2]"},
    "a text": {"config.json": '"config"'},
    "a number": {"config.json": '{"config": 5}'},
    "no JSON": {"config.json": "a = 1"},
    "deep JSON": {"config.json": "[" * 100_000},
    "no text": {"config.json": "\udcff"},
    "TensorBoard": {"runs/events.json": "{}"},
    "other records": {"runs/a.json": '{"begun": 5}', "rows/notes.txt": "x"},
    "rows": {"rows/a.parquet": "PAR1"},
}


@pytest.mark.parametrize("resume", ["auto", "overwrite", "never"])
@pytest.mark.parametrize("case", FOREIGN)
def test_workdir_refuses_a_foreign_folder_and_leaves_it(case, resume, tmp_path):
    for name, text in FOREIGN[case].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=rf"^workdir={tmp_path}: .*for instance --workdir={tmp_path}-2") as refused:
        results.Workdir(tmp_path, {"a": 1}, resume)
    assert "\n" not in str(refused.value) and "overwrite" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_workdir_takes_more_seeds_and_refuses_fewer(tmp_path):
    config = {"a": 1, "seeds": 3, "first_seed": 4}
    before = finished(tmp_path, config)
    more = results.Workdir(tmp_path, {"a": 1, "seeds": 7, "first_seed": 2})
    assert more.seeds() == {"one": {4, 5, 6}} and results.metadata(tmp_path)["config"] == config
    more.begin()
    more.close()
    assert results.metadata(tmp_path)["config"]["seeds"] == 7
    assert (tmp_path / "rows" / "one.parquet").read_bytes() == before[Path("rows/one.parquet")]
    for fewer in ({"seeds": 3, "first_seed": 4}, {"seeds": 7, "first_seed": 3}, {"seeds": 7, "first_seed": 20}):
        with pytest.raises(ConfigError, match=r"holds seeds 2 to 8, more than the seeds .* of this run"):
            results.Workdir(tmp_path, {"a": 1, **fewer})
    with pytest.raises(ConfigError, match=r"belongs to another config \(a: 1 there, 2 here\)"):
        results.Workdir(tmp_path, {"a": 2, "seeds": 7, "first_seed": 2})


def test_workdir_names_the_seeds_that_a_run_was_given(tmp_path):
    finished(tmp_path, {"seeds": (0, 5)})
    results.Workdir(tmp_path, {"seeds": (0, 3, 5)})
    with pytest.raises(ConfigError, match="holds seeds 0 to 5"):
        results.Workdir(tmp_path, {"seeds": (0, 3)})


def test_workdir_refusal_proposes_a_free_folder(tmp_path):
    finished(tmp_path / "quickstart", {"a": 1})
    (tmp_path / "quickstart-2").mkdir()
    hint = rf"for instance --workdir={tmp_path}/quickstart-3, or --resume=overwrite to replace its results$"
    with pytest.raises(ConfigError, match=hint):
        results.Workdir(tmp_path / "quickstart", {"a": 2})


def test_choose_folder_takes_the_named_the_default_or_a_free_one(tmp_path):
    default = str(tmp_path / "results")
    assert choose_folder("", default) == choose_folder("auto", default) == tmp_path / "results"
    (tmp_path / "results").mkdir()
    assert choose_folder("auto", default) == tmp_path / "results-2"
    assert choose_folder("mine", default) == Path("mine")
    with pytest.raises(ConfigError, match="^workdir=gs://a: must be a folder"):
        choose_folder("gs://a", default)


@pytest.mark.parametrize(("one", "other"), [((0, 1), (0, 1)), ((0, 1), (1, 3)), ((1, 2), (3, 4)), ((2, 5), (2, 5))])
def test_workdir_held_by_another_job_is_refused_with_its_name(one, other, tmp_path):
    first, second = (results.Workdir(tmp_path, {"a": 1}, shard=shard) for shard in (one, other))
    first.begin()
    holder = (
        rf"^workdir={tmp_path}: is in use by process {os.getpid()} on \S+ since 20\S+; wait for it, or choose another"
    )
    with pytest.raises(ConfigError, match=holder):
        second.begin()
    first.close()
    second.begin()


def test_workdir_is_shared_by_jobs_of_different_shards(tmp_path):
    jobs = [results.Workdir(tmp_path, {"a": 1}, shard=shard) for shard in ((0, 3), (1, 3), (4, 6), (5, 6))]
    for job in jobs:
        job.begin()


def test_workdir_lock_of_a_killed_process_is_free(tmp_path):
    code = "import sys; from sublim_jax import results; w = results.Workdir(sys.argv[1], {'a': 1})"
    code += "; w.begin(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match=f"is in use by process {holder.pid} on"):
            results.Workdir(tmp_path, {"a": 1}).begin()
        holder.kill()
    results.Workdir(tmp_path, {"a": 1}).begin()


def test_workdir_refuses_an_address():
    for address in ("gs://a/b", "s3://a", "file:///tmp/a", Path("gs://a/b")):
        with pytest.raises(ConfigError, match=f"^workdir={address}: must be a folder that this machine sees"):
            results.Workdir(address, {})


def test_workdir_without_config_is_recognised_by_its_rows(tmp_path, capsys):
    finished(tmp_path, {"a": 1})
    content = (tmp_path / "config.json").read_bytes()
    for damage in (b"", content[:40], content.replace(b"1", b"2", 1), bytes(len(content))):
        (tmp_path / "config.json").write_bytes(damage)
        with pytest.raises(ConfigError, match="holds rows but no config.json"):
            results.Workdir(tmp_path, {"a": 3})
        folder = results.Workdir(tmp_path, {"a": 1})
        folder.begin()
        folder.close()
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "config.json.damaged" in told, told
        assert folder.has("one") and results.metadata(tmp_path)["config"] == {"a": 1}


def test_metadata_keeps_every_run_and_a_killed_one(tmp_path):
    results.Workdir(tmp_path, {"a": 1}).begin(command="first")
    folder = results.Workdir(tmp_path, {"a": 1})
    folder.begin(command="second")
    folder.finish(status="done")
    runs = results.metadata(tmp_path)["runs"]
    assert [(run["command"], run["status"]) for run in runs] == [("first", "running"), ("second", "done")]


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
