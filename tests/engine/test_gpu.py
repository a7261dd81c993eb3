"""The same programs on a GPU, where there is one: rows as on CPU, up to rounding."""

import jax
import numpy as np
import pytest
from helpers.populations import go

from sublim_jax import metrics
from sublim_jax.engine.options import RunOptions
from sublim_jax.training import population


def gpus():
    try:
        return jax.devices("gpu")
    except RuntimeError:
        return []


@pytest.mark.skipif(not gpus(), reason="no GPU here")
def test_run_on_a_gpu_gives_the_rows_of_the_cpu(mnist, tiny):
    sgd = {"teacher.optimizer": "sgd", "teacher.lr": 0.2, "student.optimizer": "sgd", "student.lr": 2.0}
    conditions = tiny(conditions=("same", "random_hidden"), m=(3, 10), **sgd)
    given = {"seeds": 3, "metrics": (metrics.task, metrics.imitation)}
    assert population.use_vmap()
    here = go(mnist, conditions, **given)
    jax.clear_caches()  # `side_by_side` is asked while tracing
    with jax.default_device(jax.devices("cpu")[0]):
        there = go(mnist, conditions, options=RunOptions(devices=1), **given)
    for name in here:
        np.testing.assert_allclose(here[name], there[name], rtol=1e-3, atol=1e-3) if name.startswith("at/") else None
