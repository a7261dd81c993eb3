"""When it fails: one panel for each way, with the bound that the theory draws there."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words, transfer

SIGMA = "student_before"
LABELS = ("m", "layers", SIGMA, "pool", "net_hidden", "lr", "frozen", "optimizer", "decay")


def draw(rows: pd.DataFrame) -> Figure:
    """A panel for each arm of the sweep; without arms, accuracy by condition."""
    final = _words.last(rows, (*LABELS, "arm"))
    arms = [arm for arm in PANELS if "arm" in final and arm in set(final["arm"])]
    if not arms:
        return transfer.draw(rows)
    figure, axes = plots.panels(len(arms), size=(3.7, 3.3))
    for ax, arm in zip(axes, arms, strict=True):
        PANELS[arm](ax, final[final["arm"] == arm])
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6.5, loc="best")
    return figure


def _noise(ax: Axes, rows: summary.Rows, head: str) -> None:
    for index, (m, those) in enumerate(rows.groupby("m")):
        plots.line(ax, those, SIGMA, f"m = {m}", index)
        if head == "class":
            _words.predicted(ax, those, SIGMA, "theory/class_noise_accuracy", "", plots.look(index)[0])
        else:
            _words.predicted(ax, those, SIGMA, "theory/first_step_cosine", "", plots.look(index)[0])
    plots.accuracy(ax)
    what = "accuracy (D4)" if head == "class" else "first step's cosine (D2)"
    ax.plot([], [], "--", color="0.4", label=f"predicted {what}")
    ax.set(xlabel="σ of the noise", title=f"noise on the {'auxiliary' if head == 'aux' else 'class'} head")


def _targets(ax: Axes, rows: summary.Rows) -> None:
    """Accuracy against targets per weight, to see whether all widths m fall on one curve that rises at 1."""
    column, what = "theory/equations_per_weight", "targets m N per weight"
    if _words.has(rows, column):
        ax.axvline(1, color="0.4", ls="--", lw=0.8, zorder=0, label="as many targets as weights (D6)")
    else:  # rows without predictions
        batches = rows["pool"].where(rows["pool"] > 0, rows["step"]).clip(upper=rows["step"])
        rows, what = rows.assign(**{column: rows["m"] * batches}), "m times batches of images"
    for index, (m, those) in enumerate(rows.groupby("m")):
        plots.line(ax, those.assign(ratio=those[column].round(6)), "ratio", f"m = {m}", index)
    plots.log(ax, rows[column].unique(), most=5)
    plots.accuracy(ax)
    ax.set(xlabel=what, title=f"too few images, T = {int(rows['step'].max())}")


def _width(ax: Axes, rows: summary.Rows) -> None:
    rows = summary.labelled(rows, frozen="none")
    rows = rows.assign(d=rows["net_hidden"].str.split("x").str[-1].astype(int))
    rates = sorted(rows["lr"].unique(), reverse=True)
    for index, rate in enumerate(rates):
        for frozen, dashes in (("none", "-"), ("aux_head", ":")):
            those = rows[(rows["lr"] == rate) & (rows["frozen"] == frozen)]
            if len(those):
                also = "" if frozen == "none" else ", aux head frozen"
                plots.line(ax, those, "d", f"lr {rate:g}{also}", index, ls=dashes)
    if _words.has(rows, "theory/ceiling_accuracy"):
        teachers = rows.drop_duplicates(["d", "seed"])  # the same under every rate
        _words.predicted(ax, teachers, "d", "theory/ceiling_accuracy", "level acc(C_0 h_t)", "0.4")
    plots.log(ax, rows["d"].unique(), base=4)
    plots.accuracy(ax)
    ax.set(xlabel="width d of the latent", title="wide latents")


def _decay(ax: Axes, rows: summary.Rows) -> None:
    """Zero decay is drawn a decade left of the smallest decay, because the axis is logarithmic."""
    least = rows.loc[rows["decay"] > 0, "decay"].min() / 10 if (rows["decay"] > 0).any() else 1e-6
    rows = rows.assign(place=rows["decay"].where(rows["decay"] > 0, least))
    names = {"adam_l2": "Adam, L2 in the gradient", "adamw": "AdamW, decoupled"}
    for index, (name, those) in enumerate(rows.groupby("optimizer")):
        plots.line(ax, those, "place", names.get(str(name), str(name)), index)
        column = "at/cosine/student_init_final/class_head"
        if _words.has(those, column):
            style = {"ls": ":", "marker": ".", "color": plots.look(index)[0]}
            plots.line(ax, those, "place", "class head, cosine to its beginning", index, column, **style)
    plots.log(ax, rows["place"].unique(), most=6)
    ticks = sorted(rows["place"].unique())
    ax.set_xticks(ticks, ["0" if tick == least else plots.plain(tick) for tick in ticks], fontsize=7)
    plots.accuracy(ax, "accuracy, cosine")
    ax.set(xlabel="weight decay of the student", title="decaying heads (D9)")


PANELS = {
    "aux_noise": lambda ax, rows: _noise(ax, rows, "aux"),
    "class_noise": lambda ax, rows: _noise(ax, rows, "class"),
    "targets": _targets,
    "width": _width,
    "decay": _decay,
}


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    final = _words.last(rows, (*LABELS, "arm"))
    return (
        "Student test accuracy where subliminal learning fails: noise on the student's auxiliary head, on its class "
        "head, a few images that are repeated, wide latents, and weight decay in the student. "
        f"m = {_words.values(final, 'm')}. {_words.means(final)} Dashed: what docs/theory.md predicts there; of "
        "noise on the auxiliary head not the accuracy but the cosine of the first step, of wide latents the level that "
        "the initial class head reaches on the teacher's latent. Dotted: auxiliary head frozen, and, with "
        "decay, the cosine of the student's class head, which no gradient reaches, with its beginning."
        f"{_words.left_out(rows, LABELS)}"
    )
