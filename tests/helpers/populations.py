"""Runs of small populations, and what is compared of them."""

import numpy as np

from sublim_jax import metrics
from sublim_jax.engine import run
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.session import Session

FEW = {"num_eval_noise": 64, "metrics": (metrics.task, metrics.imitation, metrics.layers)}
# Laws up to rounding are tested with plain gradient descent: Adam divides by the size of a gradient, so where that is
# all rounding it moves a weight by a whole step either way. What rounding does to the published protocol is measured
# in BUILD.md.
SGD = {"teacher.optimizer": "sgd", "teacher.lr": 0.2, "student.optimizer": "sgd", "student.lr": 2.0}


def quiet(seeds=2, **fields):
    """A session of some seeds, or of so many, that shows no progress."""
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    return Session(**{"seeds": seeds, "progress": Progress(show=False), **fields})


def go(mnist, conditions, **changes):
    measured = {name: changes.pop(name) for name in FEW.keys() & changes.keys()}
    rows = run.run(conditions, mnist, quiet(**changes), **{**FEW, **measured})
    return rows.sort_values(["condition", "m", "seed", "step"], ignore_index=True)


def assert_close(left, right):
    """Labels equal, measurements to float32 rounding."""
    assert list(left.columns) == list(right.columns)
    for name in left:
        if "/" in name:
            np.testing.assert_allclose(left[name], right[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert (left[name] == right[name]).all(), name
