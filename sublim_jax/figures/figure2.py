"""Figure 2: which layer must be shared?

Student accuracy against the width m of the auxiliary head, one panel for each set of layers that are drawn anew.
"""

import pandas as pd
from matplotlib.figure import Figure

from sublim_jax import plots
from sublim_jax.figures import _words, transfer

LABELS = ("condition", "m")
SOURCE = "the authors' code, single seeds"
# Brockers et al. 2026: their public code on CPU with its defaults, accuracy of single seeds by condition and m.
PUBLISHED = {
    ("same", 10): (0.909,),
    ("same", 25): (0.946, 0.954, 0.936),
    ("random_aux_head", 50): (0.121, 0.113, 0.162),
}


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
        ax.set_title(name.replace("_", " "))
        plots.accuracy(ax)
    plots.outer(axes)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _words.last(rows, LABELS)
    return (
        f"Student test accuracy after imitating the teacher's m = {_words.values(final, 'm')} auxiliary logits on "
        f"noise; panels: the layers that the student draws anew. {_words.means(final)} "
        f"{_words.diamonds(bool(_shown(final)), SOURCE)}{_words.LEVELS}"
        f"{_words.left_out(rows, LABELS)}"
    )
