"""Noise on layers, at any of four moments."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

TIMINGS = {
    "teacher_before": "on the teacher, before its training",
    "teacher_after": "on the teacher, after its training",
    "student_before": "on the student, before its training",
    "student_after": "on the student, after its training",
}
LABELS = ("m", "layers", *TIMINGS)


def _final(rows: summary.Rows) -> summary.Rows:
    """The last mark, every row once for each moment at which it has noise, with `timing` and `sigma`."""
    final = summary.labelled(_words.last(rows, LABELS), layers="*", arm="")
    found = []
    for timing in TIMINGS:
        if timing in final:
            mine = final[(final[timing] > 0) | (final["arm"] == timing)]
            found.append(mine.assign(timing=timing, sigma=mine[timing]))
    found = pd.concat(found, ignore_index=True) if found else final.iloc[:0]
    return found if len(found) else final.assign(timing="student_before", sigma=0.0)


def draw(rows: pd.DataFrame) -> Figure:
    """One panel for each set of layers, one line for each moment; thin dashes: the teacher, where it is perturbed."""
    final = _final(rows)
    names = list(final["layers"].unique())
    figure, axes = plots.panels(len(names), size=(3.1, 2.7), sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        those = final[final["layers"] == name]
        _panel(ax, those, "m" if len(final["m"].unique()) > 1 else "")
        ax.set_title("all layers" if name in ("*", "all") else name.replace("_", " ").replace("+", ", "))
        ax.set_xlabel("σ of the noise")
    plots.outer(axes)
    if (final["sigma"] > 0).all():
        plots.log(axes[0], final["sigma"].unique(), most=5)
    plots.legend(figure, axes)
    return figure


def _panel(ax: Axes, rows: summary.Rows, several: str) -> None:
    for index, (timing, label) in enumerate(TIMINGS.items()):
        mine = rows[rows["timing"] == timing]
        for which, (which_m, those) in enumerate(plots.series(mine, (several,)) if len(mine) else ()):
            said = f"{label}, {which_m}" if several else label
            plots.line(ax, those, "sigma", said, index, ls=("-", "--", "-.", ":")[which % 4])
        if timing.startswith("teacher") and len(mine):
            grey = {"marker": "", "ls": "--", "lw": 0.9, "zorder": 0}
            plots.line(ax, mine, "sigma", "_nolegend_", index, "at/teacher_accuracy", **grey)
    still = rows[rows["timing"].str.startswith("student")]
    plots.levels(ax, still if len(still) else rows, ("teacher", "untrained") if len(still) else ("untrained",))
    plots.accuracy(ax)


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Student test accuracy against the standard deviation σ = {_words.values(final, 'sigma')} of Gaussian noise "
        f"on weights and biases, by layer (panels) and moment (lines); m = {_words.values(final, 'm')}. Coloured "
        f"dashes: the perturbed teacher itself. {_words.means(final)} "
        f"Grey: {_words.LEVELS[0].lower()}{_words.LEVELS[1:]}"
        f"{_words.left_out(rows, LABELS)}"
    )
