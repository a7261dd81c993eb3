"""Tables on the console."""

import io
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from sublim_jax.results import figures, summary
from sublim_jax.results.summary import Interval
from sublim_jax.results.tables import print_table

KEPT = Path(__file__).parents[2] / "experiments"


def test_print_table_shows_names_texts_and_brackets(capsys):
    frame = pd.DataFrame(
        {"condition": ["same", "[bold]"], "accuracy": [Interval(0.5, 0.4, 0.6, 3), 0.25], "m": [3, 10]}
    )
    print_table(frame, "a title", "a caption")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "a title" and lines[-1].strip() == "a caption"
    assert [cell.strip() for cell in lines[2].split("┃")[1:-1]] == ["condition", "accuracy", "m"]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [["same", "0.500 [0.400, 0.600]", "3"], ["[bold]", "0.25", "10"]]


@pytest.mark.parametrize("columns", [1, 40])
def test_print_table_is_160_characters_wide_in_a_file(columns, capsys):
    print_table(pd.DataFrame([{f"column {index}": "some words" for index in range(columns)}]))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 160 for line in lines) and len(lines) >= 5


def tables():
    """The tables of kept rows, one of the quickstart's form, and one that fits nowhere."""
    figure2 = pd.read_parquet(KEPT / "figure2" / "rows.parquet")
    quickstart = figure2[(figure2["m"] == 50) & (figure2["seed"] < 4)]
    yield "quickstart", summary.table(quickstart)
    yield "diverged", summary.table(quickstart.assign(**{"at/student_accuracy": float("nan")}))
    for name in ("theorem1", "lm_dose", "figure2"):
        yield name, figures.table(figures.pick(name), pd.read_parquet(KEPT / name / "rows.parquet"))
    yield "labels", summary.table(pd.read_parquet(KEPT / "theorem1" / "rows.parquet"))
    yield "equal lines", pd.DataFrame([{f"measurement {index}": index / 7 for index in range(30)}] * 2)
    yield "wide", pd.DataFrame([{f"measurement {index}": index / number for index in range(30)} for number in (7, 9)])


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize(("name", "frame"), [pytest.param(*table, id=table[0]) for table in tables()])
def test_print_table_fits_the_width_and_breaks_no_word(name, frame, width, capsys):
    print_table(frame, "a title of several words", "and a caption", width)
    out = capsys.readouterr().out
    assert all(len(line) <= width for line in out.splitlines())
    words = set(re.split(r"[\s┃│]+", out))
    cells = " ".join(summary.texts(frame).to_numpy().ravel().tolist()).split()
    missing = {word for word in cells if not {word, f"{word},", f"{word};"} & words}
    assert not missing


@pytest.mark.parametrize("width", [60, 200])
def test_print_table_replaces_signs_that_the_output_lacks(width, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    print_table(pd.DataFrame({"Φ of noise": [0.25, 1.5], "name": ["Φ, predicted", "plain"]}), "titre é", width=width)
    out = raw.getvalue().decode("ascii")
    assert "0.25" in out and "?, predicted" in out and "titre ?" in out and "+--" in out
