"""Figure 3a: more classes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "classes")
TEACHER, GAP = "at/teacher_accuracy", "at/gap"


def _final(rows: summary.Rows) -> summary.Rows:
    final = summary.labelled(_words.last(rows, LABELS), classes=10)
    return final.assign(**{GAP: final[TEACHER] - final[plots.ACCURACY]})


def draw(rows: pd.DataFrame) -> Figure:
    """Student, teacher and chance against the number of classes; beside it teacher minus student, seed by seed."""
    final = _final(rows)
    figure, (left, right) = plots.panels(2, size=(4.2, 3.1))
    _words.against(left, final, "classes", ("condition", "m"))
    grey = {"color": "0.4", "marker": "", "ls": "--", "zorder": 0}
    plots.line(left, final.drop_duplicates(["classes", "seed"]), "classes", "teacher", 0, TEACHER, **grey)
    classes = np.sort(final["classes"].unique())
    left.plot(classes, 1 / classes, ":", color="0.4", lw=1, label="chance, 1/K", zorder=0)
    plots.accuracy(left, "test accuracy")
    _words.against(right, final, "classes", ("condition", "m"), GAP)
    right.axhline(0, color="0.4", lw=0.8, zorder=0)
    right.set_ylabel("teacher's accuracy minus student's")
    for ax in (left, right):
        ax.set_xlabel("classes K")
        if len(classes) < 11:
            ax.set_xticks(classes)
    plots.legend(figure, [left])
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Test accuracy of students and of their teacher (dashed) on the first K classes, K = "
        f"{_words.values(final, 'classes')}, m = {_words.values(final, 'm')}, and the difference of the two seed by "
        f"seed. {_words.means(final)} Dotted: chance, 1/K. Teachers train for a fixed number of epochs, so few classes "
        "mean few steps."
        f"{_words.left_out(rows, LABELS)}"
    )
