"""Tables on the console."""

import pandas as pd
import pytest

from sublim_jax.results.summary import Interval
from sublim_jax.results.tables import print_table


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
