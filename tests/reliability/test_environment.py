"""Odd environments: one clear line, or the work that was asked for."""

import os
import subprocess
import sys
import threading

import pytest

from sublim_jax import cli, load, main
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import distributed

SMALL = ("--config.preset=smoke", "--config.data.source=embedded", "--config.seeds=1", "--config.conditions=same")
SMALL += ("--config.m=3,", "--config.metrics=task,", "--config.data.train_limit=600", "--config.num_eval_noise=16")
ODD = {
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "TMPDIR": "/nowhere",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "COLUMNS": "40",
}
ODD |= {"LC_NUMERIC": "de_DE.UTF-8", "PYTHONHASHSEED": "77", "JAX_DEBUG_NANS": "1"}
CONFIG = "from sublim_jax.config import base_config\n\n\ndef get_config():\n    return base_config()\n"


THREAD = """
import sys, threading
from sublim_jax.main import main
codes = []
thread = threading.Thread(target=lambda: codes.append(main(sys.argv)))
thread.start()
thread.join()
sys.exit(codes[0])
"""


def start(where, environment, *words, shell=""):
    command = [sys.executable, "-m", "sublim_jax", "--config=mine.py", *SMALL, *words]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    variables = {name: value for name, value in os.environ.items() if name != "HOME"} | environment
    return subprocess.Popen(command, cwd=where, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.e2e
def test_main_works_without_home_in_ascii_with_closed_output_and_in_a_thread(tmp_path):
    folder = tmp_path / "földer with spaces"
    folder.mkdir()
    (folder / "mine.py").write_text(CONFIG)
    root = str(os.path.dirname(os.path.dirname(main.__file__)))
    odd = start(folder, {**ODD, "PYTHONPATH": root}, "--workdir=odd", "--plot=figure.pdf")
    closed = start(folder, {"PYTHONPATH": root, "HOME": str(folder)}, "--workdir=~/closed", shell=">&-")
    out, err = odd.communicate(timeout=400)
    assert (odd.returncode, err) == (0, b""), (out[-500:], err[-1500:])
    assert b"random" not in out and b"same" in out and out.isascii() and (folder / "figure.pdf").stat().st_size > 1000
    in_thread = subprocess.run(
        [sys.executable, "-c", THREAD, "--config=mine.py", *SMALL, "--quiet", "--workdir=thread"],
        **{"cwd": folder, "capture_output": True, "timeout": 400, "env": {**os.environ, "PYTHONPATH": root}},
    )
    assert (in_thread.returncode, in_thread.stderr) == (0, b""), in_thread.stderr[-1500:]
    assert b"same" in in_thread.stdout and b"report.html" not in in_thread.stdout  # the table and nothing else
    assert len(in_thread.stdout.splitlines()) < 10
    out, err = closed.communicate(timeout=400)
    assert (closed.returncode, out, err) == (0, b"", b"")
    for name in ("odd", "closed", "thread"):
        assert len(load(folder / name)) == 3 and (folder / name / "report.html").exists()
    assert not (folder / "~").exists()


def test_main_refuses_work_folders_that_cannot_be_made(tmp_path, capsys, in_process):
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "/dev/null", "x" * 300):
        assert main.main(["main", f"--config={tmp_path / 'mine.py'}", *SMALL, f"--workdir={folder}"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: workdir=") and line.count("\n") == 1, line


def test_stop_listens_to_no_signals_in_a_thread():
    stops = []
    thread = threading.Thread(target=lambda: stops.append(cli.Stop()))
    thread.start()
    thread.join()
    assert not stops[0]()


WHOLE = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "a",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
HALVES = {
    "SLURM_PROCID, SLURM_LOCALID are not set": dict(list(WHOLE.items())[:3]),
    "SLURM_JOB_ID, SLURM_STEP_NODELIST": dict(list(WHOLE.items())[2:]),
    "SLURM_STEP_NODELIST are not set": {**WHOLE, "SLURM_STEP_NODELIST": ""},
    "SLURM_NTASKS='two': must be a whole number": {**WHOLE, "SLURM_NTASKS": "two"},
    "OMPI_COMM_WORLD_RANK": {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1:2", "OMPI_COMM_WORLD_SIZE": "2"},
    "TPU_WORKER_ID are not set": {"TPU_WORKER_HOSTNAMES": "a,b"},
}


@pytest.mark.parametrize("missing", HALVES)
def test_initialize_names_the_variables_that_a_cluster_lacks(missing, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "TPU_"))]:
        monkeypatch.delenv(name)
    for name, value in HALVES[missing].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"distributed='auto': .*{missing}"):
        distributed.initialize("auto")


@pytest.mark.e2e
def test_initialize_says_whom_it_waits_for_and_ends(tmp_path):
    code = "from sublim_jax.engine import distributed as d; d._JOIN = 3; from sublim_jax.main import main; import sys; "
    words = ["main", "--config=quickstart", *SMALL, f"--workdir={tmp_path / 'w'}", "--distributed=127.0.0.1:1,1/2"]
    done = subprocess.run([sys.executable, "-c", code + f"sys.exit(main({words!r}))"], capture_output=True, timeout=200)
    assert done.returncode == 2 and b"waiting at most 3 s for process 0 at 127.0.0.1:1" in done.stderr, done.stderr[
        -2000:
    ]
    assert done.stderr.count(b"\n") <= 2 and b"Traceback" not in done.stderr, done.stderr[-2000:]
