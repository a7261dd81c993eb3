"""Figure 3d: a convolutional student of an MLP teacher, on smooth and on white noise."""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("m", "trunk", "stream", "hidden")


def _final(rows: summary.Rows) -> summary.Rows:
    final = summary.labelled(_words.last(rows, LABELS), trunk="cnn", stream="perlin")
    return final.assign(kind=final["trunk"].str.upper() + "\n" + final["stream"].str.capitalize() + " noise")


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by the student's architecture and its noise, one colour per m, every seed a dot."""
    final = _final(rows)
    figure, axes = plots.panels(1, size=(6.0, 3.1))
    plots.strip(axes[0], final, "kind", "m")
    plots.levels(axes[0], final)
    plots.accuracy(axes[0])
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Student test accuracy by the student's architecture ({_words.values(final, 'trunk')}) and noise "
        f"({_words.values(final, 'stream')}), m = {_words.values(final, 'm')}. The teacher is an MLP; heads are "
        f"shared, all other layers of the student random. Dots: seeds. {_words.means(final, 'bars')} {_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
