"""Figure 3c: a student with one hidden layer fewer, as many, or one more than its teacher."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "hidden")
SOURCE = "single seeds of the authors' code, one layer fewer, m = 50"
# Brockers et al. 2026: their public code on CPU with its defaults, accuracy of single seeds by hidden layers and m.
PUBLISHED = {("256", 50): (0.709, 0.609, 0.441)}


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by the student's hidden layers, one colour per m (one panel per condition), every seed a dot."""
    final = summary.labelled(_words.last(rows, LABELS), hidden="256x256")
    conditions = list(plots.series(final, ("condition",)))
    order = sorted(final["hidden"].unique(), key=lambda hidden: (hidden.count("x"), hidden))
    names = {hidden: hidden.replace("x", " × ") for hidden in order}
    figure, axes = plots.panels(len(conditions), size=(4.2, 3.1), sharey=True)
    for ax, (label, those) in zip(axes, conditions, strict=True):
        places = plots.strip(ax, those, "hidden", "m", names=names, order=order)
        for (hidden, m), values in PUBLISHED.items():
            if (hidden, m) in places:
                x = [places[hidden, m] + 0.12] * len(values)
                plots.published(ax, x, values, label="published (authors' code)")
        plots.levels(ax, those)
        ax.set(xlabel="hidden layers of the student", title=label if len(conditions) > 1 else "")
    plots.accuracy(axes[0])
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = summary.labelled(_words.last(rows, LABELS), hidden="256x256")
    drawn = any(one in PUBLISHED for one in zip(final["hidden"], final["m"], strict=True))
    return (
        f"Student test accuracy by the student's hidden layers ({_words.values(final, 'hidden')}), m = "
        f"{_words.values(final, 'm')}; heads are shared. Dots: seeds. {_words.means(final, 'bars')} "
        f"{_words.diamonds(drawn, SOURCE)}{_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
