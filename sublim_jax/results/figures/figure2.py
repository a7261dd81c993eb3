"""Figure 2: which layer must be shared?

Student accuracy against the width m of the auxiliary head, one panel for each set of layers that are drawn anew.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words, transfer

LABELS = ("condition", "m")
SOURCE = "the authors' code, single seeds"
# Brockers et al. 2026: their public code on CPU with its defaults, accuracy of single seeds by condition and m.
PUBLISHED = {
    ("same", 10): (0.909,),
    ("same", 25): (0.946, 0.954, 0.936),
    ("random_aux_head", 50): (0.121, 0.113, 0.162),
}


# What is predicted of a panel: column, what it is, colour. Of shared hidden layers both ways a signal can take.
_ORACLE = ("theory/oracle_accuracy", "fixed heads alone (D5)", plots.COLOURS[3])
_CEILING = ("theory/ceiling_accuracy", "initial class head on the teacher's latent", plots.COLOURS[6])
_RANDOM_HEAD = ("theory/class_noise_accuracy", "class head unknown (D4)", plots.COLOURS[2])
PREDICTED = {"same": (_CEILING, _ORACLE), "random_class_head": (_RANDOM_HEAD,), "random_aux_head": ()}
INSIDE = "at/inside_row_space"
_GREY = (
    " Grey: fraction of the student's latent displacement that lies in the span of its auxiliary head's weights, on "
    "held-out noise."
)


def _shown(final: pd.DataFrame) -> list[tuple[str, int]]:
    """Of the published values those that have a place in the figure."""
    conditions, widths = set(final["condition"]), set(final["m"])
    return [(condition, m) for condition, m in PUBLISHED if condition in conditions and m in widths]


def draw(rows: pd.DataFrame) -> Figure:
    """One panel per condition."""
    final = _words.last(rows, LABELS)
    names = list(final["condition"].unique())
    figure, axes = plots.panels(len(names), size=(3.1, 2.5), sharex=True, sharey=True)
    for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
        transfer.against_m(ax, final[final["condition"] == name], look=index)
        for (condition, m), values in PUBLISHED.items():
            if condition == name and (condition, m) in _shown(final):
                plots.published(ax, [m] * len(values), values)
        _theory(ax, name, final[final["condition"] == name])
        ax.set_title(name.replace("_", " "))
        plots.accuracy(ax)
    plots.outer(axes)
    plots.legend(figure, axes)
    return figure


def _theory(ax: Axes, name: str, rows: summary.Rows) -> None:
    for column, label, colour in PREDICTED.get(name, (_ORACLE,)):
        _words.predicted(ax, rows, "m", column, label, colour)
    if _words.has(rows, INSIDE):
        style = {"color": "0.55", "marker": ".", "lw": 0.8, "zorder": 1}
        plots.line(ax, rows, "m", "latent displacement in the head's span", 0, INSIDE, **style)


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _words.last(rows, LABELS)
    return (
        f"Student test accuracy after imitating the teacher's m = {_words.values(final, 'm')} auxiliary logits on "
        f"noise; panels: the layers that the student draws anew. {_words.means(final)} "
        f"{_words.diamonds(bool(_shown(final)), SOURCE)}{_words.LEVELS}"
        f"{_words.theory(final, *(column for column, _, _ in (_ORACLE, _CEILING, _RANDOM_HEAD)))}"
        f"{_GREY if _words.has(final, INSIDE) else ''}"
        f"{_words.left_out(rows, LABELS)}"
    )
