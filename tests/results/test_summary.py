import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sublim_jax.results import summary


def test_interval_agrees_with_the_normal_law_for_many_seeds():
    values = np.random.default_rng(1).normal(0.5, 0.1, 200)
    found = summary.interval(values.tolist())
    error = stats.sem(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert found == summary.interval(values.tolist())


def test_interval_of_one_seed_and_of_equal_seeds():
    one = summary.interval([0.5])
    assert one.mean == 0.5 and np.isnan(one.low) and str(one) == "0.500"
    assert tuple(summary.interval([0.5, 0.5])) == (0.5, 0.5, 0.5, 2)
    assert np.isnan(summary.interval([0.5, float("nan")]).mean)


def test_intervals_are_those_of_each_sample_alone():
    rng = np.random.default_rng(2)
    samples = [rng.normal(size=size) for size in (5, 1, 20, 5, 2)] + [np.full(4, 0.25), np.array([1.0, np.nan])]
    found = summary.intervals(samples)
    for one, values in zip(found, samples, strict=True):
        np.testing.assert_allclose(one, summary.interval(values.tolist()), rtol=0, atol=1e-12)


def test_labelled_fills_only_what_is_missing():
    rows = pd.DataFrame({"m": [3, 10]})
    assert summary.labelled(rows, m=1, stream="uniform").values.tolist() == [[3, "uniform"], [10, "uniform"]]
    assert list(rows.columns) == ["m"]


def test_table_takes_each_conditions_last_mark_and_keeps_order():
    rows = pd.DataFrame(
        {
            "condition": ["b", "b", "a", "a", "b", "b"],
            "m": 3,
            "seed": [0, 1, 0, 1, 0, 1],
            "step": [0, 0, 20, 20, 10, 10],
            "at/student_accuracy": [0.0, 0.0, 0.6, 0.8, 0.1, 0.3],
            "at/cka": 0.5,
        }
    )
    table = summary.table(rows)
    assert table["condition"].tolist() == ["b", "a"]
    assert [found.mean for found in table["student accuracy"]] == pytest.approx([0.2, 0.7])
    assert table["seeds"].tolist() == [2, 2]
    assert summary.texts(table).values.tolist()[1] == ["a", "3", "0.700 [0.600, 0.800]", "0.5", "2"]
