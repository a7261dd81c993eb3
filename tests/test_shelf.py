"""Trained teachers are found again by what made them, and by nothing else."""

import numpy as np
import pytest

from sublim_jax import shelf
from sublim_jax.shelf import Shelf


def nets(seeds):
    return {"hidden_0": {"kernel": np.stack([np.full((2, 3), seed, np.float32) for seed in seeds])}}


def test_what_is_given_is_taken_seed_by_seed(tmp_path):
    one = Shelf(tmp_path, {"phase": 1})
    one.give((3, 5, 8), nets((3, 5, 8)))
    found = Shelf(tmp_path, {"phase": 1}).take((8, 3, 3))
    np.testing.assert_array_equal(found["hidden_0"]["kernel"], nets((8, 3, 3))["hidden_0"]["kernel"])
    assert one.take((3, 4)) is None, "one of them is missing"
    assert Shelf(tmp_path, {"phase": 2}).take((3,)) is None


def test_a_kept_teacher_is_not_written_again(tmp_path):
    one = Shelf(tmp_path, {})
    one.give((3,), nets((3,)))
    one.give((3,), nets((4,)))
    assert one.take((3,))["hidden_0"]["kernel"][0, 0, 0] == 3


def test_a_damaged_file_is_as_none_and_no_folder_keeps_nothing(tmp_path):
    one = Shelf(tmp_path, {})
    one.give((3,), nets((3,)))
    (file,) = tmp_path.glob("*/seed*.npz")
    file.write_bytes(file.read_bytes()[:40])
    assert one.take((3,)) is None
    Shelf(None, {}).give((3,), nets((3,)))
    assert Shelf(None, {}).take((3,)) is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    one = Shelf(tmp_path / "file" / "below", {})
    one.give((3,), nets((3,)))
    assert one.take((3,)) is None


def test_default_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert shelf.default() == tmp_path / "sublim_jax" / "teachers"


@pytest.mark.parametrize("change", [{"teacher.lr": 1e-2}, {"data.mean": 0.5}, {"net.hidden": (32, 8)}, {"root": 1}])
def test_whatever_decides_the_numbers_is_another_shelf(change, tiny, mnist, tmp_path):
    from sublim_jax.run import How, run

    how = How(teachers=str(tmp_path))
    fields = {"conditions": ("same",), "m": (3,), "student.steps": 1}
    run(tiny(**fields), mnist, seeds=2, exam=16, how=how)
    root = change.pop("root", 0)
    data_ = mnist if "data.mean" not in change else with_mean(mnist, change.pop("data.mean"))
    run(tiny(**fields, **change), data_, seeds=2, exam=16, how=how, root=root)
    assert len(list(tmp_path.glob("*/who.json"))) == 2


def with_mean(dataset, mean):
    import dataclasses

    return dataclasses.replace(dataset, train=dataset.train._replace(mean=np.float32(mean)))
