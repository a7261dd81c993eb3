"""Every config resolves; every bad value is one line with field, value and what is allowed."""

import importlib.util
import re
from pathlib import Path

import flax.linen as nn
import numpy as np
import optax
import pytest

from sublim_jax import config as door
from sublim_jax import inits, losses, streams
from sublim_jax.errors import Refused
from sublim_jax.nets import MLP

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
    teacher, student = conditions[0].teacher, conditions[0].student
    assert teacher.recipe.batch == 1024 and teacher.recipe.marks == (5 * 1,)  # 1,000 images here
    assert streams.steps_per_epoch(60_000, 1024) == 59
    assert (teacher.recipe.stream, student.recipe.stream) == (streams.epochs, streams.uniform)
    assert (teacher.recipe.loss, student.recipe.loss) == (losses.cross_entropy, losses.mse)
    assert student.recipe.batch == 1000 and student.recipe.net.trunk == MLP((256, 256))
    for phase in (teacher, student):
        assert phase.recipe.init is inits.torch_linear and phase.recipe.optimizer is optax.scale_by_adam
        assert phase.knobs.lr == np.float32(1e-3) and all(live == 1 for live in phase.knobs.live.values())
    assert all(teacher.knobs.seen) and student.knobs.pool == 2**31 - 1
    for condition in conditions:
        seen = np.asarray(condition.student.knobs.seen)
        assert not seen[:10].any() and seen[10:].sum() == condition.labels["m"] == np.flatnonzero(seen)[-1] - 9
    random = {c.labels["condition"]: {k for k, v in c.student.knobs.share.items() if v == 0} for c in conditions}
    assert random["same"] == set() and random["random_hidden"] == {"hidden_0", "hidden_1"}
    assert [random[f"random_{name}"] for name in ("first_hidden", "second_hidden", "class_head", "aux_head")] == [
        {"hidden_0"},
        {"hidden_1"},
        {"class_head"},
        {"aux_head"},
    ]
    assert (config.data.mean, config.data.std) == (0.1307, 0.3081)


def test_identity_leaves_out_how_and_keeps_what():
    config = door.base()
    faster = door.base()
    faster.run.chunk = 3
    other = door.base()
    other.student.lr = 0.5
    assert door.identity(config) == door.identity(faster) != door.identity(other)
    coarser, elsewhere = door.base(), door.base()
    coarser.run.precision = "default"
    elsewhere.data.source = "embedded"
    assert door.identity(coarser) != door.identity(config) == door.identity(elsewhere)


def test_a_config_that_lacks_a_field_is_refused():
    config = door.base()
    with config.unlocked():
        del config.exam
    with pytest.raises(Refused, match=r"config.exam: missing; begin a config with"):
        door.resolve(config)


def test_base_fills_in_a_preset_that_fields_set_later_override(mnist):
    config = door.base("smoke")
    config.m = (50,)
    assert door.resolve(config).m == (50,) and door.resolve(config).net.hidden == (32, 16)
    with pytest.raises(Refused, match="config.preset: 'tiny'"):
        door.base("tiny")


class Wide(nn.Module):
    """A trunk of one's own."""

    @nn.compact
    def __call__(self, x):
        features = nn.relu(nn.Dense(24, name="mine")(x.reshape(len(x), -1)))
        return features, {"mine": features}


def test_a_trunk_of_ones_own_is_built_and_its_layers_are_checked(mnist):
    config = door.base("smoke")
    config.conditions = ("same", "random_aux_head")
    built = door.build(door.resolve(config), mnist, trunk=Wide())
    assert sorted(built[0].student.knobs.share) == ["aux_head", "class_head", "mine"]
    config.conditions = ("random_first_hidden",)
    with pytest.raises(Refused, match=r"config.conditions: 'hidden_0' is none of aux_head, class_head, mine"):
        door.build(door.resolve(config), mnist, trunk=Wide())


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
    "caps": ((), r"config.caps=\(\): must be a tuple of whole numbers from 1, not empty"),
    "seeds": (0, r"config.seeds=0: must be a whole number from 1 to 2147483647"),
    "first_seed": (-1, r"config.first_seed=-1: must be a whole number from 0"),
    "root": (2**32, r"config.root=4294967296: must be a whole number from 0 to 4294967295"),
    "exam": (0, r"config.exam=0: must be a whole number from 4"),
    "data.std": (0.0, r"config.data.std=0.0: must be a number above 0"),
    "net.hidden": ((0,), r"config.net.hidden=\(0,\): must be a tuple"),
    "net.init": ("torch", r"config.net.init: 'torch' is none of .*did you mean 'torch_linear'"),
    "teacher.loss": ("crossentropy", r"config.teacher.loss: .*did you mean 'cross_entropy'"),
    "teacher.stream": ("uniform", r"config.teacher.stream: 'uniform' is none of epochs"),
    "student.lr": (-1e-3, r"config.student.lr=-0.001: must be a number above 0"),
    "student.steps": (0, r"config.student.steps=0: must be a whole number from 1"),
    "student.loss": ("cross_entropy", r"config.student.loss: 'cross_entropy' is none of mse, kl"),
    "student.marks": ((-1,), r"config.student.marks=\(-1,\): must be a tuple"),
    "student.optimizer": ("adamw", r"config.student.optimizer: 'adamw' is none of adam, sgd; did you mean 'adam'\?"),
    "student.sees": ("none", r"config.student.sees: 'none' is none of aux, class, all"),
    "student.stream": ("unifrom", r"config.student.stream: .*did you mean 'uniform'"),
    "student.temperature": (0.0, r"config.student.temperature=0.0: must be a number above 0"),
    "run.memory_gb": (0.0, r"config.run.memory_gb=0.0: must be a number above 0"),
    "run.precision": ("best", r"config.run.precision='best': must be one of default, high, highest"),
    "run.devices": (-1, r"config.run.devices=-1: must be a whole number from 0"),
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
