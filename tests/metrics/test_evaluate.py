"""An evaluator measures what the metrics say of each student alone, and repeats little between steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.populations import conditions_of

from sublim_jax import metrics
from sublim_jax.core import keys, trees
from sublim_jax.engine.plan import make_plan
from sublim_jax.metrics import evaluate, predictions
from sublim_jax.training import population

NOISE = 40


@pytest.fixture(scope="module")
def unit(mnist):
    """An evaluator of three conditions, of which two share a training, and two seeds; initial and moved parameters."""
    conditions = conditions_of(mnist, conditions=("same", "random_hidden", "random_class_head"), m=(3,))
    plan = make_plan(conditions, (28, 28))
    group, image = plan.groups[0], {"image": (28, 28)}
    seed_keys, others = (population.phase_keys(keys.root(0), jnp.arange(2), phase) for phase in ("student", "teacher"))
    init, knobs = plan.teachers[0].recipe.init, group.teacher_final_knobs
    teachers, strangers = (
        population.attach_heads(group.recipe.teacher, init, {}, of, knobs, **image) for of in (others, seed_keys)
    )
    teachers = teachers._replace(trained=strangers.initial)
    start, states = population.init_states(
        group.recipe, group.knobs, teachers.initial, seed_keys, **image, trained=(0, 1)
    )
    what = evaluate.Measurement(group.recipe, (*metrics.ALL, *predictions.ALL), NOISE, group.untrained_layers)
    index, test = np.asarray(group.train_index, np.int32), jax.tree.map(jnp.asarray, mnist.test)
    evaluator = evaluate.Evaluator(what, group.knobs, index, start, teachers, seed_keys, test)
    moved = jax.tree.map(lambda leaf: leaf + 0.01 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), states.params)
    return evaluator, states.params, moved


def alone(evaluator, params, step):
    """The columns [seed, condition], one student at a time."""
    columns = jax.jit(evaluator.measurement.columns)

    def one(seed, condition):
        own = evaluator.train_index[condition]
        teacher, key, start = trees.index((evaluator.teachers, evaluator.seed_keys, evaluator.start), seed)
        nets = trees.index(start, condition), trees.index(trees.index(params, seed), own)
        return columns(evaluator.test, teacher, key, evaluator.knobs.member(condition), *nets, np.int32(step))

    seeds = [[one(seed, condition) for condition in range(evaluator.knobs.size)] for seed in range(2)]
    return {name: np.array([[of[name] for of in row] for row in seeds]) for name in seeds[0][0]}


@pytest.mark.parametrize("kept_bytes", [
    pytest.param(1e9, marks=pytest.mark.e2e), *(pytest.param(few, marks=pytest.mark.slow) for few in (3e6, 0))
])  # fmt: skip
def test_evaluator_measures_each_student_as_alone(unit, monkeypatch, kept_bytes):
    evaluator, start, moved = unit
    monkeypatch.setattr(evaluate, "_KEPT_BYTES", kept_bytes)
    evaluate._program.cache_clear()
    fresh = dataclasses.replace(evaluator)
    with jax.default_matmul_precision("highest"):
        for step, params in ((0, start), (7, moved)):
            found, wanted = fresh(params, step), alone(evaluator, params, step)
            assert list(found) == sorted(wanted)
            for name, values in wanted.items():
                np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-5, err_msg=name)
    evaluate._program.cache_clear()


@pytest.mark.e2e
def test_evaluator_runs_only_the_student_at_each_step(unit):
    evaluator, params, _ = unit
    evaluator(params, 0)
    columns = evaluator._kept[False][-1]
    assert {"teacher_accuracy", "theory/coverage", "theory/oracle_accuracy"} <= set(columns)
    assert not {"student_accuracy", "cka", "cosine/teacher_student_final/hidden_0"} & set(columns)
