"""Calibration on rows whose truth is known: AUROC against SciPy, the split, the fit, and what is left out."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.rows import keep
from scipy import stats

from sublim_jax.audit import calibration
from sublim_jax.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments import calibrate  # noqa: E402


def rows_of(conditions=40, seeds=6, seed=0, noise=0.5):
    """Rows whose transfer follows coverage and the class heads, and nothing else."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [(f"c{c}", s, t) for c in range(conditions) for s in range(seeds) for t in (0, 300)],
        columns=["condition", "seed", "step"],
    )
    place = rows["condition"].str[1:].astype(int).to_numpy()
    own = rng.uniform(size=(5, conditions))[:, place] + 0.02 * rng.normal(size=(5, len(rows)))
    names = ("coverage", "trait_cosine", "trait_change", "compatibility_aux", "compatibility_class")
    for name, values in zip(names, own, strict=True):
        rows[f"theory/{name}"] = values
    score = 12 * (own[0] + own[4] - 1) + noise * rng.normal(size=len(rows))
    transfer = np.where(rows["step"] == 0, 0.0, 1 / (1 + np.exp(-score)))
    rows["at/untrained_accuracy"], rows["at/teacher_accuracy"] = 0.1, 0.9
    rows["at/student_accuracy"] = 0.1 + 0.8 * transfer
    return rows


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_mann_and_whitneys(ties):
    rng = np.random.default_rng(0)
    score, success = rng.normal(size=200), rng.uniform(size=200) < 0.3
    score = np.round(score) if ties else score
    u = stats.mannwhitneyu(score[success], score[~success]).statistic
    assert calibrate.auroc(score, success) == pytest.approx(u / (success.sum() * (~success).sum()))
    assert calibrate.auroc(-score, success) == pytest.approx(1 - calibrate.auroc(score, success))
    twice = rng.integers(0, 3, size=200)
    by_hand = calibrate.auroc(np.repeat(score, twice), np.repeat(success, twice))
    assert calibrate.auroc(score, success, twice) == pytest.approx(by_hand)
    assert np.isnan(calibrate.auroc(score, np.ones(200, bool)))


def test_points_take_the_last_mark_and_define_transfer(tmp_path):
    rows = rows_of(3, 2)
    rows.loc[rows["condition"] == "c1", "at/teacher_accuracy"] = 0.15  # such a teacher learned nothing
    points = calibrate.points(
        [keep(tmp_path / "one", rows), keep(tmp_path / "old", rows[["condition", "seed", "step"]])]
    )
    last = rows[(rows["step"] == 300) & (rows["condition"] != "c1")]
    assert len(points) == 4 and set(points["experiment"]) == {"one"}
    expected = (last["at/student_accuracy"] - 0.1) / 0.8
    np.testing.assert_allclose(points["transfer"], expected)
    np.testing.assert_array_equal(points["success"], expected > 0.5)
    np.testing.assert_allclose(points["trait_change"], -last["theory/trait_change"])


def test_points_leave_out_diverged_students_and_count_them(tmp_path):
    rows = rows_of(4, 3)
    rows.loc[(rows["condition"] == "c2") & (rows["seed"] < 2), "at/student_accuracy"] = np.nan
    points = calibrate.points([keep(tmp_path / "one", rows)])
    assert len(points) == 4 * 3 - 2 and points.attrs["diverged"] == 2 and np.isfinite(points["transfer"]).all()


def test_worth_covers_the_truth(tmp_path):
    """Scores of which a part is common to all seeds of a condition; the truth is that of many conditions."""

    def frame(conditions, seed):
        rng = np.random.default_rng(seed)
        common, score = np.repeat(rng.normal(size=(2, conditions)), 3, axis=1), rng.normal(size=(2, 3 * conditions))
        transfer = 1.5 * common[0] + 1.2 * common[1] + 0.5 * score[1]
        columns = {"condition": np.repeat(np.arange(conditions).astype(str), 3), "score": common[0] + 0.3 * score[0]}
        return pd.DataFrame(columns).assign(success=transfer > 0, transfer=transfer)

    many = frame(20_000, 0)
    truth = calibrate.auroc(many["score"], many["success"])
    samples = [frame(25, seed) for seed in range(1, 121)]
    found = [calibrate.worth(sample["score"], sample).auroc for sample in samples]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.91
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found)


def test_split_holds_out_conditions_and_seeds(tmp_path):
    points = calibrate.points([keep(tmp_path / "one", rows_of())])
    fitted, held = (points[points["part"] == part] for part in ("fitted", "held out"))
    assert len(fitted) == len(held) == 20 * 3
    for name in ("condition", "seed"):
        assert not set(fitted[name]) & set(held[name])


def test_fit_is_the_minimum_of_the_logistic_loss(tmp_path):
    points = calibrate.points([keep(tmp_path / "one", rows_of(200))])
    names = ("coverage", "compatibility_aux", "compatibility_class")
    model = calibrate.fit(points, names)
    weights = model["weights"]
    assert weights["coverage"] == pytest.approx(weights["compatibility_class"], rel=0.3)
    assert abs(weights["compatibility_aux"]) < 0.15 * weights["coverage"], "it decides nothing"
    assert -model["intercept"] / weights["coverage"] == pytest.approx(1, abs=0.1)
    chance, success = calibration.probability(model, points), points["success"].to_numpy(float)
    z = (points[list(names)] - points[list(names)].mean()) / points[list(names)].std(ddof=0)
    free = np.array([weights[name] for name in names]) * points[list(names)].std(ddof=0).to_numpy()
    slope = z.to_numpy().T @ (chance - success) / len(z) + calibrate.RIDGE * free
    np.testing.assert_allclose(slope, 0, atol=1e-4)
    assert np.mean(chance) == pytest.approx(success.mean(), abs=1e-3), "a logistic fit is right on average"


def test_calibrated_gives_a_half_to_noise_and_one_to_what_decides(tmp_path):
    points = calibrate.points([keep(tmp_path / "one", rows_of(80, noise=0.0))])
    found = calibrate.calibrated(points)
    assert found["models"]["coverage and heads"]["auroc"][0] > 0.97
    value, low, high = found["predictors"]["compatibility_aux"]["auroc"]
    assert low < 0.5 < high and low < value < high
    assert found["models"]["coverage"]["auroc"][0] < found["models"]["coverage and heads"]["auroc"][0]
    held = points[points["part"] == "held out"]
    expected = stats.spearmanr(held["coverage"], held["transfer"]).statistic
    assert found["predictors"]["coverage"]["spearman"][0] == pytest.approx(expected)
    assert found["models"]["coverage and heads"]["brier"] < found["models"]["coverage and heads"]["brier_of_base_rate"]


def test_worth_has_intervals_over_conditions_not_rows(tmp_path):
    """Fifty times the same seed says no more about conditions than one."""
    points = calibrate.points([keep(tmp_path / "one", rows_of(30, 2))])
    held = points[points["part"] == "held out"]
    once, often = (calibrate.worth(one["coverage"], one).auroc for one in (held, pd.concat([held] * 50)))
    assert often == pytest.approx(once)


@pytest.mark.e2e
def test_main_writes_calibration_figure_and_story(tmp_path, capsys):
    folders = [keep(tmp_path / name, rows_of(seed=place)) for place, name in enumerate(("first", "second", "third"))]
    out, page = tmp_path / "c.json", tmp_path / "page"
    words = ["--folders", *map(str, folders), "--out", str(out), "--page", str(page)]
    assert calibrate.main([*words, "--provisional", "made up"]) == 0, capsys.readouterr().err
    found = calibration.load(out)
    assert found["provisional"] is True and found["experiments"] == ["first", "second", "third"]
    assert found["n"] == 3 * 40 * 6 and set(found["abroad"]["each"]) == {"first", "second", "third"}
    assert {"commit", "versions"} <= found["provenance"].keys()
    verdict = calibration.verdict({"coverage": 0.9, "compatibility_aux": 0.5, "compatibility_class": 0.9}, found)
    assert verdict.passes and verdict.probability > 0.9 and "provisional" in str(verdict)
    story = (page / "story.md").read_text()
    assert "Provisional: made up" in story and "| coverage |" in story and "second" in story
    assert (page / "figure.png").stat().st_size > 5000 and len(pd.read_parquet(page / "points.parquet")) == 720
    assert calibrate.main([*words]) == 0 and json.loads(out.read_text())["provisional"] is False


def test_main_refuses_folders_without_predictors_in_one_line(tmp_path, capsys):
    old = keep(tmp_path / "old", rows_of()[["condition", "seed", "step"]])
    assert calibrate.main(["--folders", str(old), "--out", str(tmp_path / "c.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: folders: 1 with no row that holds theory/coverage") and said.count("\n") == 1
    assert calibrate.main(["--folders", str(tmp_path / "none")]) == 2 and not (tmp_path / "c.json").exists()
    with pytest.raises(ConfigError, match="need both kinds"):
        calibrate.fit(pd.DataFrame({"coverage": [1.0, 2.0], "success": [True, True]}), ("coverage",))
