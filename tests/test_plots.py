"""Figures and reports come from rows alone, without JAX."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sublim_jax import plots, records, report
from sublim_jax.errors import Refused


def rows_of(widths=(3, 10), steps=(0, 10, 20), seeds=3):
    rng = np.random.default_rng(0)
    index = [(c, m, s, t) for c in ("same", "random_hidden") for m in widths for s in range(seeds) for t in steps]
    rows = pd.DataFrame(index, columns=["condition", "m", "seed", "step"])
    for name in ("student_accuracy", "teacher_accuracy", "untrained_accuracy", "cka"):
        rows[f"at/{name}"] = rng.uniform(size=len(rows))
    return rows


def test_transfer_draws_means_against_m_and_learning_curves():
    rows = rows_of()
    left, right = plots.transfer(rows).axes
    final = rows[rows.step == 20]
    for index, condition in enumerate(("same", "random_hidden")):
        those = final[final.condition == condition].groupby("m")["at/student_accuracy"].mean()
        drawn = left.containers[index].lines[0]
        np.testing.assert_allclose(np.asarray(drawn.get_xdata(), float), those.index)
        np.testing.assert_allclose(np.asarray(drawn.get_ydata(), float), those)
        curve = rows[(rows.condition == condition) & (rows.m == 10)].groupby("step")["at/student_accuracy"].mean()
        np.testing.assert_allclose(np.asarray(right.containers[index].lines[0].get_ydata(), float), curve)
    assert left.get_xscale() == "log"


@pytest.mark.parametrize(
    ("widths", "steps", "panels"), [((3,), (20,), 1), ((3,), (0, 10, 20), 2), ((3, 10), (0, 20), 1)]
)
def test_transfer_has_the_panels_the_rows_can_fill(widths, steps, panels):
    figure = plots.transfer(rows_of(widths, steps, seeds=1))
    assert isinstance(figure, Figure) and len(figure.axes) == panels


def test_report_refuses_an_unknown_figure(tmp_path):
    folder = records.Folder(tmp_path, {})
    folder.write("one", records.tidy([{"condition": "a", "m": 3}], [0], 0, {"x": np.zeros((1, 1))}))
    with pytest.raises(Refused, match="config.figure: 'pie' is none of transfer"):
        report.write(tmp_path, "pie")


def test_drawing_imports_no_jax():
    code = (
        "import sys, sublim_jax; from sublim_jax import plots, report; sublim_jax.load; assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_figure_2_kept_is_the_figure_2_its_rows_give():
    """The published table is what the kept rows and references give today, to the last digit but one."""
    here = Path(__file__).parent.parent / "experiments" / "figure2"
    compare = runpy.run_path(str(here / "compare.py"))
    assert compare["short"](*compare["read"]()) in (here.parent.parent / "README.md").read_text()
    made, kept = compare["page"](*compare["read"]()), (here / "table.md").read_text()
    number = r"[-+]?\d*\.\d+"
    assert re.sub(number, "#", made) == re.sub(number, "#", kept)
    made, kept = (np.array(re.findall(number, text), float) for text in (made, kept))
    np.testing.assert_allclose(made, kept, atol=0.011)  # bootstrap ends may move with another SciPy
