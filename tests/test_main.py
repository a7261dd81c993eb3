"""The command as a user runs it: exit codes, one-line refusals, a finished work folder, interruption and kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sublim_jax
from sublim_jax import main, results
from sublim_jax.results import summary

ROOT = Path(__file__).parent.parent
QUICKSTART = f"--config={ROOT}/configs/quickstart.py"
SMOKE = (QUICKSTART, "--config.preset=smoke", "--config.data.source=embedded", "--config.run.teachers=")


def command(*words):
    return [sys.executable, "-m", "sublim_jax.main", *words]


def run(tmp_path, *words, **environment):
    given = {"capture_output": True, "text": True, "timeout": 600, "env": {**os.environ, **environment}}
    return subprocess.run(command(*words), cwd=tmp_path, **given)


def programs(tmp_path, *words):
    """The names of the programs that a command compiles."""
    return re.findall(r"Compiling (\S+) with", run(tmp_path, *words, JAX_LOG_COMPILES="1").stderr)


REFUSED = {
    "no config": ((), r"error: config: not given"),
    "no such file": (("--config=configs/nothing.py",), r"error: config='configs/nothing.py': no such file"),
    "no such file, spelt apart": (("--config", "nothing.py"), r"error: config='nothing.py': no such file"),
    "misspelt field": (
        (QUICKSTART, "--config.sedes=5"),
        r"error: --config: 'sedes' is none of arms, aux_widths, .*; did you mean 'seeds'\?",
    ),
    "misspelt field below": (
        (QUICKSTART, "--config.student.lrr=5"),
        r"error: --config.student: 'lrr' is none of alpha, batch, .*; did you mean 'lr'\?",
    ),
    "field of a number": ((QUICKSTART, "--config.seeds.more=5"), r"error: --config.seeds: 'more' is none of"),
    "misspelt flag": ((QUICKSTART, "--wrokdir=x"), r"error: Unknown command line flag 'wrokdir'.*workdir"),
    "stray word": ((QUICKSTART, "smoke"), r"error: command line: 'smoke' is not a flag"),
    "bad value": ((QUICKSTART, "--config.student.lr=-1"), r"error: config.student.lr=-1.0: must be a number above 0"),
    "unknown figure": (
        (QUICKSTART, "--config.figure=pie"),
        r"error: config.figure: 'pie' is none of activation, carrier",
    ),
    "unknown data": ((QUICKSTART, "--config.data.name=mnits"), r"error: config.data.name.*mnist"),
    "bad resume": ((QUICKSTART, "--resume=maybe"), r"error: .*resume.*maybe.*auto"),
    "too many devices": ((*SMOKE, "--config.run.devices=64"), r"error: config.run.devices=64: must be at most 1"),
    "address": ((*SMOKE, "--workdir=gs://b/x"), r"error: workdir='gs://b/x': must be a folder that this machine sees"),
    "a free folder for several": (
        (*SMOKE, "--workdir=auto", "--shard=0/2"),
        r"error: workdir='auto': must be a name",
    ),
    "table into a folder": ((*SMOKE, "--csv=."), r"error: --csv=.: is a folder; must be a file"),
    "exam of too few images": (
        (*SMOKE, "--config.student.stream=epochs", "--config.num_eval_noise=500"),
        r"error: config.num_eval_noise=500: must be at most 300",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_main_refuses_bad_input_in_one_line_with_exit_code_2(case, tmp_path, monkeypatch, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    words, message = REFUSED[case]
    assert main.main(["main", *words]) == 2
    error = capsys.readouterr().err
    assert re.match(message, error) and error.count("\n") == 1, error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("config", ["quickstart", "defence"])  # the second has transforms of targets and gradients
def test_main_plans_without_compiling_a_program(config, tmp_path):
    assert programs(tmp_path, f"--config={ROOT}/configs/{config}.py", "--dry_run") == []


def test_main_imports_no_large_library_before_its_first_line():
    early = "import sys, sublim_jax.main; assert not {'jax', 'pandas'} & sys.modules.keys()"
    later = "import sublim_jax.results.summary; assert 'scipy' not in sys.modules"  # for the report only
    subprocess.run([sys.executable, "-c", f"{early}; {later}"], check=True, timeout=60)


@pytest.mark.e2e
def test_main_ends_its_process_with_the_exit_code(tmp_path):
    words, message = REFUSED["misspelt field"]
    done = run(tmp_path, *words)
    assert done.returncode == 2 and re.match(message, done.stderr) and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.e2e
def test_main_leaves_rows_config_figure_and_report(tmp_path):
    done = run(tmp_path, *SMOKE, "--config.seeds=2", "--config.m=(3,)")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "random_class_head" in done.stdout and "100 % after" in done.stdout
    folder = tmp_path / "results" / "quickstart-smoke"
    rows = sublim_jax.load(folder)
    assert len(rows) == 4 * 2 * 3  # conditions x seeds x marks
    columns = {"condition", "m", "seed", "step", "at/student_accuracy", "at/teacher_accuracy", "at/aux_mse", "at/cka"}
    # At step 0 nothing has moved; some predictions are for shared heads only.
    missing = {"at/latent_cosine_noise", "at/inside_row_space", "theory/cosine/teacher_student_final/aux_head"}
    assert columns <= set(rows.columns)
    assert set(rows.columns[rows.isna().any()]) <= missing
    facts = results.metadata(folder)
    assert json.loads((folder / "config.json").read_text())["config"] == facts["config"]
    assert facts["config"]["m"] == [3] and facts["config"]["seeds"] == 2
    last = facts["runs"][-1]
    assert last["overrides"]["m"] == "(3,)" and last["status"] == "done" and last["resolved"]["student"]["steps"] == 20
    assert last["steps"] == {"teachers": 2 * 8, "students": 3 * 2 * 20}  # random_class_head ends with the trunk of same
    assert last["programs"] <= 11, programs(tmp_path, *SMOKE, "--config.seeds=2", "--config.m=(3,)", "--workdir=auto")
    assert {"versions", "commit", "machine"} <= set(last["provenance"]) and len(last["data"]["sha256"]) == 64
    assert last["devices"] and last["seconds"]["compile"] > 0
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2 and "highest mean student test accuracy" in page
    linked = re.findall(r'href="([^#][^"]*)"', page)
    assert {"rows", "config.json"} <= set(linked) and all((folder / link).exists() for link in linked)
    assert "src=" not in page  # self-contained
    assert "random_aux_head" in page and "--config.m=(3,)" in page and facts["config"]["data_sha256"] in page
    assert (folder / "figure.svg").stat().st_size > 1000 and (folder / "figure.png").stat().st_size > 1000

    again = run(tmp_path, *SMOKE, "--config.seeds=2", "--config.m=(3,)", "--csv=new/table.csv")  # nothing left to do
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "new" / "table.csv").read_text() == summary.csv(rows)
    assert sublim_jax.load(folder).equals(rows)
    assert results.metadata(folder)["runs"][-1]["steps"] == {}
    other = run(tmp_path, *SMOKE, "--config.seeds=2", "--config.m=(5,)")
    assert other.returncode == 2 and re.search(r"config \(m\.?: .*--workdir=results/quickstart-smoke-2", other.stderr)
    more = run(tmp_path, *SMOKE, "--config.seeds=3", "--config.m=(3,)")  # only the new seed is trained
    assert more.returncode == 0, more.stderr
    assert results.metadata(folder)["runs"][-1]["steps"] == {"teachers": 8, "students": 3 * 20}
    by = ["condition", "seed", "step"]
    kept = sublim_jax.load(folder).query("seed < 2").sort_values(by, ignore_index=True)
    assert kept.equals(rows.sort_values(by, ignore_index=True))


LONG = (*SMOKE, "--config.student.steps=600", "--config.student.eval_steps=(0,300)", "--config.m=(3,)")


def steps_saved(folder):
    """The steps of whole checkpoints of students; a half written one has a longer name."""
    return {int(path.stem) for path in folder.glob("checkpoints/*/*.safetensors") if path.stem.isdigit()}


@pytest.mark.slow
def test_main_loses_nothing_by_interrupt_and_kill(tmp_path):
    """One run undisturbed, one interrupted (SIGINT), then killed (SIGKILL), then finished: the same rows bitwise."""
    words = (*LONG, "--config.conditions=('same','random_hidden')")
    plain = run(tmp_path, *words, "--workdir=plain")
    assert plain.returncode == 0, plain.stderr

    broken = command(*words, "--workdir=broken")
    overwrite = [*broken, "--resume=overwrite"]  # the line that says how to go on must not say this
    for number, code, words_ in ((signal.SIGINT, 75, overwrite), (signal.SIGKILL, -signal.SIGKILL, broken)):
        process = subprocess.Popen(words_, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        before = steps_saved(tmp_path / "broken")
        while steps_saved(tmp_path / "broken") <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == code, errors
        if code == 75:
            command_line = r"python -m sublim_jax.main (?!.*--resume).*--workdir=broken"
            assert re.search(rf"SIGINT: stopping.*\n.*To go on: {command_line}", errors)
    done = run(tmp_path, *words, "--workdir=broken")
    assert done.returncode == 0, done.stderr
    assert sublim_jax.load(tmp_path / "broken").equals(sublim_jax.load(tmp_path / "plain"))
    assert not list((tmp_path / "broken").glob("checkpoints/*"))
    runs = results.metadata(tmp_path / "broken")["runs"]
    assert [one["status"] for one in runs] == ["interrupted", "running", "done"]
    whole = results.metadata(tmp_path / "plain")["runs"][0]["steps"]
    assert "teachers" not in runs[2]["steps"]  # read back, not trained again
    assert 0 < runs[2]["steps"]["students"] < whole["students"] - runs[0]["steps"]["students"]


def test_main_says_in_one_line_why_a_config_file_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text, message in (
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("x = 1", "AttributeError: .*get_config"),
    ):
        (tmp_path / "mine.py").write_text(text)
        assert main.main(["main", "--config=mine.py"]) == 2
        error = capsys.readouterr().err
        assert re.match(rf"error: config='mine.py': {message}", error) and error.count("\n") == 1, error


@pytest.mark.e2e
def test_main_without_space_ends_in_one_line_and_keeps_what_was_saved(tmp_path):
    """A limit on the size of files stands for a full disk."""
    words = (*SMOKE, "--config.m=(3,)", "--workdir=w")

    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    limited = ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", *command(*words)]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    told = r"error: checkpoint teacher.*File too large.*; what was saved is kept. To go on: python -m sublim_jax"
    assert re.match(told, done.stderr)
    again = run(tmp_path, *words)
    assert again.returncode == 0, again.stderr


def test_main_refused_with_overwrite_leaves_results_as_they_are(tmp_path, monkeypatch, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    workdir = results.Workdir(tmp_path / "w", {"a": 1})
    workdir.begin()
    workdir.write("one", results.tidy([{"m": 3}], [4], 0, {"x": np.zeros((1, 1))}))
    workdir.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for word in ("--config.run.memory_gb=0.001", "--config.classes=11", "--shard=0/2"):
        assert main.main(["main", *SMOKE, "--workdir=w", "--resume=overwrite", word]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_main_with_a_free_folder_names_it_in_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "quickstart-smoke").mkdir(parents=True)

    def interrupted(config, values, workdir, metadata, *_):
        assert str(workdir) == "results/quickstart-smoke-2" and metadata["command"].endswith(f"={workdir}")
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_run", interrupted)
    assert main.main(["main", *SMOKE, "--workdir=auto"]) == 75
    assert capsys.readouterr().err.rstrip().endswith("--workdir=results/quickstart-smoke-2")


def test_main_refuses_a_workdir_that_is_a_file(tmp_path, monkeypatch, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert main.main(["main", *SMOKE, "--workdir=file"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: workdir=file: ") and error.count("\n") == 1


@pytest.mark.e2e
@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&- <&-", "| head -1", "2>&1 | true"])
def test_main_finishes_though_nobody_reads_what_it_prints(redirect, tmp_path):
    words = " ".join(f'"{word}"' for word in command(*SMOKE, "--config.m=(3,)", "--workdir=w"))
    script = f"{{ {words}; echo $? >code; }} {redirect}"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, timeout=600, check=True)
    assert (tmp_path / "code").read_text() == "0\n"
    assert len(sublim_jax.load(tmp_path / "w")) == 4 * 2 * 3 and (tmp_path / "w" / "report.html").exists()
