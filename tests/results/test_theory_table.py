"""Verdicts of theory beside measurement, on rows whose answers are known."""

import numpy as np
import pandas as pd
import pytest

from sublim_jax import results
from sublim_jax.results import report, summary, theory_table
from sublim_jax.results.summary import Interval
from sublim_jax.results.theory_table import Prediction

VALUE = Prediction("value", "theory/x", "at/x", "value")
UPPER = Prediction("upper", "theory/b", "at/x", "upper", "random_hidden")
LOWER = Prediction("lower", "theory/b", "at/x", "lower")


def rows(measured, predicted, bound=None, condition="same", seeds=12):
    noise = np.random.default_rng(0).normal(0, 0.02, seeds)
    return pd.DataFrame(
        {
            "condition": condition,
            "seed": range(seeds),
            "step": 5,
            "at/x": measured + noise,
            "theory/x": predicted,
            "theory/b": np.nan if bound is None else bound,
        }
    )


def verdicts(table, *laws):
    return list(theory_table.table(table, laws)["verdict"])


def test_table_says_whether_a_value_agrees():
    assert verdicts(rows(0.5, 0.5), VALUE) == ["agrees"]
    assert verdicts(rows(0.5, 0.6), VALUE) == ["differs"]
    assert verdicts(rows(0.5, 0.53), VALUE) == ["undecided"]
    assert verdicts(rows(0.5, 0.6, seeds=2), VALUE) == ["undecided"]
    wide = pd.DataFrame({**rows(0.5, 0.5), "at/x": [0.1, 0.9] * 6})
    assert verdicts(wide, VALUE) == ["undecided"]  # it covers zero, and most else
    same = rows(0.5, 0.5).assign(**{"theory/x": lambda table: table["at/x"] + 1e-8})
    assert verdicts(same, VALUE) == ["identity"]


def test_table_says_whether_a_bound_is_violated():
    assert verdicts(rows(0.5, 0.5, 0.4), UPPER, LOWER) == ["violated", "holds"]
    assert verdicts(rows(0.5, 0.5, 0.6), UPPER, LOWER) == ["holds", "violated"]
    assert verdicts(rows(0.5, 0.5, 0.5), UPPER, LOWER) == ["undecided", "undecided"]
    level = Prediction("level", "theory/b", "at/x", "level")
    assert verdicts(rows(0.5, 0.5, 0.4), level) == [""]


@pytest.mark.parametrize("seeds", [3, 4, 5, 10])
def test_verdict_of_a_violation_is_false_in_few_cases(seeds):
    """The true mean lies at the end of what is allowed, so that every verdict of a violation is false."""
    rng, size = np.random.default_rng(0), (4000, seeds)
    for noise in (rng.normal(size=size), rng.lognormal(0, 0.5, size) - np.exp(0.125), rng.uniform(size=size) - 0.5):
        for kind, allowed in (("value", 0.03), ("value", -0.03), ("upper", 1e-3), ("lower", -1e-3)):
            differences = allowed + 0.1 * noise
            means = differences.mean(1)
            ends = zip(means, *summary.bounds(differences), strict=True)
            found = [theory_table._verdict(kind, Interval(*values, seeds), 1.0) for values in ends]
            assert np.mean(np.isin(found, ["violated", "differs"])) <= 0.06, (kind, allowed)


def test_table_says_which_students_diverged():
    both = pd.concat([rows(0.5, 0.5, seeds=6), rows(0.5, 0.5, seeds=6, condition="lost")], ignore_index=True)
    both["at/student_accuracy"] = both["at/x"]
    assert "diverged" not in theory_table.table(both, (VALUE,))
    both.loc[[0, *range(6, 12)], ["at/x", "at/student_accuracy"]] = np.nan
    found = theory_table.table(both, (VALUE,))
    assert list(found["diverged"]) == [1, 6] and list(found["seeds"]) == [5, 0]
    assert found["verdict"][0] != "diverged" and found["verdict"][1] == "diverged"
    assert str(found["difference"][1]) == "diverged"
    bounds = both.assign(**{"theory/ceiling_accuracy": 0.9})
    assert list(theory_table.active_bounds(bounds)["bound"]) == ["D5 teacher's latent", "diverged"]


def test_counts_take_a_student_once():
    table = pd.concat([rows(0.5, 0.5), rows(0.5, 0.5, condition="also")], ignore_index=True)
    assert theory_table.counts(theory_table.table(table, (VALUE,))).to_numpy().sum() == 1


def test_table_names_the_regime_of_a_law():
    table = pd.concat([rows(0.5, 0.5, 0.4), rows(0.5, 0.5, 0.6, "random_hidden")], ignore_index=True)
    found = theory_table.table(table, (UPPER,))
    assert list(found["regime"]) == ["outside", "inside"]
    assert list(found["verdict"]) == ["violated", "holds"]
    counted = theory_table.counts(found).reset_index()
    assert counted[["violated", "holds"]].to_numpy().sum() == 2
    part = rows(0.5, 0.5, 0.4, "random_hidden").assign(share=1.0)
    assert list(theory_table.table(part, (UPPER,))["regime"]) == ["outside"]


def test_table_leaves_out_predictions_that_do_not_apply():
    assert theory_table.table(rows(0.5, 0.5), (UPPER,)).empty
    assert theory_table.table(rows(0.5, 0.5)).empty  # none of the package's columns
    assert theory_table.counts(theory_table.table(rows(0.5, 0.5))).empty


def test_table_takes_the_last_step_and_paired_differences():
    early, late = rows(0.1, 0.9), rows(0.5, 0.5).assign(step=9)
    found = theory_table.table(pd.concat([early, late], ignore_index=True), (VALUE,))
    assert len(found) == 1
    assert abs(found["measured"][0] - 0.5) < 0.02
    scattered = rows(0.5, 0.5).assign(**{"theory/x": lambda table: table["at/x"] - 0.05})
    difference = theory_table.table(scattered, (VALUE,))["difference"][0]
    np.testing.assert_allclose([difference.low, difference.high], 0.05)


def test_active_bounds_name_the_nearest_one():
    columns = ("theory/class_noise_upper", "theory/class_noise_lower", "theory/ceiling_accuracy")
    at = {"at/student_accuracy": lambda table: table["at/x"]}
    clean = rows(0.5, 0.5).assign(**at, **dict(zip(columns, (0.5, 0.5, 0.9), strict=True)))
    noisy = rows(0.5, 0.5, condition="noisy").assign(**at, **dict(zip(columns, (0.52, 0.1, 0.9), strict=True)))
    oracle = {"theory/oracle_accuracy": 0.3}
    random = clean.assign(condition="random_hidden", **oracle)
    found = theory_table.active_bounds(pd.concat([clean.assign(**oracle), noisy, random], ignore_index=True)).set_index(
        "condition"
    )
    assert list(found["bound"]) == ["D5 teacher's latent", "D4 class head's noise", "D5 fixed heads"]
    assert list(found["active"]) == [False, True, True]
    np.testing.assert_allclose(found["bound_value"], [0.9, 0.52, 0.3])


def test_write_shows_the_comparisons(tmp_path):
    table = results.tidy(
        [{"condition": "same", "m": 3}],
        [0, 1],
        5,
        {
            "student_accuracy": np.array([[0.5], [0.6]]),
            "teacher_accuracy": np.array([[0.9], [0.9]]),
            "untrained_accuracy": np.array([[0.1], [0.1]]),
            "theory/ceiling_accuracy": np.array([[0.3], [0.3]]),
        },
    )
    folder = results.Workdir(tmp_path, {})
    folder.begin()
    folder.write("part", table)
    folder.finish(status="done", seconds={}, steps={}, programs=0)
    page = report.write(tmp_path).read_text()
    assert "Theory beside measurement" in page
    assert "D5 teacher&#39;s latent" in page
