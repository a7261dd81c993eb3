import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sublim_jax.results import summary

# Accuracies near .98 as a beta distribution whose standard deviation is .006 or .02.
SAMPLES = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0, 0.945),
    "lognormal": (lambda rng, size: rng.lognormal(0, 0.5, size), np.exp(0.125), 0.93),
    "gamma": (lambda rng, size: rng.gamma(2, size=size), 2.0, 0.93),
    "uniform": (lambda rng, size: rng.uniform(size=size), 0.5, 0.93),
    "near .98": (lambda rng, size: rng.beta(490, 10, size), 0.98, 0.94),
    "at the upper end": (lambda rng, size: rng.beta(49, 1, size), 0.98, 0.905),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0, 0.905),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_bounds_cover_the_mean_as_often_as_they_say(name):
    """A fifth of a per cent is two standard errors of a share of .95 in 50,000 samples."""
    draw, mean, least = SAMPLES[name]
    rng = np.random.default_rng(0)
    for seeds in (3, 4, 5, 6, 8, 10, 20):
        low, high = summary.bounds(draw(rng, (50_000, seeds)))
        wanted = 0.93 if seeds >= 10 else least
        assert np.mean((low <= mean) & (mean <= high)) >= wanted - 0.003, seeds


def test_bounds_are_not_wider_than_needed_for_normal_samples():
    values = np.random.default_rng(0).normal(size=(50_000, 10))
    low, high = summary.bounds(values)
    student = 2 * stats.t.ppf(0.975, 9) * values.std(1, ddof=1) / np.sqrt(10)
    assert ((high - low) >= student - 1e-12).all() and (high - low).mean() < 1.1 * student.mean()
    assert np.mean((low <= 0) & (high >= 0)) < 0.97


def test_bounds_move_outwards_on_the_side_of_the_longer_tail_and_follow_scale_and_sign():
    values = np.array([1.0, 1.1, 1.2, 1.3, 3.0])
    low, high = summary.bounds(values)
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) / np.sqrt(5)
    assert low == pytest.approx(values.mean() - half) and high > values.mean() + 1.2 * half
    np.testing.assert_allclose(summary.bounds(-values)[::-1], [-low, -high])
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(summary.bounds(scale * values), [scale * low, scale * high])


def test_interval_agrees_with_the_normal_law_for_many_seeds():
    values = np.random.default_rng(1).normal(0.5, 0.1, 200)
    found = summary.interval(values.tolist())
    error = stats.sem(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    wide = summary.interval(values, 0.99)
    assert wide.low < found.low and wide.high > found.high


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.6], [0.5, 0.6, float("nan")], [0.5, float("inf"), 0.6]])
def test_interval_of_fewer_than_three_seeds_has_no_ends(values):
    found = summary.interval(values)
    finite = [value for value in values if np.isfinite(value)]
    assert np.isnan([found.low, found.high]).all() and found.n == len(finite)
    assert str(found) == (f"{np.mean(finite):.3f}" if finite else "")


def test_interval_of_equal_seeds_and_of_diverged_ones():
    assert summary.interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 3, 0)
    found = summary.interval([0.4, float("nan"), 0.5, 0.6, float("-inf")])
    assert found[:3] == summary.interval([0.4, 0.5, 0.6])[:3] and found[3:] == (3, 2)
    assert str(summary.interval([float("nan")] * 3)) == "diverged"


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
    assert summary.texts(table).values.tolist()[1] == ["a", "3", "0.700", "0.5", "2"]


def with_diverged(lost):
    """Three conditions of five seeds, of which so many diverged."""
    rows = [
        {"condition": name, "seed": seed, "step": 5, "at/student_accuracy": np.nan if seed < number else 0.1 * seed}
        | {"at/teacher_accuracy": 0.9, "at/cka": np.nan if seed < number else 0.5}
        for name, number in zip("abc", lost, strict=True)
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def test_table_counts_diverged_seeds_and_leaves_them_out():
    table = summary.texts(summary.table(with_diverged((0, 2, 5)))).set_index("condition")
    assert table.loc["b", "student accuracy"] == str(summary.interval([0.2, 0.3, 0.4]))
    assert list(table["seeds"]) == ["5", "3", "0"] and list(table["diverged"]) == ["", "2 of 5", "5 of 5"]
    assert list(table.loc["c", ["student accuracy", "teacher accuracy", "CKA to the teacher"]]) == ["diverged", "", ""]
    assert "diverged" not in summary.table(with_diverged((0, 0, 0)))


def test_cells_leave_diverged_seeds_out_of_every_column():
    rows = with_diverged((0, 2, 5)).assign(**{"theory/coverage": lambda rows: rows["seed"] / 10})
    found = summary.cells(rows, ["condition"], "theory/coverage")
    assert [cell[3:] for cell in found] == [(5, 0), (3, 2), (0, 5)] and found["b"].mean == pytest.approx(0.3)


def test_csv_has_full_precision_and_counts():
    rows = with_diverged((0, 4, 5))
    rows["at/student_accuracy"] /= 3
    lines = pd.read_csv(io.StringIO(summary.csv(rows)))
    column = "at/student_accuracy"
    wanted = summary.interval(rows.loc[rows["condition"] == "a", column])
    np.testing.assert_allclose(lines.loc[0, [column, f"{column}/low", f"{column}/high"]].tolist(), wanted[:3], 1e-15)
    assert lines[["condition", "seeds", "diverged"]].values.tolist() == [["a", 5, 0], ["b", 1, 4], ["c", 0, 5]]
    assert lines.loc[1, column] == pytest.approx(rows.loc[9, column], 1e-15) and np.isnan(lines.loc[1, f"{column}/low"])
    assert lines.loc[2, [column, "at/cka"]].isna().all() and "at/teacher_accuracy/high" in lines
