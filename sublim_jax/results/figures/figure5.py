"""Figure 5: a head perturbed by degrees."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

SIGMA = "student_before"
LABELS = ("m", "layers", SIGMA)
SOURCE = "single seeds of the authors' code"
# Brockers et al. 2026: their public code on CPU with its defaults, accuracy of single seeds by layer, sigma and m.
STEP = ("at/first_step_cosine", "theory/first_step_cosine")
NOISE = (
    ("theory/class_noise_accuracy", "predicted accuracy (D4)", plots.COLOURS[1]),
    ("theory/class_noise_upper", "runner-up bound (D4)", plots.COLOURS[5]),
    ("theory/class_noise_lower", "union bound (D4)", plots.COLOURS[4]),
)
PUBLISHED = {("aux_head", 0.05, 10): (0.405, 0.645, 0.554)}


def _final(rows: summary.Rows) -> summary.Rows:
    return summary.labelled(_words.last(rows, LABELS), layers="aux_head", **{SIGMA: 0.0})


def draw(rows: pd.DataFrame) -> Figure:
    """One panel per perturbed head: accuracy, and the head's likeness to the teacher's, against sigma."""
    final = _final(rows)
    names = list(final["layers"].unique())
    figure, axes = plots.panels(len(names), size=(4.3, 3.4), sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        _panel(ax, name, final[final["layers"] == name], _words.hidden(final)[-1])
    plots.outer(axes)
    plots.legend(figure, axes)
    return figure


def _spans(rows: summary.Rows, sigma: float) -> bool:
    return bool(rows[SIGMA].min() <= sigma <= rows[SIGMA].max())


def _drawn(final: summary.Rows) -> bool:
    """Whether a published value has a place in a panel."""
    panels = {name: final[final["layers"] == name] for name in final["layers"].unique()}
    return any(
        name in panels and m in set(panels[name]["m"]) and _spans(panels[name], sigma) for name, sigma, m in PUBLISHED
    )


def _panel(ax: Axes, name: str, rows: summary.Rows, d: int) -> None:
    """One head's panel; its initial weights have standard deviation 1 / sqrt(3 d)."""
    several = len(rows["m"].unique()) > 1
    for index, (m, those) in enumerate(rows.groupby("m")):
        plots.line(ax, those, SIGMA, "student's accuracy" + (f", m = {m}" if several else ""), index)
        for (layer, sigma, width), values in PUBLISHED.items():
            if (layer, width) == (name, m) and _spans(rows, sigma):
                plots.published(ax, [sigma] * len(values), values, label="published (authors' code)")
    for index, (pair, when) in enumerate((("init", "before"), ("final", "after"))):
        if _words.has(rows, column := f"at/cosine/teacher_student_{pair}/{name}"):
            style = {"color": plots.COLOURS[3], "marker": "", "ls": ("-", "--")[index]}
            plots.line(ax, rows, SIGMA, f"cosine to the teacher's head, {when} training", 0, column, **style)
    sigma = np.linspace(0, max(rows[SIGMA].max(), 1e-3), 200)
    ax.plot(sigma, (1 + 3 * d * sigma**2) ** -0.5, ":", color="0.15", lw=1.2, label="1 / √(1 + 3 d σ²)")
    _theory(ax, name, rows)
    plots.levels(ax, rows)
    plots.accuracy(ax, "accuracy, cosine")
    scale = (3 * d) ** 0.5
    top = ax.secondary_xaxis("top", functions=(lambda x: x * scale, lambda x: x / scale))
    top.set_xlabel("σ √(3 d)", fontsize=8)
    top.tick_params(labelsize=8)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("σ of the noise on the student's head")
    ax.set_title(name.replace("_", " "))


def _theory(ax: Axes, name: str, rows: summary.Rows) -> None:
    """Of the auxiliary head its first step (D2), measured and predicted; of the class head accuracy and bounds (D4)."""
    if name == "aux_head" and _words.has(rows, STEP[0]):
        style = {"color": plots.COLOURS[2], "marker": "."}
        plots.line(ax, rows, SIGMA, "cosine of the latent's first step", 0, STEP[0], **style)
        _words.predicted(ax, rows, SIGMA, STEP[1], "predicted (D2)", plots.COLOURS[2])
    for column, label, colour in NOISE if name == "class_head" else ():
        _words.predicted(ax, rows, SIGMA, column, label, colour)


def caption(rows: pd.DataFrame) -> str:
    """Of the figure these rows give."""
    final = _final(rows)
    return (
        f"Gaussian noise of standard deviation σ = {_words.values(final, SIGMA)} on weights and biases of one head of "
        f"the student ({_words.values(final, 'layers')}) before its training; m = {_words.values(final, 'm')}. Above: "
        f"σ in units of the head's own initial weights, d = {_words.hidden(final)[-1]}"
        f"{_words.assumed(final, 'net_hidden')}. {_words.means(final)} The black dotted curve is "
        f"the cosine that the noise alone must give. "
        f"{_words.diamonds(_drawn(final), SOURCE)}{_words.LEVELS}"
        f"{_words.theory(final, STEP[1], *(column for column, _, _ in NOISE))}"
        f"{_words.left_out(rows, LABELS)}"
    )
