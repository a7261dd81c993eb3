"""`train_pair` trains the nets that `run` trains, and is a pure function of its key."""

import jax
import numpy as np
import pytest

import sublim_jax as sl
from sublim_jax.core.errors import ConfigError
from sublim_jax.metrics import evaluate

SMALL = {"m": 3, "student__steps": 8, "student__eval_steps": (0, 5), "teacher__epochs": 1, "metrics": "task"}


def key_of(seed):
    return sl.keys.at(sl.keys.root(0), "seed", seed)


@pytest.mark.e2e
def test_train_pair_trains_the_nets_of_run(mnist, monkeypatch):
    noise = {"perturb__teacher_after": 0.05, "perturb__student_before": 0.1, "student__mixed": 0.3}
    config = sl.base_config("smoke", conditions="random_hidden", **SMALL, **noise)
    (condition,) = sl.build(config, mnist)
    students = []
    original = evaluate.Evaluator.__call__

    def spy(evaluator, params, *given, **how):
        students.append(jax.device_get(params))
        return original(evaluator, params, *given, **how)

    monkeypatch.setattr(evaluate.Evaluator, "__call__", spy)
    rows = sl.run(config, mnist, seeds=(3,)).sort_values("step")
    pair = sl.train_pair(condition, mnist, key_of(3))
    assert pair.eval_steps.tolist() == rows.step.tolist() == [0, 5, 8]
    np.testing.assert_allclose(pair.accuracy, rows["at/student_accuracy"], atol=1e-6)
    np.testing.assert_allclose(pair.teacher_accuracy, rows["at/teacher_accuracy"].iloc[-1], atol=1e-6)
    for layer, arrays in pair.student.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(array, students[-1][layer][name][0, 0], atol=1e-6, err_msg=layer)
    nested = condition.student.recipe.net.init(jax.random.key(0), np.zeros((1, 28, 28), np.float32))["params"]
    assert jax.tree.structure(pair.student) == jax.tree.structure(dict(nested))


@pytest.mark.e2e
def test_train_pair_is_a_function_of_its_key_under_vmap(mnist):
    (condition,) = sl.build(sl.base_config("smoke", conditions="same", **SMALL), mnist)

    def train(key):
        return sl.train_pair(condition, mnist, key, eval_steps=(2,))

    alone = [train(key_of(seed)).student["aux_head"]["kernel"] for seed in (0, 1)]
    both = jax.vmap(train)(jax.numpy.stack([key_of(0), key_of(1)]))
    assert both.accuracy.shape == (2, 1)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(both.student["aux_head"]["kernel"], np.stack(alone), atol=1e-5)


def test_train_pair_refuses_steps_out_of_order_and_a_second_teacher(mnist):
    (condition,) = sl.build(sl.base_config("smoke", conditions="same", **SMALL), mnist)
    with pytest.raises(ConfigError, match="increasing"):
        sl.train_pair(condition, mnist, key_of(0), eval_steps=(4, 2))
    config = sl.base_config("smoke", conditions="same", **SMALL, student__mixed=0.5, student__mixed_with="stranger")
    (condition,) = sl.build(config, mnist)
    with pytest.raises(ConfigError, match="use run"):
        sl.train_pair(condition, mnist, key_of(0))
