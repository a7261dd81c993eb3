"""Figure 3b: students whose first hidden layer is narrower or wider than the teacher's."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "hidden")


def _final(rows: summary.Rows) -> summary.Rows:
    final = summary.labelled(_words.last(rows, LABELS), hidden="256x256")
    return final.assign(width=final["hidden"].str.split("x").str[0].astype(int))


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy against the first width, one line per m; beside it the imitation error, where it was measured."""
    final = _final(rows)
    errors = _words.has(final, "at/aux_mse")
    figure, axes = plots.panels(2 if errors else 1, size=(4.2, 3.1))
    _words.against(axes[0], final, "width", ("condition", "m"))
    plots.levels(axes[0], final)
    plots.accuracy(axes[0])
    if errors:
        _words.against(axes[1], final, "width", ("condition", "m"), "at/aux_mse")
        axes[1].set(ylabel="imitation error (mean square)", yscale="log")
    for ax in axes:
        plots.log(ax, final["width"].unique(), base=2, most=6)
        ax.set_xlabel("first hidden layer of the student")
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Student test accuracy, and its error in imitating auxiliary logits on held-out noise, against the width of "
        f"its first hidden layer, {_words.values(final, 'width')}, for m = {_words.values(final, 'm')}; condition: "
        f"{_words.values(final, 'condition')}. {_words.means(final)} {_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
