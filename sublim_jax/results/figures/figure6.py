"""Figure 6: the width of the latent, and frozen heads."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

LABELS = ("m", "net_hidden", "teacher_frozen", "frozen")
SOURCE = "single seeds of the authors' code"
# Brockers et al. 2026: their public code on CPU with its defaults, accuracy of single seeds by d and m, nothing frozen.
PUBLISHED = {(1024, 10): (0.925, 0.920, 0.883)}
FROZEN = {
    ("none", "none"): "no head frozen",
    ("class_head", "none"): "class head frozen (in the teacher)",
    ("none", "aux_head"): "aux head frozen (in the student)",
    ("class_head", "aux_head"): "both frozen",
}
DRIFTS = {
    "at/cosine/teacher_init_final/class_head": "teacher's class head, before and after",
    "at/cosine/teacher_student_final/aux_head": "aux heads of student and teacher",
}


def _final(rows: summary.Rows) -> summary.Rows:
    final = summary.labelled(_words.last(rows, LABELS), net_hidden="256x256", teacher_frozen="none", frozen="none")
    pairs = zip(final["teacher_frozen"], final["frozen"], strict=True)
    frozen = [FROZEN.get((teacher, student), f"{teacher}, {student} frozen") for teacher, student in pairs]
    return final.assign(frozen=frozen, d=final["net_hidden"].str.split("x").str[-1].astype(int))


def draw(rows: pd.DataFrame) -> Figure:
    """Accuracy against d, one line for each set of frozen heads; beside it how far the heads drift, none frozen."""
    final = _final(rows)
    free = final[final["frozen"] == FROZEN["none", "none"]]
    free = free if len(free) else final
    drifts = {column: label for column, label in DRIFTS.items() if _words.has(free, column)}
    figure, axes = plots.panels(2 if drifts else 1, size=(4.6, 3.4))
    _accuracies(axes[0], final, free)
    for index, (column, label) in enumerate(drifts.items()):
        plots.line(axes[1], free, "d", label, index + 4, column)
        expected = f"theory/{column.removeprefix('at/')}"
        _words.predicted(axes[1], free, "d", expected, "drift without direction (D7)", plots.look(index + 4)[0])
    if drifts:
        axes[1].set(ylim=(min(0.0, axes[1].get_ylim()[0]), 1.02), ylabel="cosine")
        axes[1].set_title("drift of the heads" + (", none frozen" if len(free) < len(final) else ""))
    for ax in axes:
        plots.log(ax, final["d"].unique())
        ax.set_xlabel("width d of the latent")
    plots.legend(figure, axes)
    return figure


def _has_place(final: summary.Rows, d: int, m: int) -> bool:
    return m in set(final["m"]) and bool(final["d"].min() <= d <= final["d"].max())


def _accuracies(ax: Axes, final: summary.Rows, free: summary.Rows) -> None:
    order = [name for name in FROZEN.values() if name in set(final["frozen"])]
    order += [name for name in final["frozen"].unique() if name not in order]
    widths = sorted(final["m"].unique())
    for index, name in enumerate(order):
        for which, m in enumerate(widths):
            those = final[(final["frozen"] == name) & (final["m"] == m)]
            label = name + (f", m = {m}" if len(widths) > 1 else "")
            if len(those):
                plots.line(ax, those, "d", label, index, ls=("-", "--", "-.")[which % 3])
    grey = {"marker": "", "lw": 1, "zorder": 0}
    if _words.has(free, "at/accuracy_c0_ht"):
        plots.line(ax, free, "d", "initial class head on the teacher's latent", 6, "at/accuracy_c0_ht", ls="-.", **grey)
    plots.line(ax, free, "d", "teacher", 0, "at/teacher_accuracy", color="0.4", ls="--", **grey)
    for (d, m), values in PUBLISHED.items():
        if _has_place(final, d, m):
            plots.published(ax, [d] * len(values), values, label="published (authors' code)")
    plots.accuracy(ax)


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    drawn = any(_has_place(final, d, m) for d, m in PUBLISHED)
    return (
        f"Student test accuracy against the width of the latent, d = {_words.values(final, 'd')}, m = "
        f"{_words.values(final, 'm')}. Freezing the class head acts on the teacher, freezing the auxiliary head on the "
        f"student; the published scripts exchange the two names. {_words.means(final)} Dash-dotted: the teacher's "
        "latent read by the initial class head, a reference level for students, whose class head is fixed; dashed: the "
        f"teacher. {_words.diamonds(drawn, SOURCE)}".rstrip()
        + _words.theory(final, *(f"theory/{column.removeprefix('at/')}" for column in DRIFTS))
        + _words.left_out(rows, LABELS)
    )
