"""`train_pair` trains the nets that `run` trains, and is a pure function of its key."""

import jax
import numpy as np
import pytest

import sublim_jax as sl
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.trees import flatten_layers

SMALL = {"m": 3, "student__steps": 12, "student__eval_steps": (0, 5), "teacher__epochs": 1, "metrics": "task"}


def key_of(seed):
    return sl.keys.at(sl.keys.root(0), "seed", seed)


@pytest.mark.parametrize(
    "fields",
    [
        {"conditions": "random_hidden"},
        {"conditions": "same", "perturb__teacher_after": 0.05, "perturb__student_after": 0.1, "student__mixed": 0.3},
    ],
    ids=["plain", "noise and mixed targets"],
)
def test_train_pair_trains_the_nets_of_run(fields, mnist, monkeypatch):
    from sublim_jax.engine import run as engine

    config = sl.base_config("smoke", **SMALL, **fields)
    (condition,) = sl.build(config, mnist)
    students = []
    original = engine.evaluate

    def spy(recipe, metrics, states, *given, **how):
        students.append(jax.device_get(states.params))
        return original(recipe, metrics, states, *given, **how)

    monkeypatch.setattr(engine, "evaluate", spy)
    rows = sl.run(config, mnist, seeds=(3,)).sort_values("step")
    pair = sl.train_pair(condition, mnist, key_of(3))
    assert pair.eval_steps.tolist() == rows.step.tolist() == [0, 5, 12]
    np.testing.assert_allclose(pair.accuracy, rows["at/student_accuracy"], atol=1e-6)
    np.testing.assert_allclose(pair.teacher_accuracy, rows["at/teacher_accuracy"].iloc[-1], atol=1e-6)
    if "perturb__student_after" not in fields:  # which is added when the student is evaluated
        for layer, arrays in pair.student.items():
            for name, array in arrays.items():
                np.testing.assert_allclose(array, students[-1][layer][name][0, 0], atol=1e-6, err_msg=layer)


def test_train_pair_is_a_function_of_its_key_under_vmap_and_jit(mnist):
    (condition,) = sl.build(sl.base_config("smoke", conditions="random_hidden", **SMALL), mnist)

    def train(key):
        return sl.train_pair(condition, mnist, key, eval_steps=(2, 4))

    alone = [train(key_of(seed)) for seed in (0, 1)]
    both = jax.jit(jax.vmap(train))(jax.numpy.stack([key_of(0), key_of(1)]))
    assert both.accuracy.shape == (2, 2)
    kernels = [pair.student["aux_head"]["kernel"] for pair in alone]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    np.testing.assert_allclose(both.student["aux_head"]["kernel"], np.stack(kernels), atol=1e-5)
    np.testing.assert_array_equal(alone[0].student_initial["aux_head"]["bias"], alone[0].teacher["aux_head"]["bias"])


def test_train_pair_refuses_steps_out_of_order_and_a_second_teacher(mnist):
    (condition,) = sl.build(sl.base_config("smoke", conditions="same", **SMALL), mnist)
    with pytest.raises(ConfigError, match="increasing"):
        sl.train_pair(condition, mnist, key_of(0), eval_steps=(4, 2))
    config = sl.base_config("smoke", conditions="same", **SMALL, student__mixed=0.5, student__mixed_with="stranger")
    (condition,) = sl.build(config, mnist)
    with pytest.raises(ConfigError, match="use run"):
        sl.train_pair(condition, mnist, key_of(0))


def test_unflattened_parameters_are_those_of_the_module(mnist):
    (condition,) = sl.build(sl.base_config("smoke", conditions="same", **SMALL), mnist)
    net = condition.student.recipe.net
    nested = net.init(jax.random.key(0), np.zeros((1, 28, 28), np.float32))["params"]
    pair = sl.train_pair(condition, mnist, key_of(0), eval_steps=(1,))
    assert jax.tree.structure(pair.student) == jax.tree.structure(dict(nested))
    assert set(flatten_layers(nested)) == set(nested)
