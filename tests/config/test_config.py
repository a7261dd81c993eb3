"""Every config resolves; every bad value is one line with field, value and what is allowed."""

import re

import flax.linen as nn
import numpy as np
import optax
import pytest
from helpers.configs import CONFIGS, config_of, config_of_argument

from sublim_jax.config import base_config, build_conditions, grid, identity, resolve
from sublim_jax.core.errors import ConfigError
from sublim_jax.nets import MLP
from sublim_jax.results import figures
from sublim_jax.training import inits, losses, streams

PRESETS = ("paper", "laptop", "smoke")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolve_takes_every_config_in_every_size(path):
    module, config = config_of(path)
    assert f"python -m sublim_jax.main --config=configs/{path.name}" in module.__doc__
    assert config.name.startswith(path.stem)
    figures.pick(config.figure)
    points = {}
    for preset in PRESETS:
        config.preset = preset
        points[preset] = [point.labels for point in grid.expand(resolve(config))]
    columns = {preset: set(labels[0]) for preset, labels in points.items()}
    assert columns["laptop"] == columns["paper"], "a laptop keeps every axis"
    assert len(points["paper"]) >= len(points["laptop"])
    amounts = {"hidden", "net_hidden", "m", "classes", "pool", "lines", "units", "draw"}
    amounts.add("trains")  # blocks that learn, of fewer blocks
    for axis in columns["paper"] - amounts:
        full, few = ({labels[axis] for labels in points[preset]} for preset in ("paper", "laptop"))
        if all(isinstance(value, float) for value in full):
            assert min(full) <= min(few) <= max(few) <= max(full), axis
        else:
            assert few == full, axis


PUBLISHED = {
    "figure3_depth": (6, {"hidden": {"256", "256x256", "256x256x256"}, "m": {10, 50}}),
    "figure3_width": (38, {"m": {10, 50}}),
    "figure3_cnn": (8, {"trunk": {"cnn", "mlp"}, "stream": {"perlin", "uniform"}, "m": {10, 50}}),
    "figure3_classes": (18, {"classes": set(range(2, 11)), "m": {50}}),
    "figure5": (80, {"layers": {"aux_head", "class_head"}, "m": {10}}),
    "figure6": (124, {"frozen": {"none", "aux_head"}, "teacher_frozen": {"none", "class_head"}, "m": {10}}),
    "cloud": (4, {"condition": {"same", "random"}, "sees": {"aux", "all"}, "m": {3}}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_expand_gives_the_published_grid_in_paper_size(name):
    _, config = config_of(next(path for path in CONFIGS if path.stem == name))
    if name == "figure3_classes":
        config = config_of_argument(name, "mnist")
    number, values = PUBLISHED[name]
    labels = [point.labels for point in grid.expand(resolve(config))]
    assert (len(labels), config.seeds) == (number, 100 if name == "cloud" else 20)
    assert {axis: {label[axis] for label in labels} for axis in values} == values


def test_figure4_is_the_published_grid_and_its_arms():
    _, config = config_of(next(path for path in CONFIGS if path.stem == "figure4"))
    of = {}
    for point in grid.expand(resolve(config)):
        of.setdefault(point.labels["arm"], []).append(point)
    powers = sorted({round(2 ** (k / 2)) for k in range(21)})
    assert [point.labels["m"] for point in of["grid"]] == powers and powers[-1] == 1024
    for point in of["grid"]:
        assert (
            sorted({*point.config.student.eval_steps}) == [5 * n for n in powers] and point.config.student.steps == 5120
        )
    (single,) = of["one_logit"]
    assert single.labels["m"] == 1 and max(single.config.student.eval_steps) == single.config.student.steps == 5 * 8192
    assert max(point.labels["m"] for point in of["one_step"]) == 8192
    assert {(point.config.student.steps, point.labels["pool"]) for point in of["one_step"]} == {(5, 0)}


def test_get_config_on_emnist_has_its_classes(tmp_path, monkeypatch):
    classes = config_of_argument("figure3_classes", "emnist")
    assert {point.labels["classes"] for point in grid.expand(resolve(classes))} == set(range(2, 48))
    assert (classes.data.name, classes.name) == ("emnist/balanced", "figure3_classes_emnist")
    width = config_of_argument("figure6", "emnist")
    assert (width.data.name, width.m, len(grid.expand(resolve(width)))) == ("emnist/balanced", (50,), 31)
    with pytest.raises(ValueError, match="none of mnist, emnist"):
        config_of_argument("figure6", "kmnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert config_of_argument("figure3_classes", "auto").data.name == "mnist"


def test_cloud_is_the_published_protocol(mnist):
    _, config = config_of(next(path for path in CONFIGS if path.stem == "cloud"))
    built = build_conditions(resolve(config), mnist)
    assert (config.data.mean, config.data.std) == (0.5, 0.5)
    for condition in built:
        teacher, student = condition.teacher.recipe, condition.student.recipe
        assert (student.loss, student.batch, student.eval_steps[-1]) == (losses.kl, 1024, 295)
        assert teacher.init is student.init is inits.normal_fan_in
        assert condition.teacher.knobs.lr == condition.student.knobs.lr == np.float32(3e-4)
        assert condition.student.knobs.noise_batches == 59 and condition.student.knobs.logit_mask.shape == (13,)
        seen = {"aux": [False] * 10 + [True] * 3, "all": [True] * 13}[condition.labels["sees"]]
        assert condition.student.knobs.logit_mask.tolist() == seen
        assert {float(one) for one in condition.student.knobs.share.values()} == {
            1.0 if condition.labels["condition"] == "same" else 0.0
        }


def test_figure2_is_the_published_sweep(mnist):
    _, config = config_of(next(path for path in CONFIGS if path.stem == "figure2"))
    assert (config.seeds, config.m, len(config.conditions)) == (20, (3, 10, 25, 50, 100, 250), 6)
    conditions = build_conditions(resolve(config), mnist)
    assert {condition.student.recipe.eval_steps[-1] for condition in conditions} == {300}
    teacher, student = conditions[0].teacher, conditions[0].student
    assert teacher.recipe.batch == 1024 and teacher.recipe.eval_steps == (5 * 1,)  # 1,000 images here
    assert streams.steps_per_epoch(60_000, 1024) == 59
    assert (teacher.recipe.stream, student.recipe.stream) == (streams.epochs, streams.uniform)
    assert (teacher.recipe.loss, student.recipe.loss) == (losses.cross_entropy, losses.mse)
    assert student.recipe.batch == 1000 and student.recipe.net.trunk == MLP((256, 256))
    for phase in (teacher, student):
        assert phase.recipe.init is inits.torch_linear and phase.recipe.optimizer is optax.scale_by_adam
        assert phase.knobs.lr == np.float32(1e-3) and all(live == 1 for live in phase.knobs.trainable.values())
    assert all(teacher.knobs.logit_mask) and student.knobs.noise_batches == 2**31 - 1
    for condition in conditions:
        seen = np.asarray(condition.student.knobs.logit_mask)
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
    config = base_config()
    faster = base_config()
    faster.run.seed_batch = 3
    other = base_config()
    other.student.lr = 0.5
    assert identity(config) == identity(faster) != identity(other)
    coarser, elsewhere = base_config(), base_config()
    coarser.run.precision = "default"
    elsewhere.data.source = "embedded"
    assert identity(coarser) != identity(config) == identity(elsewhere)


def test_resolve_refuses_a_config_that_lacks_a_field():
    config = base_config()
    with config.unlocked():
        del config.num_eval_noise
    with pytest.raises(ConfigError, match=r"config.num_eval_noise: missing; begin a config with"):
        resolve(config)


def test_base_config_takes_a_preset_that_later_fields_override(mnist):
    config = base_config("smoke")
    config.m = (50,)
    assert resolve(config).m == (50,) and resolve(config).net.hidden == (32, 16)
    with pytest.raises(ConfigError, match="config.preset: 'tiny'"):
        base_config("tiny")


class Wide(nn.Module):
    """A trunk of one's own."""

    @nn.compact
    def __call__(self, x):
        features = nn.relu(nn.Dense(24, name="mine")(x.reshape(len(x), -1)))
        return features, {"mine": features}


def test_build_conditions_takes_a_trunk_and_checks_its_layers(mnist):
    config = base_config("smoke")
    config.conditions = ("same", "random_aux_head")
    built = build_conditions(resolve(config), mnist, trunk=Wide())
    assert sorted(built[0].student.knobs.share) == ["aux_head", "class_head", "mine"]
    config.conditions = ("random_first_hidden",)
    with pytest.raises(ConfigError, match=r"config.conditions: 'hidden_0' is none of aux_head, class_head, mine"):
        build_conditions(resolve(config), mnist, trunk=Wide())


def test_resolve_lets_overrides_win_over_the_preset():
    config = base_config()
    config.preset = "smoke"
    config.student.steps = 7
    assert resolve(config, {"student.steps": 7}).student.steps == 7
    assert resolve(config).student.steps == 20


BAD = {
    "preset": ("smok", r"config.preset: 'smok' is none of paper, laptop, smoke; did you mean 'smoke'\?"),
    "conditions": (("sane",), r"config.conditions: 'sane' is none of same, .*; did you mean 'same'\?"),
    "m": ((10, 5000), r"config.m=5000: must be at most 1024, the largest of config.aux_widths"),
    "aux_widths": ((), r"config.aux_widths=\(\): must be a tuple of whole numbers from 1 to 1048576, .*, not empty"),
    "seeds": (0, r"config.seeds=0: must be a whole number from 1 to 10000"),
    "num_eval_noise": (0, r"config.num_eval_noise=0: must be a whole number from 4"),
    "net.hidden": ((0,), r"config.net.hidden=\(0,\): must be a tuple"),
    "net.init": ("torch", r"config.net.init: 'torch' is none of .*did you mean 'torch_linear'"),
    "teacher.stream": ("uniform", r"config.teacher.stream: 'uniform' is none of epochs"),
    "student.lr": (-1e-3, r"config.student.lr=-0.001: must be a number above 0"),
    "student.loss": ("cross_entropy", r"config.student.loss: 'cross_entropy' is none of mse, kl"),
    "student.eval_steps": ((-1,), r"config.student.eval_steps=\(-1,\): must be a tuple"),
    "student.optimizer": (
        "adams",
        r"config.student.optimizer: 'adams' is none of adam, sgd, momentum, adam_l2, adamw; did you mean 'adam'\?",
    ),
    "teacher.optimizer": ("adamw", r"config.teacher.optimizer='adamw': decay moves a head .* one of adam, sgd, mom"),
    "student.decay": (0.1, r"config.student.decay=0.1: only adam_l2, adamw have it; must be 0"),
    "student.mixed": (1.5, r"config.student.mixed=1.5: must be a finite number from 0 to 1"),
    "student.target_noise": (-1.0, r"config.student.target_noise=-1.0: must be a finite number from 0"),
    "student.levels": (-1, r"config.student.levels=-1: must be a whole number from 0 to 1048576"),
    "student.guard": (
        "projct",
        r"config.student.guard: 'projct' is none of \(empty\), project, .*; did you mean 'project'\?",
    ),
    "classes": (1, r"config.classes=1: must be 0 \(all\) or a whole number from 2"),
    "metrics": (("taks",), r"config.metrics: 'taks' is none of task, .*; did you mean 'task'\?"),
    "net.activation": ("rleu", r"config.net.activation: 'rleu' is none of .*; did you mean 'relu'\?"),
    "net.trunk": ("rnn", r"config.net.trunk: 'rnn' is none of mlp, cnn; did you mean 'cnn'\?"),
    "net.pools": ((2,), r"config.net.pools=\(2,\): must be as many as config.net.channels=\(32, 128\)"),
    "perturb.layers": ((), r"config.perturb.layers=\(\): must be a tuple of names .*, not empty"),
    "student.rotated": (("hidden_0",), r"config.student.rotated: 'hidden_0' is none of class_head, aux_head"),
    "student.rotation": ("same", r"config.student.rotation: 'same' is none of common, apart"),
}


@pytest.mark.parametrize("field", BAD)
def test_resolve_refuses_a_bad_value_in_one_line(field):
    value, message = BAD[field]
    config = base_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError) as refused:
        resolve(config)
    assert re.search(message, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("fields", "message"), [
    ({"carried": "first"}, "carried='first': has no effect without config.student.cut"),
    ({"future": "flipped"}, "future='flipped': has no effect without config.student.cut"),
    ({"cut": 300}, "cut=300: must be below config.student.steps=300"),
    ({"cut": 50, "eval_steps": (0, 20)}, "eval_steps=(0, 20): 20 is before the cut, 50"),
    ({"cut": 50, "future": "unrelated", "sees": "all"}, "future='unrelated': sees all logits of another"),
    ({"cut": 50, "future": "flipped", "batch": 1}, "future='flipped': needs batches of several inputs"),
    ({"cut": 50}, "recovery predict students that imitate the trained teacher from their first step on"),
    ({"cut": 50, "guard": "project"}, "guard='project': must not be given with config.student.cut"),
    ({"cut": 50, "optimizer": "momentum", "carried": "all"}, "momentum has no such moment"),
    ({"cut": 50, "optimizer": "sgd", "carried": "weights+first"}, "sgd has no such moment; must be one of none, w"),
])  # fmt: skip
def test_resolve_refuses_a_cut_that_means_nothing(fields, message):
    config = base_config()
    with config.unlocked():
        config.student.update(fields)
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(config)


def test_resolve_refuses_conditions_that_do_not_fit_the_net(mnist):
    config = base_config()
    config.net.hidden = (32,)
    config.conditions = ("random_second_hidden",)
    with pytest.raises(ConfigError, match="random_second_hidden needs two hidden layers"):
        resolve(config)
    config.conditions = ("random_hidden",)
    assert len(build_conditions(resolve(config), mnist)) == 1


def test_build_conditions_refuses_layers_that_no_net_has(mnist):
    for field, value, message in (
        ("teacher.frozen", ("aux_haed",), r"config.teacher.frozen: 'aux_haed' is none of class_head, hidden_0"),
        ("student.frozen", ("conv_*",), r"config.student.frozen: 'conv_\*' is none of aux_head, class_head"),
    ):
        config = base_config("smoke")
        config.update_from_flattened_dict({field: value})
        with pytest.raises(ConfigError, match=message):
            build_conditions(resolve(config), mnist)
    config = base_config("smoke")
    config.student.hidden = (32, 8)
    with pytest.raises(ConfigError, match=r"config.student.hidden=\(32, 8\): must end as the teacher's, \(32, 16\)"):
        build_conditions(resolve(config), mnist)
    config = base_config("smoke")
    config.perturb.layers, config.perturb.student_before = ("hiden_0",), 0.1
    with pytest.raises(ConfigError, match=r"config.perturb.layers: 'hiden_0' is none of .*did you mean 'hidden_0'"):
        build_conditions(resolve(config), mnist)
