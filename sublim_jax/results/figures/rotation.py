"""Heads rotated at random: compatible up to a rotation of the latent?"""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("condition", "m", "rotated", "rotation")
_NAMES = {"none": "none", "aux_head": "aux\nhead", "class_head": "class\nhead"}
_BOTH = {"common": "both,\none rotation", "apart": "both,\neach its own"}


def _final(rows: summary.Rows) -> summary.Rows:
    """The last mark with what is rotated as `kind`."""
    final = summary.labelled(_words.last(rows, LABELS), rotated="none", rotation="common")

    def kind(rotated: str, rotation: str) -> str:
        return _BOTH[rotation] if "+" in rotated else _NAMES.get(rotated, rotated)

    pairs = zip(final["rotated"], final["rotation"], strict=True)
    return final.assign(kind=[kind(rotated, rotation) for rotated, rotation in pairs])


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy by the heads that begin rotated, one panel per m, one colour per condition."""
    final = _final(rows)
    widths = sorted(final["m"].unique())
    figure, axes = plots.panels(len(widths), columns=2, size=(4.6, 3.0), sharey=True)
    for ax, m in zip(axes, widths, strict=True):
        those = final[final["m"] == m]
        plots.strip(ax, those, "kind", "condition", order=(*_NAMES.values(), *_BOTH.values()))
        plots.levels(ax, those)
        ax.set(xlabel="heads that begin rotated", title=f"m = {m}")
        plots.accuracy(ax)
    plots.outer(axes, columns=2)
    plots.legend(figure, axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Student test accuracy by the heads that the student has rotated at random before training (W becomes R W "
        f"with a random orthogonal R), m = {_words.values(final, 'm')}; conditions: {_words.values(final, 'condition')}"
        f". Dots: seeds. {_words.means(final, 'bars')} {_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
