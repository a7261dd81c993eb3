"""Slow checks against an independent implementation, on all of MNIST: pytest -m slow (minutes)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.populations import quiet
from scipy import stats

from sublim_jax.config import base_config, build_conditions, load_data, resolve
from sublim_jax.engine import run
from sublim_jax.results import summary

REFERENCE = Path(__file__).parent.parent / "experiments" / "figure2" / "reference_torch.csv"


@pytest.mark.slow
def test_students_have_the_accuracy_of_the_independent_pytorch_script():
    """New seeds, so that a coincidence of the kept ones cannot pass; Welch's test per cell, Bonferroni over cells."""
    config = base_config()
    config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
    config.m = (10, 50)
    config = resolve(config)
    dataset = load_data(config)
    rows = run.run(build_conditions(config, dataset), dataset, quiet(range(100, 106)))
    final, reference = summary.last(rows), pd.read_csv(REFERENCE)
    cells = [(condition, m) for condition in config.conditions for m in config.m]
    for condition, m in cells:
        ours = final[(final.condition == condition) & (final.m == m)]["at/student_accuracy"]
        theirs = reference[(reference.condition == condition) & (reference.m == m)]["student_accuracy"]
        found = stats.ttest_ind(ours, theirs, equal_var=False)
        assert found.pvalue > 0.01 / len(cells), (condition, m, ours.mean(), theirs.mean())
    teachers, theirs = final.drop_duplicates("seed"), reference.drop_duplicates("seed")
    assert stats.ttest_ind(teachers["at/teacher_accuracy"], theirs["teacher_accuracy"]).pvalue > 0.001
    mean = final.groupby("condition")["at/student_accuracy"].mean()
    assert mean["same"] > 0.85 and mean["random_class_head"] < 0.2 and mean["random_aux_head"] < 0.35
    assert np.corrcoef(final["at/accuracy_c0_hs"], final["at/accuracy_ct_hs"])[0, 1] > 0.9
