"""Two folders side by side: conditions by label, differences by seed, configs and versions; refusals in one line."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.rows import keep, rows_of, workdir_of

from sublim_jax import compare
from sublim_jax.core.errors import ConfigError
from sublim_jax.results import summary

ACCURACY = "at/student_accuracy"


def shifted(rows, by=0.1):
    return rows.assign(**{ACCURACY: rows[ACCURACY] - by})


def run(capsys, *words):
    code = compare.main(["compare", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_conditions_pair_seeds_and_match_labels_of_other_types():
    left = rows_of(seeds=5)
    right = shifted(left).assign(m=left["m"].astype(float), arm="grid")
    frame = compare.conditions(left, right.sample(frac=1, random_state=0), ACCURACY)
    assert len(frame) == 4 and set(frame["by"]) == {"5 pairs"}
    for cell in frame["A - B"]:
        np.testing.assert_allclose(cell[:3], 0.1)
    final = summary.last(left)
    first = final.loc[(final["condition"] == "same") & (final["m"] == 3), ACCURACY]
    assert frame["A"][0] == summary.interval(first.to_numpy())


def test_conditions_without_common_seeds_have_welchs_interval():
    left, right = rows_of(seeds=6), rows_of(seeds=6)
    right["seed"] += 6
    frame = compare.conditions(left, right, ACCURACY)
    assert set(frame["by"]) == {"Welch"}
    assert all(abs(cell.mean) < 1e-12 and cell.low < -0.05 and cell.high > 0.05 for cell in frame["A - B"])
    few = compare.conditions(left[left["seed"] < 2], right, ACCURACY)
    assert all(np.isnan(cell.low) and cell.n == 2 for cell in few["A - B"])


def test_conditions_compare_each_value_of_a_label_that_one_side_varies():
    plain = rows_of(widths=(3,))
    noisy = pd.concat([shifted(plain, by).assign(noise=by) for by in (0.1, 0.2)])
    frame = compare.conditions(plain, noisy, ACCURACY)
    assert list(frame.columns[:3]) == ["condition", "m", "noise"] and len(frame) == 4
    np.testing.assert_allclose([cell.mean for cell in frame["A - B"]], frame["noise"].astype(float))
    with pytest.raises(ConfigError, match="cannot be matched, A alone varies lr and B alone noise"):
        compare.conditions(pd.concat([plain.assign(lr=rate) for rate in (1, 2)]), noisy, ACCURACY)


def test_conditions_count_diverged_seeds():
    left, right = rows_of(widths=(3,), seeds=4), rows_of(widths=(3,), seeds=4)
    right.loc[(right["seed"] == 1) & (right["condition"] == "same"), ACCURACY] = np.nan
    right.loc[right["condition"] != "same", ACCURACY] = np.nan
    frame = compare.conditions(left, right, ACCURACY)
    assert [cell[3:] for cell in frame["A - B"]] == [(3, 1), (0, 4)]
    assert str(frame["B"][1]) == str(frame["A - B"][1]) == "diverged"


def test_main_prints_what_differs_and_writes_csv(tmp_path, capsys):
    rows = rows_of(seeds=4)
    one = workdir_of(tmp_path / "one", rows)
    keep(
        tmp_path / "two",
        shifted(rows[rows["m"] == 3]),
        config_json='{"config": {"name": "other", "lr": 1}, "runs": []}',
    )
    code, out, err = run(capsys, one, tmp_path / "two", f"--csv={tmp_path / 'table.csv'}")
    assert code == 0 and not err
    assert "configs differ" in out and "toy" in out and "other" in out
    assert "only in A: 2 conditions (same, 10; random_hidden, 10)" in out and "only in B" not in out
    lines = pd.read_csv(tmp_path / "table.csv")
    np.testing.assert_allclose(lines["difference/low"], 0.1)
    assert list(lines["A/seeds"]) == [4, 4] and list(lines["difference/diverged"]) == [0, 0]
    code, out, _ = run(capsys, one, one, "--column=at/cka")
    assert code == 0 and "configs: the same" in out and "versions: the same" in out and "0.000 [0.000, 0.000]" in out


def test_main_refuses_in_one_line(tmp_path, capsys):
    rows = rows_of()
    good = keep(tmp_path / "good", rows)
    (tmp_path / "empty").mkdir()
    other = keep(tmp_path / "other", rows.assign(condition="new"))
    study = keep(tmp_path / "study", rows[["condition", "m", "seed", "step"]].assign(**{"at/transfer": 1.0}))
    damaged = keep(tmp_path / "damaged", rows)
    (damaged / "rows.parquet").write_bytes(b"PAR1 no")
    wanted = {
        (good,): "arguments are required: B",
        (good, tmp_path / "none"): "there is no such folder",
        (good / "rows.parquet", good): "must be a work folder",
        (good, tmp_path / "empty"): "holds no rows",
        (good, damaged): "cannot be read",
        (good, other): "no condition in common",
        (good, study): "no measurement in common",
        (good, good, "--column=at/ckaa"): "such as at/cka",
        (good, good, "--colum=at/cka"): "unrecognized arguments",
    }
    for words, part in wanted.items():
        code, _, err = run(capsys, *words)
        assert code == 2 and part in err and err.count("\n") == 1 and err.startswith("error: "), words


def test_compare_imports_no_jax():
    code = "import sys, sublim_jax.compare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
