"""Runs that are killed again and again, with files damaged in between: in the end the rows of an undisturbed run."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers.fork_server import KILLED, ForkServer

import sublim_jax
from sublim_jax import results

SMOKE = ("--config.preset=smoke", "--config.run.teachers=")
IMAGES = (*SMOKE, "--config.data.source=embedded", "--config.metrics=('task',)", "--config.conditions=('same',)")
STEPS = ("--config.m=(3,)", "--config.student.steps=40", "--config.run.save_every=4")
ONE = "--config.arms.{}=({},)"
COMMANDS = {
    "figure2": ("--config=figure2", *IMAGES, *STEPS),
    "theorem1": ("--config=theorem1", *SMOKE, "--config.data.source=embedded"),
    "lm_dose": (
        *("--config=lm_dose", *SMOKE, ONE.format("soft.lm.dose", 0.02), ONE.format("greedy.lm.dose", 0.02)),
        *(ONE.format("lines.lm.lines", 16), "--config.seeds=1"),
    ),
    "shards": ("--config=quickstart", *IMAGES, *STEPS, "--config.seeds=4"),
}
SHARDS = {"shards": ("--shard=0/2", "--shard=1/2")}
KILLS = {"figure2": 36, "theorem1": 24, "lm_dose": 8, "shards": 30}  # where minutes do not matter
FEW_KILLS = {"figure2": 6, "shards": 5}


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        yield server


def rows(folder):
    """All rows in a fixed order."""
    found = sublim_jax.load(folder)
    return found.sort_values([name for name in found if "/" not in name], ignore_index=True)


def flip(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def overwrite(file, rng):
    with file.open("r+b") as opened:
        opened.seek(rng.randrange(file.stat().st_size))
        opened.write(rng.randbytes(64))


def make_folder(file, rng):
    file.unlink()
    file.mkdir()


def exchange(file, rng):
    """Put the file of another unit, or of another step, in its place."""
    others = [path for path in file.parent.parent.rglob(f"*{file.suffix}") if path != file and path.is_file()]
    if others:
        shutil.copy(rng.choice(others), file)


DAMAGE = (flip, cut, overwrite, make_folder, exchange, lambda file, rng: file.unlink())


def damage(folder, rng):
    """Damage one file that a run reads again; empty folders in place of checkpoints come with it."""
    names = ("checkpoints/*/*", "teachers/*/*", "rows/*", "runs/*", "config.json")
    files = [
        path for name in names for path in folder.glob(name) if path.suffix in (".safetensors", ".parquet", ".json")
    ]
    files = sorted(path for path in files if path.is_file() and path.stat().st_size)
    for unit in folder.glob("checkpoints/*"):
        (unit / str(rng.randrange(100))).mkdir(exist_ok=True)
    if not files:
        return 0
    file = rng.choice(files)
    if file.name == "config.json":
        flip(file, rng)
    else:
        rng.choice(DAMAGE)(file, rng)
    return 1


def disturbed(server, where, words, kills, rng, shards):
    """Kill runs in a folder at random moments, with damage in between, then let them finish; returns the counts."""
    done = damaged = 0
    for attempt in range(5 * kills):
        if done == kills:
            break
        finished = True
        for shard in shards:
            how = rng.choice(("rename", "rename", "time"))
            moment = {"seconds": rng.uniform(0.3, 4)} if how == "time" else {"rename": rng.randrange(1, 7)}
            ended = server.run(
                where, *words, *shard, "--workdir=broken", when=rng.choice(("before", "after")), **moment
            )
            assert ended["code"] in (0, KILLED), ended["stderr"]
            assert "Traceback" not in ended["stderr"], ended["stderr"]
            done += ended["code"] == KILLED
            finished &= ended["code"] == 0
        if finished and done < kills:  # too early: begin once more
            assert rows(where / "broken").equals(rows(where / "plain"))
            shutil.rmtree(where / "broken")
        elif attempt % 3 == 2:
            damaged += damage(where / "broken", rng)
    for shard in (*shards, *shards[:-1]):  # of several jobs the last one may have found damage of the others
        ended = server.run(where, *words, *shard, "--workdir=broken")
        assert ended["code"] == 0, ended["stderr"]
    return done, damaged


@pytest.mark.parametrize(
    ("case", "least"),
    [pytest.param(case, few, marks=pytest.mark.e2e) for case, few in FEW_KILLS.items()]
    + [pytest.param(case, many, marks=pytest.mark.slow) for case, many in KILLS.items()],
)
def test_main_killed_again_and_again_gives_the_rows_of_an_undisturbed_run(case, least, server, tmp_path, tally):
    words, rng = COMMANDS[case], random.Random(f"{case} {least}")
    plain = server.run(tmp_path, *words, "--workdir=plain")
    assert plain["code"] == 0, plain["stderr"]
    shards = [(shard,) for shard in SHARDS.get(case, ())] or [()]
    kills, damaged = disturbed(server, tmp_path, words, least, rng, shards)
    same = rows(tmp_path / "broken").equals(rows(tmp_path / "plain"))
    tally(f"kills, {case}", tried=kills, clean=kills * same)
    tally("damaged files between kills", tried=damaged, clean=damaged * same)
    assert same and kills >= least
    assert (tmp_path / "broken" / "report.html").exists()
    assert case in SHARDS or not list((tmp_path / "broken").glob("**/.*.tmp")), "other jobs may be writing"
    assert results.metadata(tmp_path / "broken")["runs"]


def command(*words):
    return [sys.executable, "-m", "sublim_jax.main", *COMMANDS["shards"], *words]


def quiet(*words, **options):
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def kill_when_saved(process, folder):
    """Kill a process once another checkpoint has been written; whether it was killed."""
    before = set(folder.glob("**/*.safetensors"))
    while process.poll() is None and set(folder.glob("**/*.safetensors")) <= before:
        time.sleep(0.005)
    process.kill()
    _, told = process.communicate(timeout=300)
    assert "Traceback" not in told, told
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def plain_rows(tmp_path_factory, server):
    where = tmp_path_factory.mktemp("plain")
    assert server.run(where, *COMMANDS["shards"], "--workdir=plain")["code"] == 0
    return rows(where / "plain")


@pytest.mark.e2e
def test_distributed_process_killed_again_and_again_gives_the_rows_of_one(tmp_path, plain_rows, tally):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{one.getsockname()[1]}"
    words = [(f"--distributed={place},{index}/2", "--workdir=two", "--config.student.steps=40") for index in range(2)]
    first, kills = quiet(*words[0], cwd=tmp_path), 0
    for _ in range(2):
        kills += kill_when_saved(quiet(*words[1], cwd=tmp_path), tmp_path / "two")
    told = [process.communicate(timeout=400) for process in (quiet(*words[1], cwd=tmp_path), first)]
    assert first.returncode == 0, told
    same = rows(tmp_path / "two").equals(plain_rows)
    tally("kills, distributed", tried=kills, clean=kills * same)
    assert same


@pytest.fixture
def home():
    """A folder that another user can reach, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@pytest.mark.e2e
def test_main_killed_as_a_user_without_root_gives_the_same_rows(home, plain_rows, tally):
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to become another user")
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
    os.chown(home, 65534, 65534)
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(home)}
    probe = subprocess.run([*user, sys.executable, "-c", "import sublim_jax"], env=environment, cwd=home, check=False)
    if probe.returncode:
        pytest.skip("another user cannot read the package")
    words, kills = [*user, *command("--workdir=broken")], 0
    options = {"cwd": home, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for _ in range(3):
        kills += kill_when_saved(subprocess.Popen(words, **options), home / "broken")
    done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    same = rows(home / "broken").equals(plain_rows)
    tally("kills, user without root", tried=kills, clean=kills * same)
    assert same and (home / "broken").stat().st_uid == 65534


@pytest.mark.e2e
def test_main_on_a_full_disk_is_one_line_and_goes_on_when_there_is_space(tmp_path, plain_rows, tally):
    if os.geteuid():
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        full = quiet("--workdir=w", cwd=disk)
        _, told = full.communicate(timeout=400)
        assert full.returncode == 1 and told.count("\n") == 1, told
        assert "No space left on device" in told and "To go on: python -m sublim_jax.main" in told
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        again = quiet("--workdir=w", cwd=disk)
        _, told = again.communicate(timeout=400)
        assert again.returncode == 0, told
        same = rows(disk / "w").equals(plain_rows)
        tally("full disks", tried=1, clean=int(same))
        assert same
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
