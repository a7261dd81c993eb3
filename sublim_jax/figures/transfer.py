"""Transfer: student accuracy by condition.

Against m where there are several, else every seed a dot; beside it the learning curves at the largest m, where there
are more than two marks.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax import plots, summary
from sublim_jax.figures import _words


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by condition and, where there are marks between, learning curves."""
    final = summary.last(rows)
    curves, widths = len(rows["step"].unique()) > 2, len(final["m"].unique())
    figure, axes = plots.panels(2 if curves else 1, size=(4.4, 3.6), sharey=True)
    if widths > 1:
        against_m(axes[0], final)
    else:
        plots.strip(axes[0], final, "condition")
        plots.levels(axes[0], final)
        axes[0].set_title(f"m = {final['m'].iloc[0]}; every dot a seed")
    if curves:
        m, those = _words.largest(rows, "m")
        _words.against(axes[1], those, "step", ("condition",))
        plots.levels(axes[1], those)
        axes[1].set(xlabel="student steps", title=f"learning curves, m = {m}")
    plots.accuracy(axes[0])
    plots.legend(figure, axes[-1:])
    return figure


def against_m(ax: Axes, final: pd.DataFrame, look: int = 0) -> None:
    """Accuracy against the width of the auxiliary head, one line per condition; `look` is the first one's colour."""
    for index, (label, those) in enumerate(plots.series(final, ("condition",)), start=look):
        plots.line(ax, those, "m", label, index)
    plots.levels(ax, final)
    plots.log(ax, final["m"].unique())
    ax.set(xlabel="auxiliary logits m")


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = summary.last(rows)
    return (
        f"Student test accuracy after imitating the teacher's m auxiliary logits (m = {_words.values(final, 'm')}), by "
        f"condition: which layers the student draws anew. {_words.means(rows)} {_words.LEVELS}"
    )
