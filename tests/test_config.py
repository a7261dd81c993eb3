"""Every config resolves; every bad value is one line with field, value and what is allowed."""

import importlib.util
import re
from pathlib import Path

import pytest

from sublim_jax import config as door
from sublim_jax.errors import Refused

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/*.py"))


def config_of(path):
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_resolves_full_and_smoke_and_says_its_command(path, mnist):
    module, config = config_of(path)
    assert f"python -m sublim_jax.main --config=configs/{path.name}" in module.__doc__
    assert config.name == path.stem
    full = door.build(door.resolve(config), mnist)
    assert len(full) == len(config.conditions) * len(config.m)
    config.preset = "smoke"
    assert door.resolve(config).student.steps < config.student.steps


def test_figure2_is_the_published_sweep(mnist):
    _, config = config_of(next(path for path in CONFIGS if path.stem == "figure2"))
    assert (config.seeds, config.m, len(config.conditions)) == (20, (3, 10, 25, 50, 100, 250), 6)
    conditions = door.build(door.resolve(config), mnist)
    assert {condition.student.recipe.marks[-1] for condition in conditions} == {300}
    teacher = conditions[0].teacher.recipe
    assert teacher.batch == 1024 and teacher.marks == (5 * 1,)  # 1,000 images here; 59 steps an epoch on all 60,000


def test_identity_leaves_out_how_and_keeps_what():
    config = door.base()
    faster = door.base()
    faster.run.chunk = 3
    other = door.base()
    other.student.lr = 0.5
    assert door.identity(config) == door.identity(faster) != door.identity(other)


def test_overrides_win_over_the_preset():
    config = door.base()
    config.preset = "smoke"
    config.student.steps = 7
    assert door.resolve(config, {"student.steps": 7}).student.steps == 7
    assert door.resolve(config).student.steps == 20


BAD = {
    "preset": ("smok", r"config.preset: 'smok' is none of full, smoke; did you mean 'smoke'\?"),
    "conditions": (("sane",), r"config.conditions: 'sane' is none of same, .*; did you mean 'same'\?"),
    "m": ((10, 5000), r"config.m=5000: must be at most 1024, the largest of config.caps"),
    "caps": ((), r"config.caps=\(\): must be a tuple of whole numbers of at least 1, not empty"),
    "seeds": (0, r"config.seeds=0: must be a whole number of at least 1"),
    "first_seed": (-1, r"config.first_seed=-1: must be a whole number of at least 0"),
    "exam": (0, r"config.exam=0: must be a whole number of at least 4"),
    "data.std": (0.0, r"config.data.std=0.0: must be a number above 0"),
    "net.hidden": ((0,), r"config.net.hidden=\(0,\): must be a tuple"),
    "net.init": ("torch", r"config.net.init: 'torch' is none of .*did you mean 'torch_linear'"),
    "teacher.loss": ("crossentropy", r"config.teacher.loss: .*did you mean 'cross_entropy'"),
    "teacher.stream": ("uniform", r"config.teacher.stream: 'uniform' is none of epochs"),
    "student.lr": (-1e-3, r"config.student.lr=-0.001: must be a number above 0"),
    "student.steps": (0, r"config.student.steps=0: must be a whole number of at least 1"),
    "student.marks": ((-1,), r"config.student.marks=\(-1,\): must be a tuple"),
    "student.optimizer": ("adamw", r"config.student.optimizer: 'adamw' is none of adam, sgd; did you mean 'adam'\?"),
    "student.sees": ("none", r"config.student.sees: 'none' is none of aux, class, all"),
    "student.stream": ("unifrom", r"config.student.stream: .*did you mean 'uniform'"),
    "student.temperature": (0.0, r"config.student.temperature=0.0: must be a number above 0"),
    "run.memory_gb": (0.0, r"config.run.memory_gb=0.0: must be a number above 0"),
    "run.precision": ("best", r"config.run.precision='best': must be one of default, high, highest"),
    "run.devices": (0, r"config.run.devices=0: must be a whole number of at least 1"),
}


@pytest.mark.parametrize("field", BAD)
def test_bad_value_is_one_line(field):
    value, message = BAD[field]
    config = door.base()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(Refused) as refused:
        door.resolve(config)
    assert re.search(message, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_conditions_that_do_not_fit_the_net_are_refused(mnist):
    config = door.base()
    config.net.hidden = (32,)
    config.conditions = ("random_second_hidden",)
    with pytest.raises(Refused, match="random_second_hidden needs two hidden layers"):
        door.resolve(config)
    config.conditions = ("random_hidden",)
    assert len(door.build(door.resolve(config), mnist)) == 1
