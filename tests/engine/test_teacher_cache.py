"""Trained teachers are found again by what made them, and by nothing else."""

import dataclasses
import functools
import gc

import numpy as np

from sublim_jax.engine import teacher_cache
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.teacher_cache import TeacherCache


def nets(seeds):
    return {"hidden_0": {"kernel": np.stack([np.full((2, 3), seed, np.float32) for seed in seeds])}}


def test_teacher_cache_loads_seed_by_seed(tmp_path):
    one = TeacherCache(tmp_path, {"phase": 1})
    one.save((3, 5, 8), nets((3, 5, 8)))
    found = TeacherCache(tmp_path, {"phase": 1}).load((8, 3, 3))
    np.testing.assert_array_equal(found["hidden_0"]["kernel"], nets((8, 3, 3))["hidden_0"]["kernel"])
    assert one.load((3, 4)) is None, "one of them is missing"
    assert TeacherCache(tmp_path, {"phase": 2}).load((3,)) is None


def test_teacher_cache_does_not_write_a_teacher_again(tmp_path):
    one = TeacherCache(tmp_path, {})
    one.save((3,), nets((3,)))
    one.save((3,), nets((4,)))
    assert one.load((3,))["hidden_0"]["kernel"][0, 0, 0] == 3


def test_teacher_cache_takes_a_damaged_file_as_none(tmp_path):
    one = TeacherCache(tmp_path, {})
    one.save((3,), nets((3,)))
    (file,) = tmp_path.glob("*/seed*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    assert one.load((3,)) is None
    assert one.save((3,), nets((4,))) and one.load((3,))["hidden_0"]["kernel"][0, 0, 0] == 4


def test_teacher_cache_in_a_folder_that_cannot_be_written_is_empty(tmp_path):
    (tmp_path / "file").write_text("")
    one = TeacherCache(tmp_path / "file" / "below", {})
    assert not one.save((3,), nets((3,)))
    assert one.load((3,)) is None


def test_default_dir_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert teacher_cache.default_dir() == tmp_path / "sublim_jax" / "teachers"


def test_teacher_caches_of_a_nameless_phase_leave_nothing_behind(tiny, tmp_path):
    plan = make_plan(tiny(conditions=("same",), m=(3,)), (28, 28))
    (phase,) = plan.teachers
    nameless = dataclasses.replace(phase.recipe, loss=functools.partial(phase.recipe.loss))
    plan = plan._replace(teachers=(phase._replace(recipe=nameless),))
    (one,), (other,) = (teacher_cache.teacher_caches(plan, tmp_path, {"root": 0}) for _ in range(2))
    assert one.save((3,), nets((3,))) and one.load((3,)) is not None and other.load((3,)) is None
    place = one._folder
    assert place.is_dir() and not list(tmp_path.iterdir())
    del one
    gc.collect()
    assert not place.parent.exists()


def names(conditions, **common):
    plan = make_plan(conditions, (28, 28))
    return {one._folder.name for one in teacher_cache.teacher_caches(plan, "nowhere", common)}


def test_teacher_caches_differ_by_all_that_decides_the_numbers(tiny):
    fields = {"conditions": ("same",), "m": (3,)}
    plain = names(tiny(**fields), data="a", root=0)
    assert names(tiny(**fields, **{"student.lr": 0.5, "perturb.teacher_after": 0.1}), data="a", root=0) == plain
    changes = {
        "teacher.lr": 1e-2,
        "teacher.optimizer": "sgd",
        "teacher.batch": 100,
        "teacher.epochs": 1,
        "teacher.frozen": ("hidden_0",),
        "net.hidden": (32, 8),
        "net.dtype": "bfloat16",
        "net.activation": "tanh",
        "net.init": "normal_fan_in",
        "classes": 5,
        "perturb.teacher_before": 0.1,
    }
    for change in ({field: value} for field, value in changes.items()):
        assert not names(tiny(**fields, **change), data="a", root=0) & plain, change
    assert not names(tiny(**fields), data="b", root=0) & plain
    assert not names(tiny(**fields), data="a", root=1) & plain
