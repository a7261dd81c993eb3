"""Transfer against the degree of sharing."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "share")
LAYERS = {
    "random_first_hidden": ("hidden_0",),
    "random_second_hidden": ("hidden_1",),
    "random_hidden": ("hidden_0", "hidden_1"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
    "random": ("hidden_0", "hidden_1", "class_head", "aux_head"),
}


def cosines(rows: summary.Rows) -> pd.Series:
    """The measured cosine of the initial weights of the layers in question, their mean where there are several."""
    values = pd.Series(np.nan, index=rows.index)
    for condition, layers in LAYERS.items():
        there = [column for layer in layers if (column := f"at/cosine/teacher_student_init/{layer}") in rows]
        mine = rows["condition"] == condition
        if there and mine.any():
            values[mine] = rows.loc[mine, there].mean(axis=1)
    return values


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy against the share, one line per condition; beside it against the measured cosine."""
    final = summary.labelled(_words.last(rows, LABELS), share=0.0)
    final = final.assign(**{"at/cosine": cosines(final)})
    measured = _words.has(final, "at/cosine")
    figure, axes = plots.panels(2 if measured else 1, size=(4.3, 3.2), sharey=True)
    _words.against(axes[0], final, "share", ("condition", "m"))
    axes[0].set_xlabel("share of the teacher's initial weights")
    if measured:
        _against_cosine(axes[1], final)
    for ax in axes:
        plots.levels(ax, final)
    plots.accuracy(axes[0])
    plots.legend(figure, axes)
    return figure


def _against_cosine(ax: Axes, final: summary.Rows) -> None:
    """The same intervals as against the share, each at the mean cosine of its seeds."""
    for index, (label, those) in enumerate(plots.series(final, ("condition", "m"))):
        x = those.groupby("share")["at/cosine"].transform("mean")
        if x.notna().all():
            plots.line(ax, those.assign(cosine=x), "cosine", label, index)
    ax.set_xlabel("measured cosine of the layers' initial weights")


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = summary.labelled(_words.last(rows, LABELS), share=0.0)
    return (
        f"Student test accuracy where the layers named by the condition begin as share × the teacher's initial weights "
        f"+ (1 − share) × a fresh draw, share = {_words.values(final, 'share')}, m = {_words.values(final, 'm')}; all "
        f"other layers are the teacher's. Right: the same against the cosine that those weights have to the teacher's "
        f"(mean of the layers where there are two). {_words.means(final)} {_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
