"""Configs of infomorphic networks: every bad value is one line, and every point of a sweep is the net that it names."""

import re

import numpy as np
import pytest

import sublim_jax as sl
from sublim_jax import main
from sublim_jax.config import grid, infomorphic_config, resolve
from sublim_jax.config.infomorphic import build_conditions, load_data
from sublim_jax.core.errors import ConfigError
from sublim_jax.training import infomorphic


def resolved(**fields):
    config = infomorphic_config()
    given = {"preset": "smoke"} | {name.strip().replace("__", "."): value for name, value in fields.items()}
    with config.unlocked():
        config.update_from_flattened_dict(given)
    return resolve(config, given)


BAD = {
    "infomorphic__model": ("sideways", r"config.infomorphic.model: 'sideways' is none of context_lateral"),
    "infomorphic__weights": ((1.0, 2.0), r"config.infomorphic.weights=\(1.0, 2.0\): must be 19 numbers"),
    "infomorphic__weights ": ((float("nan"),) * 19, r"config.infomorphic.weights=.*: must be a tuple of numbers"),
    "infomorphic__readout": ((), r"config.infomorphic.readout=\(\): must be 5 numbers"),
    "infomorphic__readout ": ((1.0,), r"config.infomorphic.readout=\(1.0,\): must be 5 numbers"),
    "infomorphic__without": ("{4}", r"config.infomorphic.without: '\{4\}' is none of"),
    "infomorphic__eval_epochs": ((9,), r"config.infomorphic.eval_epochs=\(9,\): must be at most 2"),
    "infomorphic__lr": (0.0, r"config.infomorphic.lr=0.0: must be a number above 0"),
    "infomorphic__units": (0, r"config.infomorphic.units=0: must be a whole number from 1"),
    "metrics": (("atoms",), r"config.metrics=.*: must hold task"),
    "transfer__student": ("cnn", r"config.transfer.student: 'cnn' is none of"),
    "transfer__bits": ("none", r"config.transfer.bits: 'none' is none of teacher, shuffled, untrained"),
}


@pytest.mark.parametrize("field", BAD)
def test_resolve_refuses_a_bad_value_in_one_line(field):
    value, message = BAD[field]
    with pytest.raises(ConfigError, match=message) as error:
        resolved(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", ["context", "lateral"])
def test_resolve_refuses_goals_of_three_sources_for_units_with_two(model):
    for fields in ({"goal": "simplified"}, {"weights": (0.1,) * 19}, {"without": "{123}"}):
        named = {f"infomorphic__{name}": value for name, value in fields.items()}
        with pytest.raises(ConfigError, match=r"config\.infomorphic\."):
            resolved(infomorphic__model=model, **named)


def test_resolve_refuses_a_teacher_of_bits_that_has_none():
    with pytest.raises(ConfigError, match=r"config.infomorphic.model='readout': a teacher of bits must be"):
        resolved(infomorphic__model="readout", transfer__student="hidden")


@pytest.mark.parametrize(("fields", "message"), [
    ({"infomorphic__model": "readout", "infomorphic__draw": 3}, "config.infomorphic.draw=3: readout has no goal"),
    ({"infomorphic__model": "backprop", "infomorphic__without": "{1}"}, "without='{1}': backprop has no goal"),
    ({"infomorphic__model": "readout", "infomorphic__readout": (1.0,)}, "readout=(1.0,): must be 5 numbers"),
    ({"infomorphic__draw": 3, "infomorphic__weights": (0.1,) * 19}, "draw=3: config.infomorphic.weights gives"),
    ({"transfer__student": "mlp", "transfer__bits": "shuffled"}, "bits='shuffled': an mlp imitates logits"),
    ({"transfer__student": "mlp", "transfer__context": "fresh"}, "context='fresh': mlp has no context weights"),
    ({"transfer__student": "hidden", "transfer__context": "fresh", "transfer__heads": "fresh_aux"},
     "heads='fresh_aux': fresh context weights read no auxiliary head"),
])  # fmt: skip
def test_resolve_refuses_values_without_effect(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolved(**fields)


def test_load_data_holds_out_the_last_training_images():
    whole = load_data(resolved(data__source="embedded", data__train_limit=0))
    config = resolved(data__source="embedded", data__train_limit=700, validation=300)
    split = load_data(config)
    assert (split.train.x == whole.train.x[:700]).all() and (split.test.x == whole.train.x[-300:]).all()
    with pytest.raises(ConfigError, match="config.validation=59500: must be at most 59300"):
        load_data(resolved(data__source="embedded", data__train_limit=700, validation=59_500))


def test_build_conditions_sets_the_goal_that_a_point_names(mnist):
    config = infomorphic_config()
    config.preset = "smoke"
    own = tuple(np.linspace(-1, 1, 19))
    axes = {"goal": ("optimized",), "without": ("", "{12}{13}"), "draw": (0, 3)}
    grid.add_grid(config, "names", {f"infomorphic.{name}": values for name, values in axes.items()})
    grid.add_grid(config, "own", {"infomorphic.weights": (own,)})
    conditions = build_conditions(resolve(config), mnist)
    goals = (np.asarray(condition.student.knobs.extra["hidden_goal"]) for condition in conditions)
    first, less, drawn, less_drawn, last = goals
    index = infomorphic.atom_names(3).index("{12}{13}")
    np.testing.assert_allclose(first, infomorphic.GOALS["trivariate_optimized"], rtol=1e-6)
    np.testing.assert_allclose(drawn, infomorphic.drawn_goal(3, 3), rtol=1e-6)
    for whole, without in ((first, less), (drawn, less_drawn)):
        assert without[index] == 0 and (np.delete(without, index) == np.delete(whole, index)).all()
    np.testing.assert_allclose(last, own, rtol=1e-6)


def test_build_conditions_of_goals_share_one_program(mnist):
    config = infomorphic_config()
    config.preset = "smoke"
    grid.add_grid(config, "search", {"infomorphic.draw": tuple(range(1, 9)), "infomorphic.lr": (1e-3, 2e-3)})
    conditions = build_conditions(resolve(config), mnist)
    assert len({condition.student.recipe for condition in conditions}) == 1 < len(conditions)


@pytest.mark.parametrize("student", ["hidden", "readout", "mlp"])
def test_build_conditions_of_students_share_what_they_name(student, mnist):
    shares = {}
    for hidden in ("shared", "fresh"):
        config = resolved(transfer__student=student, transfer__hidden=hidden, infomorphic__model="context")
        knobs = build_conditions(config, mnist)[0].student.knobs
        shares[hidden] = {layer: float(share) for layer, share in knobs.share.items()}
        assert float(knobs.trainable["class_head"]) == (student == "mlp")
        assert np.asarray(knobs.logit_mask).tolist() == [False] * 10 + [True] * 50
    drawn = {"hidden": {"context": 0.0}, "readout": {"lateral": 0.0}, "mlp": {}}[student]
    assert shares["shared"] == {"hidden_0": 1.0, "class_head": 1.0, "aux_head": 1.0} | drawn
    assert shares["fresh"] == shares["shared"] | {"hidden_0": 0.0}
    for head in ("class", "aux"):
        config = resolved(transfer__student=student, transfer__heads=f"fresh_{head}", infomorphic__model="context")
        knobs = build_conditions(config, mnist)[0].student.knobs
        own = {layer: float(share) for layer, share in knobs.share.items()}
        assert own == shares["shared"] | {f"{head}_head": 0.0}


def test_base_config_and_build_take_the_study(mnist):
    config = sl.base_config("smoke", study="infomorphic", infomorphic__units=5)
    (condition,) = sl.build(config, mnist)
    assert condition.student.recipe.net.units == 5 and condition.teacher.recipe.eval_steps == (0,)
    with pytest.raises(ConfigError, match="trunk: must not be given"):
        sl.build(config, mnist, trunk=sl.nets.MLP((5,)))


def test_main_refuses_a_bad_goal_before_anything_is_compiled(capsys):
    assert main.main(["main", "--config=infomorphic", "--config.arms.context.infomorphic.goal=('simplified',)"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
