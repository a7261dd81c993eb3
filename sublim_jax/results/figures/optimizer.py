"""The student's optimiser and its learning rate."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "optimizer", "lr")


def _final(rows: summary.Rows) -> summary.Rows:
    return summary.labelled(_words.last(rows, LABELS), optimizer="adam", lr=1e-3)


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy against the learning rate, one panel per condition, one line per optimiser."""
    final = _final(rows)
    conditions = list(plots.series(final, ("condition",)))
    figure, axes = plots.panels(len(conditions), columns=2, size=(4.4, 3.0), sharex=True, sharey=True)
    for ax, (label, those) in zip(axes, conditions, strict=True):
        for index, (name, mine) in enumerate(those.groupby("optimizer", sort=False)):
            for which, (m, some) in enumerate(plots.series(mine, ("m",))):
                said = f"{name}, {m}" if len(those["m"].unique()) > 1 else str(name)
                plots.line(ax, some, "lr", said, index, ls=("-", "--", "-.", ":")[which % 4])
        plots.levels(ax, those)
        plots.accuracy(ax)
        ax.set(xlabel="learning rate of the student", title=label if len(conditions) > 1 else "")
    plots.log(axes[0], final["lr"].unique())
    plots.outer(axes, columns=2)
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Student test accuracy against the learning rate of the student's optimiser "
        f"({_words.values(final, 'optimizer')}; lr = {_words.values(final, 'lr')}), m = {_words.values(final, 'm')}; "
        f"conditions: {_words.values(final, 'condition')}. {_words.means(final)} {_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
