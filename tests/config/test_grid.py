"""A sweep as axes: products, arms, labels, and what is refused."""

import pytest

from sublim_jax.config import base_config, grid, identity, resolve
from sublim_jax.core.errors import ConfigError


def config_with(**named):
    config = base_config("smoke")
    for name, axes in named.items():
        grid.add_grid(config, name, axes)
    return config


def labels(config):
    return [point.labels for point in grid.expand(config)]


def test_expand_without_arms_takes_conditions_and_m():
    config = base_config("smoke")
    assert labels(config) == [{"condition": name, "m": m} for name in config.conditions for m in (3, 10)]


def test_expand_multiplies_the_axes_of_an_arm_and_the_common_ones():
    config = config_with(a={"student.hidden": ((), (8, 16)), "student.lr": (1e-3, 1e-2)})
    config.conditions = ("same",)
    found = grid.expand(config)
    assert len(found) == 2 * 2 * 2 and len({tuple(point.labels.items()) for point in found}) == 8
    assert found[-1].labels == {"condition": "same", "m": 10, "hidden": "8x16", "lr": 1e-2}
    assert found[-1].config.student.hidden == (8, 16) and found[-1].config.student.lr == 1e-2
    assert found[0].labels["hidden"] == "32x16", "the teacher's, where the student has none of its own"


def test_expand_lists_arms_one_after_another_with_the_same_columns():
    config = config_with(a={"m": (3,), "student.alpha": (0.5, 1.0)}, b={"student.loss": ("mse", "kl"), "m": (5, 7)})
    config.conditions = ("same",)
    found = grid.expand(config)
    assert [point.labels["arm"] for point in found] == ["a", "a", "b", "b", "b", "b"]
    assert all(point.labels.keys() == {"arm", "condition", "m", "alpha", "loss"} for point in found)
    assert [point.widths for point in found] == [(3,)] * 2 + [(5, 7)] * 4
    assert found[0].labels["loss"] == "mse" and found[-1].labels["alpha"] == 0.5, "what an arm does not sweep: as is"


def test_expand_makes_no_label_of_steps_and_one_of_a_single_value():
    config = config_with(a={"student.steps": (5, 7), "student.lr": (1.0,), "m": (3,)})
    config.conditions = ("same",)
    assert labels(config) == [{"condition": "same", "m": 3, "lr": 1.0}] * 2


def test_expand_joins_tuples_of_names_and_makes_numbers_floats():
    config = config_with(a={"student.frozen": ((), ("class_head", "aux_head")), "perturb.student_before": (0, 0.5)})
    found = labels(config)
    assert {one["frozen"] for one in found} == {"none", "class_head+aux_head"}
    assert all(isinstance(one["student_before"], float) for one in found)


REFUSED = {
    "no such field": ({"student.lrr": (1.0,)}, r"arm 'a': 'student.lrr' is none of .*did you mean 'student.lr'"),
    "not a tuple": ({"student.lr": 1.0}, r"arm 'a': student.lr=1.0: must be a tuple of values"),
    "a section": ({"student": (1,)}, r"arm 'a': 'student' is none of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_add_grid_refuses_a_bad_axis(case):
    axes, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        config_with(a=axes)


def test_resolve_refuses_bad_values_of_an_axis():
    for axes, message in (
        ({"student.lr": ()}, "config.arms.a.student.lr=.*not empty"),
        ({"student.lr": (1.0, 1.0)}, "config.arms.a.student.lr=.*twice"),
        ({"student.lr": (1.0, -1.0)}, r"config.arms.a.student.lr=-1.0: must be a number above 0"),
        ({"student.lr": ("x",)}, "config.arms.a.student.lr=.x.: must be a number"),
        (
            {"root_seed": (0, 1)},
            "config.arms.a.root_seed: is one for a whole sweep; an arm may hold conditions, m, classes and",
        ),
        ({"data.train_limit": (10, 20)}, "config.arms.a.data.train_limit: is one for a whole sweep"),
        ({"student.loss": ("mse", "mes")}, "config.arms.a.student.loss: 'mes' is none of .*did you mean 'mse'"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(config_with(a=axes))


def test_resolve_refuses_a_field_that_an_arm_sweeps():
    config = config_with(a={"m": (3,)})
    with pytest.raises(ConfigError, match=r"config.m: is swept by an arm; say --config.arms.a.m"):
        resolve(config, {"m": (5,)})
    assert {point.labels["m"] for point in grid.expand(resolve(config, {"arms.a.m": (3,)}))} == {3}


def test_matching_takes_patterns_of_layers():
    layers = ("hidden_0", "hidden_1", "class_head")
    assert grid.matching(layers, ("hidden_*",), "f") == ["hidden_0", "hidden_1"]
    assert grid.matching(layers, (), "f") == []
    with pytest.raises(ConfigError, match="config.f: 'aux_haed' is none of hidden_0"):
        grid.matching(layers, ("aux_haed",), "f")


def test_add_preset_changes_its_fields_and_the_user_wins():
    config = config_with(a={"student.lr": (0.1, 0.2)})
    grid.add_preset(config, "laptop", {"seeds": 2, "arms.a.student.lr": (0.3,)})
    config.preset = "laptop"
    resolved = resolve(config, {"seeds": 5})
    assert (resolved.seeds, resolved.arms.a.student.lr) == (5, (0.3,))
    by_hand = config_with(a={"student.lr": (0.3,)})
    by_hand.preset, by_hand.seeds = "paper", 5
    assert identity(resolved) == identity(resolve(by_hand))
    assert not {"preset", "presets"} & identity(resolved).keys()
