"""Damaged and foreign files of every kind: what is read is right, or one line says what is wrong."""

import json
import os
import random
import shutil

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

import sublim_jax
from sublim_jax import results
from sublim_jax.core import files
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine import params as stored_params
from sublim_jax.engine.checkpoint import Store
from sublim_jax.engine.teacher_cache import TeacherCache

pytestmark = pytest.mark.e2e

LABELS = [{"condition": "a", "m": 3}, {"condition": "b", "m": 3}]
ARRAYS = np.random.default_rng(0).normal(size=(2, 2, 40, 10)).astype(np.float32)
MUTATIONS = 60


def mutated(content, rng):
    """The content with a flipped bit, a lost end or middle, foreign bytes, zeros or more bytes."""
    place, size = rng.randrange(len(content)), rng.choice((1, 8, 64, 512, 4096))
    return rng.choice(
        (
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
            content[:place],
            content[:place] + content[place + size :],
            content[:place] + rng.randbytes(size) + content[place + size :],
            content[:place] + bytes(size) + content[place + size :],
            content[:place] + rng.randbytes(size) + content[place:],
            content + rng.randbytes(size),
            bytes(len(content)),
            content[place:] + content[:place],
            b"",
        )
    )


def write_teacher(folder):
    TeacherCache(folder, {"phase": 1}).save((3,), {"hidden": {"kernel": ARRAYS[:1, 0]}})
    return next(folder.glob("*/seed*.safetensors"))


def read_teacher(folder):
    found = TeacherCache(folder, {"phase": 1}).load((3,))
    return None if found is None else found["hidden"]["kernel"][0]


def write_checkpoint(folder):
    Store(folder / "unit", "config").save(5, {"kernel": jnp.asarray(ARRAYS[0, 0])})
    return folder / "unit" / "5.safetensors"


def read_checkpoint(folder):
    found = Store(folder / "unit", "config").restore({"kernel": jnp.zeros(ARRAYS[0, 0].shape)})
    return None if found is None else np.asarray(found[1]["kernel"])


def write_rows(folder):
    workdir = results.Workdir(folder, {"a": 1})
    workdir.begin(command="first")
    values = {"x": ARRAYS[0, 0, :2, 0].reshape(1, 2), "y": ARRAYS[0, 0, :2, 1].reshape(1, 2)}
    workdir.write("one", results.tidy(LABELS, [4], 0, values))
    workdir.finish(status="done", seconds={"total": 1.5})
    workdir.close()
    return folder / "rows" / "one.parquet"


def read_rows(folder):
    workdir = results.Workdir(folder, {"a": 1})
    workdir.begin()
    workdir.close()
    found = sublim_jax.load(folder) if workdir.has("one") else None
    assert workdir.has("one") == bool(workdir.completed())
    return None if found is None else found.to_numpy().tolist()


def write_config(folder):
    write_rows(folder)
    return folder / "config.json"


def write_run(folder):
    write_rows(folder)
    return next(folder.glob("runs/*.json"))


def read_run(folder):
    read_rows(folder)
    return [run for run in results.metadata(folder)["runs"] if run.get("command") == "first"] or None


def write_students(folder):
    stored_params.save_students(folder, "all", {"hidden": {"kernel": ARRAYS}}, LABELS, [4, 5])
    return folder / "params" / "all.safetensors"


def read_students(folder):
    if not stored_params.stored_seeds(folder):
        return None
    return sublim_jax.params(folder, 5, condition="b")["hidden"]["kernel"]


KINDS = {
    "checkpoint": (write_checkpoint, read_checkpoint),
    "teacher": (write_teacher, read_teacher),
    "rows": (write_rows, read_rows),
    "config.json": (write_config, read_rows),
    "runs": (write_run, read_run),
    "params": (write_students, read_students),
}


def plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("kind", KINDS)
def test_files_mutated_are_read_right_or_set_aside_in_one_line(kind, tmp_path, tally, capsys):
    write, read = KINDS[kind]
    folder, rng = tmp_path / "folder", random.Random(kind)
    folder.mkdir()
    file = write(folder)
    content, right = file.read_bytes(), plain(read(folder))
    assert right is not None
    for _ in range(MUTATIONS):
        shutil.rmtree(folder)
        folder.mkdir()
        file = write(folder)
        content = file.read_bytes()
        damaged = mutated(content, rng)
        file.write_bytes(damaged)
        capsys.readouterr()
        found, told = plain(read(folder)), capsys.readouterr().err
        assert found in (right, None) or kind == "runs", "other numbers"
        assert told.count("\n") == (damaged != content and file.name in told), told
        assert found is not None or told, "nothing said"
        if found is None:
            assert file.with_name(f"{file.name}.damaged").exists()
        tally("damaged files", tried=1, clean=1)


def test_load_reads_mutated_rows_right_or_not_at_all(tmp_path, tally):
    """The public functions read and change nothing."""
    file = write_rows(tmp_path)
    content, right, rng = file.read_bytes(), sublim_jax.load(tmp_path), random.Random(0)
    for _ in range(4 * MUTATIONS):
        file.write_bytes(mutated(content, rng))
        told = ""
        try:
            assert sublim_jax.load(tmp_path).equals(right)
        except ConfigError as error:
            told = str(error)
        assert "\n" not in told and (not told or str(file) in told)
        assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["one.parquet"]
        tally("damaged files", tried=1, clean=1)


def stripped(file):
    """The arrays of a file without a checksum."""
    return safetensors.numpy.load_file(file)


def foreign_teachers(file, folder):
    """Files that are whole and hold something else."""
    arrays = stripped(file)
    (name,) = arrays
    TeacherCache(folder / "other", {"phase": 2}).save((3,), {"hidden": {"kernel": 0 * ARRAYS[:1, 0]}})
    TeacherCache(folder / "other", {"phase": 1}).save((4,), {"hidden": {"kernel": ARRAYS[1:, 1]}})
    for path in (folder / "other").glob("*/seed*"):
        yield path.read_bytes()
    for changed in (np.nan * arrays[name], 0 * arrays[name], arrays[name], arrays[name][:, :5]):
        yield safetensors.numpy.save({name: changed})
    yield safetensors.numpy.save({})
    yield safetensors.numpy.save({**arrays, "more": np.zeros(3)})
    for write in (np.savez, np.savez_compressed):
        write(folder / "arrays.npz", **{"kernel": arrays[name]})
        yield (folder / "arrays.npz").read_bytes()


def test_teacher_cache_believes_no_other_teacher(tmp_path, tally, capsys):
    file = write_teacher(tmp_path / "cache")
    foreign = list(foreign_teachers(file, tmp_path))
    for content in foreign:
        file.write_bytes(content)
        assert read_teacher(tmp_path / "cache") is None
        assert capsys.readouterr().err.count("\n") == 1
        write_teacher(tmp_path / "cache")
        np.testing.assert_array_equal(read_teacher(tmp_path / "cache"), ARRAYS[0, 0])
        tally("damaged files", tried=1, clean=1)
    assert len(foreign) == 10


def in_place_of(file, kind):
    file.unlink()
    if kind == "folder":
        file.mkdir()
        (file / "inside").write_text("x")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file)


@pytest.mark.parametrize("what", ["folder", "pipe", "loop"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_no_files_are_set_aside(kind, what, tmp_path, tally, capsys):
    write, read = KINDS[kind]
    file = write(tmp_path)
    in_place_of(file, what)
    found = read(tmp_path)
    assert found is None or kind == "config.json"
    assert capsys.readouterr().err.count("\n") == 1 and os.path.lexists(file.with_name(f"{file.name}.damaged"))
    tally("damaged files", tried=1, clean=1)


def test_files_that_may_not_be_read_are_one_line(tmp_path, tally, monkeypatch):
    """Permissions do not bind root: an error of the system stands for them."""
    write_rows(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "read_bytes", refuse)
        with pytest.raises(ConfigError, match=r"one.parquet: cannot be read \(Permission denied\)$"):
            sublim_jax.load(tmp_path)
    tally("damaged files", tried=1, clean=1)


def test_workdir_sets_aside_rows_that_are_not_its_own(tmp_path, tally, capsys):
    """Parquet files of another tool, of another config, under another name, or of an older copy."""
    part = write_rows(tmp_path / "mine")
    other = results.Workdir(tmp_path / "other", {"a": 2})
    other.begin()
    other.write("two", results.tidy(LABELS, [4], 0, {"x": np.zeros((1, 2))}))
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"price": [1.0]}), foreign)
    bare = tmp_path / "bare.parquet"
    pq.write_table(results.tidy(LABELS, [4], 0, {"x": np.ones((1, 2))}), bare)
    for number, source in enumerate((foreign, bare, tmp_path / "other" / "rows" / "two.parquet", part)):
        place = part.with_name(f"copy{number}.parquet")
        shutil.copy(source, place)
        with pytest.raises(ConfigError, match=str(place)):
            sublim_jax.load(tmp_path / "mine")
        workdir = results.Workdir(tmp_path / "mine", {"a": 1})
        workdir.begin()
        workdir.close()
        assert capsys.readouterr().err.startswith(f"{place}: ") and not place.exists()
        assert len(sublim_jax.load(tmp_path / "mine")) == 2
        tally("damaged files", tried=1, clean=1)


def test_load_reads_rows_of_older_versions(tmp_path):
    """Files without checksums, as older versions wrote them, are read, and such a folder goes on."""
    part = write_rows(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for name in ("seal", "checksums"):
        del content[name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    pq.write_table(pq.read_table(part), part)
    right = sublim_jax.load(tmp_path)
    workdir = results.Workdir(tmp_path, {"a": 1})
    workdir.begin()
    assert workdir.has("one")
    workdir.write("two", results.tidy(LABELS, [5], 0, {"x": np.zeros((1, 2)), "y": np.zeros((1, 2))}))
    assert len(sublim_jax.load(tmp_path)) == 2 + len(right) and results.metadata(tmp_path)["config"] == {"a": 1}


def test_read_sealed_finds_every_flipped_bit(tmp_path, tally):
    path, text = tmp_path / "file", f"before {files.seal('me')} after".encode()
    files.write_sealed(path, text)
    whole = path.read_bytes()
    assert len(whole) == len(text) and files.read_sealed(path, "me") == whole
    for place in range(8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(files.DamagedFile):
            files.read_sealed(path, "me")
    tally("flipped bits", tried=8 * len(whole), clean=8 * len(whole))
