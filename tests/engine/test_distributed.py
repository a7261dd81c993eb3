"""Several processes and jobs in one work folder: the rows of one, whoever dies on the way."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from helpers.populations import go, quiet

import sublim_jax
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import distributed, options, run

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.py"
WORDS = (f"--config={CONFIG}", "--config.preset=smoke", "--config.seeds=6", "--config.m=(3,)")
LONG = ("--config.conditions=('same',)", "--config.student.steps=400", "--config.run.save_every=20")


def start(where, *words):
    command = [sys.executable, "-m", "sublim_jax.main", *WORDS, *words]
    return subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    told = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told
    return [out for out, _ in told]


def rows(folder):
    found = sublim_jax.load(folder)
    return found.sort_values(["condition", "m", "seed", "step"], ignore_index=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def saved(folder):
    """Steps of whole checkpoints of students of the second process, whose seed is the last."""
    return {path.name for path in folder.glob("checkpoints/*-00005x*/*.safetensors")}


@pytest.mark.e2e
def test_distributed_processes_give_the_rows_of_one_though_one_is_killed(tmp_path):
    finish(start(tmp_path, *LONG, "--workdir=one"))
    place = f"127.0.0.1:{free_port()}"
    words = [(*LONG, "--workdir=two", f"--distributed={place},{index}/2") for index in range(2)]
    first, second = (start(tmp_path, *each) for each in words)
    while not saved(tmp_path / "two"):
        assert second.poll() is None and first.poll() is None, (first.communicate(), second.communicate())
        time.sleep(0.01)
    second.kill()
    assert second.wait() == -signal.SIGKILL
    second.communicate()
    told = finish(start(tmp_path, *words[1]), first)
    assert rows(tmp_path / "two").equals(rows(tmp_path / "one"))
    assert any("report.html" in each for each in told) and (tmp_path / "two" / "report.html").exists()
    assert not list((tmp_path / "two").glob("checkpoints/*"))


@pytest.mark.slow
def test_shard_of_three_jobs_at_once_does_each_part_once(tmp_path):
    finish(start(tmp_path, "--workdir=one"))
    told = finish(*(start(tmp_path, "--workdir=three", f"--shard={index}/3") for index in range(3)))
    assert rows(tmp_path / "three").equals(rows(tmp_path / "one"))
    assert len(list((tmp_path / "three" / "rows").glob("*.parquet"))) == 3 * 3  # shards x marks
    assert any("report.html" in each for each in told)
    again = finish(start(tmp_path, "--workdir=three"))  # any later job finds everything done
    assert "report.html" in again[0] and rows(tmp_path / "three").equals(rows(tmp_path / "one"))


@pytest.mark.e2e
def test_rows_left_counts_what_other_shards_do(mnist, tiny, tmp_path):
    conditions = tiny(conditions=("same", "random_hidden"), m=(3,))
    given = {"seeds": 3, "workdir": tmp_path / "w"}
    part = go(mnist, conditions, shard=(1, 2), **given)
    left = distributed.rows_left(conditions, range(3), (28, 28), tmp_path / "w")
    assert left == 2 * 3 * 3 - len(part) > 0
    assert distributed.rows_left(conditions, range(3), (28, 28), tmp_path / "w", (1, 2)) == 0
    assert run.run(conditions, mnist, quiet([0], workdir=tmp_path / "e", shard=(4, 5))).empty
    shutil.rmtree(tmp_path / "w" / "checkpoints", ignore_errors=True)
    whole = go(mnist, conditions, shard=(0, 2), **given)
    assert len(whole) == 2 * 3 * 3


def test_wait_for_others_can_be_stopped(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed, "_EACH", 0.0)
    left = iter((3, 2, 0))
    distributed.wait_for_others(lambda: next(left), lambda: False)
    with pytest.raises(KeyboardInterrupt):
        distributed.wait_for_others(lambda: 1, lambda: True)


@pytest.mark.parametrize("text", ["", "2", "4/4", "-1/2", "1/0", "a/b", "1/2/3"])
def test_parse_shard_takes_i_of_n(text):
    with pytest.raises(ConfigError, match=rf"^shard='{text}': must be i/n with 0 <= i < n"):
        options.parse_shard(text)


def test_initialize_refuses_what_cannot_be_joined(monkeypatch):
    distributed.initialize("")  # alone
    for how in ("yes", "10.0.0.1,0/2", "10.0.0.1:1234", "10.0.0.1:1234,2/2"):
        with pytest.raises(ConfigError, match=r"^(distributed|shard)="):
            distributed.initialize(how)


def test_run_of_a_shard_needs_a_folder_and_never_empties_it(tmp_path):
    with pytest.raises(ConfigError, match=r"^shard=1/2: needs a workdir"):
        quiet(shard=(1, 2))
    with pytest.raises(ConfigError, match=r"^shard=2/2: must be i/n"):
        quiet(shard=(2, 2), workdir=tmp_path)
    with pytest.raises(ConfigError, match=r"^resume='overwrite': must be auto where several jobs"):
        quiet(shard=(0, 2), workdir=tmp_path, resume="overwrite")
