"""Parameters kept beside the rows: they are those that were measured, survive a resume, and are found by labels."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.populations import quiet

from sublim_jax import metrics
from sublim_jax.core.errors import ConfigError
from sublim_jax.engine.options import Interrupted, RunOptions
from sublim_jax.engine.params import params as params_of
from sublim_jax.engine.run import run
from sublim_jax.training import step as training_step
from sublim_jax.training import streams

# An untrained class head of each condition's own, and noise after training: what is measured is not what is trained.
FIELDS = {"conditions": ("same", "random_class_head"), "m": (3,), "perturb.student_after": 0.02}


def go(mnist, conditions, workdir, keep_params=True, **given):
    options = RunOptions(keep_params=keep_params, save_every=10)
    session = quiet(workdir=workdir, options=options, **given)
    return run(conditions, mnist, session, num_eval_noise=32, metrics=(metrics.task,))


def assert_measured(rows, conditions, mnist, workdir):
    images = streams.normalize_images(mnist.test, jnp.asarray(mnist.test.x))
    last = rows[rows["step"] == rows["step"].max()].set_index(["condition", "seed"])["at/student_accuracy"]
    assert len(last) == 4 and last.nunique() > 1
    for condition in conditions:
        for seed in range(2):
            params = params_of(workdir, seed, condition=condition.labels["condition"])
            logits = training_step.apply(condition.student.recipe.net, params, images).acts["class_head"]
            accuracy = float(np.mean(np.asarray(logits).argmax(-1) == mnist.test.y))
            assert accuracy == pytest.approx(last[condition.labels["condition"], seed], abs=1e-6)


def test_params_returns_the_students_that_were_measured(mnist, tiny, tmp_path):
    conditions = tiny(**FIELDS)
    assert_measured(go(mnist, conditions, tmp_path), conditions, mnist, tmp_path)
    with pytest.raises(ConfigError, match=r"seed=7 is not stored.*random_class_head.*seeds \[0, 1\]"):
        params_of(tmp_path, 7, condition="same")
    with pytest.raises(ConfigError, match="ambiguous"):
        params_of(tmp_path, 0, m=3)
    with pytest.raises(ConfigError, match="there: none"):
        params_of(tmp_path / "elsewhere", 0)


@pytest.mark.e2e
def test_resuming_loses_no_params_and_adds_missing_ones(mnist, tiny, tmp_path):
    conditions, calls = tiny(**FIELDS), iter([False, True])  # stops half way through the students
    with pytest.raises(Interrupted):
        go(mnist, conditions, tmp_path / "a", seeds=[0], stopped=lambda: next(calls, True), config={"a": 1})
    assert not list((tmp_path / "a" / "params").glob("*"))
    go(mnist, conditions, tmp_path / "a", seeds=[0], config={"a": 1})
    before = params_of(tmp_path / "a", 0, condition="same")["hidden_0"]["kernel"]
    rows = go(mnist, conditions, tmp_path / "a", config={"a": 1})
    np.testing.assert_array_equal(before, params_of(tmp_path / "a", 0, condition="same")["hidden_0"]["kernel"])
    assert_measured(rows, conditions, mnist, tmp_path / "a")
    plain = go(mnist, conditions, tmp_path / "b", keep_params=False)
    assert not (tmp_path / "b" / "params").exists()
    again = go(mnist, conditions, tmp_path / "b")
    order = ["condition", "seed", "step"]
    assert again.sort_values(order, ignore_index=True).equals(plain.sort_values(order, ignore_index=True))
    assert_measured(again, conditions, mnist, tmp_path / "b")
