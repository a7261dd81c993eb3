"""Activation functions of teacher and student."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "net_activation")


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by activation, one panel per m, one colour per condition; grey dashes: the teachers."""
    final = summary.labelled(_words.last(rows, LABELS), net_activation="relu")
    widths = sorted(final["m"].unique())
    figure, axes = plots.panels(len(widths), columns=2, size=(4.8, 3.0), sharey=True)
    for ax, m in zip(axes, widths, strict=True):
        those = final[final["m"] == m]
        plots.strip(ax, those, "net_activation", "condition")
        teachers = those.groupby("net_activation", sort=False)["at/teacher_accuracy"].mean()
        ax.plot(range(len(teachers)), teachers, "_", color="0.4", ms=24, mew=1.2, label="teacher", zorder=0)
        plots.levels(ax, those, ("untrained",))
        ax.set_title(f"m = {m}")
        plots.accuracy(ax)
    plots.outer(axes, columns=2)
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = summary.labelled(_words.last(rows, LABELS), net_activation="relu")
    return (
        f"Student test accuracy by the activation function of teacher and student "
        f"({_words.values(final, 'net_activation')}), m = {_words.values(final, 'm')}; conditions: "
        f"{_words.values(final, 'condition')}. Dots: seeds. {_words.means(final, 'bars')} Dashes: the teacher of each "
        "activation; dotted: the untrained net."
        f"{_words.left_out(rows, LABELS)}"
    )
