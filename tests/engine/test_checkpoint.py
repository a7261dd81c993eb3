"""Checkpoints come back bitwise, the newest only; a full disk is said before anything is written."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.engine import checkpoint


def tree(value):
    return {"a": jnp.float32(value) + jax.random.normal(jax.random.key(0), (3, 2)), "b": (jnp.int32(value),)}


@pytest.mark.parametrize("processes", [1, 2])
def test_store_restores_the_newest_state_bitwise(tmp_path, monkeypatch, processes):
    """One of several processes writes its arrays beside the folder; all others write nothing."""
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    store = checkpoint.Store(tmp_path / "s")
    assert store.latest() is None
    for step in (5, 10):
        store.save(step, tree(step))
    again = checkpoint.Store(tmp_path / "s")
    if processes == 2:
        assert len(list((tmp_path / "s-arrays").iterdir())) == 1
        (tmp_path / "s-arrays" / "20.tmp").mkdir()  # killed while writing
    assert again.latest() == 10
    jax.tree.map(np.testing.assert_array_equal, again.restore(10, tree(0)), tree(10))
    again.save(20, tree(20))
    assert checkpoint.Store(tmp_path / "s").latest() == 20
    again.clear()
    assert again.latest() is None


def test_store_remove_leaves_nothing_and_takes_no_other(tmp_path):
    mine, other = (checkpoint.Store(tmp_path / "checkpoints" / name) for name in ("mine", "other"))
    mine.save(1, tree(1))
    other.save(1, tree(1))
    mine.remove()
    assert not (tmp_path / "checkpoints" / "mine").exists() and other.latest() == 1
    other.remove()
    assert not (tmp_path / "checkpoints").exists()


def test_store_save_on_a_full_disk_is_one_line_and_keeps_the_last_state(tmp_path, monkeypatch):
    store = checkpoint.Store(tmp_path / "s")
    store.save(5, tree(5))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"no space for a checkpoint in .*: 28 bytes needed, 10 free"):
        store.save(6, tree(6))
    assert checkpoint.Store(tmp_path / "s").latest() == 5
