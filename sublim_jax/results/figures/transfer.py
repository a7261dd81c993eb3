"""Transfer: student accuracy by condition.

Against m where there are several, else every seed a dot; beside it the learning curves at the largest m, where there
are more than two marks.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by condition and, where there are marks between, learning curves."""
    final = summary.last(rows)
    curves, widths = len(rows["step"].unique()) > 2, len(final["m"].unique())
    figure, axes = plots.panels(2 if curves else 1, size=(4.4, 3.6), sharey=True)
    if widths > 1:
        against_m(axes[0], final)
    else:
        plots.strip(axes[0], final.assign(kind=_kinds(final)), "kind")
        plots.levels(axes[0], final)
        axes[0].set_title(f"m = {final['m'].iloc[0]}; every dot a seed")
    if curves:
        m, those = _words.largest(rows, "m")
        _words.against(axes[1], those, "step", _lines(those))
        plots.levels(axes[1], those)
        axes[1].set(xlabel="student steps", title=f"learning curves, m = {m}")
    plots.accuracy(axes[0])
    plots.legend(figure, axes[-1:])
    return figure


def _lines(rows: summary.Rows) -> tuple[str, ...]:
    """The labels that tell lines apart: the condition, and whatever else was swept."""
    names = [name for name in summary.labels_of(rows) if name != "m"]
    others = [name for name in names if name != "arm"]
    # An arm's name says nothing where its labels tell it apart.
    enough = len(rows[others].drop_duplicates()) == len(rows[names].drop_duplicates())
    return tuple(others if enough else names)


def _kinds(final: summary.Rows) -> pd.Series:
    """Of each row the condition, and what else tells it from others."""
    parts = list(plots.series(final, _lines(final)))
    if len(parts) == 1:
        return final["condition"]
    return pd.concat([pd.Series(label, index=those.index) for label, those in parts]).loc[final.index]


def against_m(ax: Axes, final: summary.Rows, look: int = 0) -> None:
    """Accuracy against the width of the auxiliary head, one line per condition; `look` is the first one's colour."""
    for index, (label, those) in enumerate(plots.series(final, _lines(final)), start=look):
        plots.line(ax, those, "m", label, index)
    plots.levels(ax, final)
    plots.log(ax, final["m"].unique())
    ax.set(xlabel="auxiliary logits m")


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    final = summary.last(rows)
    return (
        f"Student test accuracy after imitating the teacher's m auxiliary logits (m = {_words.values(final, 'm')}), by "
        f"condition: which layers the student draws anew. {_words.means(rows)} {_words.LEVELS}"
    )
