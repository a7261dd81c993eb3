"""Checkpoints come back bitwise, the newest only; damaged ones are set aside; a full disk is one line."""

import errno
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.engine import checkpoint


def tree(value):
    return {"a": jnp.float32(value) + jax.random.normal(jax.random.key(0), (3, 2)), "b": (jnp.int32(value),)}


def restored(folder):
    """The newest step; its arrays are those that were saved."""
    saved = checkpoint.Store(folder).restore(tree(0))
    if saved is None:
        return None
    jax.tree.map(np.testing.assert_array_equal, saved[1], tree(saved[0]))
    return saved[0]


def test_store_restores_the_newest_state_bitwise(tmp_path):
    store = checkpoint.Store(tmp_path / "s")
    assert store.latest() is None and restored(tmp_path / "s") is None
    for step in (5, 10):
        store.save(step, tree(step))
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["10.safetensors"]
    (tmp_path / "s" / ".20.safetensors.tmp").write_bytes(b"killed while writing")
    assert checkpoint.Store(tmp_path / "s").latest() == 10 and restored(tmp_path / "s") == 10
    store.save(20, tree(20))
    assert restored(tmp_path / "s") == 20
    store.clear()
    assert store.latest() is None


def test_store_clear_leaves_nothing_and_takes_no_other(tmp_path):
    mine, other = (checkpoint.Store(tmp_path / "checkpoints" / name) for name in ("mine", "other"))
    mine.save(1, tree(1))
    other.save(1, tree(1))
    mine.clear()
    assert not (tmp_path / "checkpoints" / "mine").exists() and other.latest() == 1
    other.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_store_save_on_a_full_disk_is_one_line_and_keeps_the_last_state(tmp_path, monkeypatch):
    store = checkpoint.Store(tmp_path / "s")
    store.save(5, tree(5))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"^checkpoint s at step 6 cannot be saved \(No space left on device\)$"):
            store.save(6, tree(6))
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["5.safetensors"] and restored(tmp_path / "s") == 5


def folder_in_place(file):
    file.unlink()
    file.mkdir()


def foreign_step(file):
    shutil.copy(file, file.with_name("11.safetensors"))
    file.unlink()


def bare(file):
    content = file.read_bytes()
    file.write_bytes(content.replace(b"sha256=", b"sha512="))


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"0"),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "folder": folder_in_place,
    "foreign step": foreign_step,
    "no checksum": bare,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_store_restore_sets_aside_what_is_damaged(case, tmp_path, capsys):
    checkpoint.Store(tmp_path / "s").save(10, tree(10))
    DAMAGE[case](tmp_path / "s" / "10.safetensors")
    assert restored(tmp_path / "s") is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and ".safetensors.damaged" in told, told
    assert restored(tmp_path / "s") is None and not capsys.readouterr().err


def test_store_restore_falls_back_to_the_checkpoint_before(tmp_path, capsys):
    store = checkpoint.Store(tmp_path / "s")
    store.save(5, tree(5))
    kept = (tmp_path / "s" / "5.safetensors").read_bytes()
    store.save(10, tree(10))
    (tmp_path / "s" / "5.safetensors").write_bytes(kept)  # killed before it was removed
    (tmp_path / "s" / "10.safetensors").write_bytes(b"")
    assert restored(tmp_path / "s") == 5 and "10.safetensors" in capsys.readouterr().err


def test_store_restore_takes_no_other_arrays(tmp_path, capsys):
    checkpoint.Store(tmp_path / "s").save(10, {"a": jnp.zeros(3)})
    assert restored(tmp_path / "s") is None and "holds other arrays" in capsys.readouterr().err


def test_store_ignores_empty_folders_of_steps_and_a_file_in_its_place(tmp_path, capsys):
    (tmp_path / "s" / "300").mkdir(parents=True)
    assert restored(tmp_path / "s") is None
    shutil.rmtree(tmp_path / "s")
    (tmp_path / "s").write_text("in the way")
    checkpoint.Store(tmp_path / "s").save(5, tree(5))
    assert restored(tmp_path / "s") == 5 and "is no folder" in capsys.readouterr().err


def test_store_finds_every_flipped_byte(tmp_path):
    store = checkpoint.Store(tmp_path / "s")
    store.save(10, tree(10))
    file = tmp_path / "s" / "10.safetensors"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert store.restore(tree(0)) is None, place
