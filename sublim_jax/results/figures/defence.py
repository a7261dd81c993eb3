"""What keeps a student from the trait, what it costs in imitation, and how many bits the trait needs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words

BATCH = 1000  # rows of a batch in the config
ANSWERS = ("mixed", "mixed_with", "target_noise", "levels")
LABELS = ("condition", "m", "pool", "student_before", "layers", "rotated", "guard", *ANSWERS)
DEFAULTS = {"pool": 0, "student_before": 0.0, "rotated": "none", "guard": "none", "mixed": 0.0, "target_noise": 0.0}
DEFAULTS |= {"mixed_with": "untrained"}
IMITATION = "at/aux_r2"
# A defence: the label that says how strong it is, its value where there is none, and how a reader calls it.
_KINDS = (
    ("student_before", "noise on hidden layers, σ"),
    ("rotated", "rotated"),
    ("guard", "projection"),
    ("mixed", "mixed with the untrained"),
    ("strangers", "mixed with a stranger"),
    ("target_noise", "noise on targets, σ"),
    ("levels", "levels"),
)
_ANEW, _FIXED = "new random head", "fixed answers, levels"
_ORDER = ("no defence", *(kind for _, kind in _KINDS), _ANEW, _FIXED)
_SHORT = {"aux_head": "aux. head", "class_head": "class head", "random_aux_head": "aux.", "random_class_head": "class"}


def _final(rows: summary.Rows) -> summary.Rows:
    """The rows of the last evaluation, with the `kind` of defence and its `strength`."""
    final = summary.labelled(_words.last(rows, LABELS), **DEFAULTS, levels=0)
    strange = final["mixed_with"] == "stranger"
    final = final.assign(strangers=final["mixed"].where(strange, 0.0), mixed=final["mixed"].mask(strange, 0.0))
    kinds, strengths = zip(*map(_told, final.to_dict("records")), strict=True)
    return final.assign(kind=kinds, strength=strengths, bits=_bits(final))


def _told(row: dict[str, object]) -> tuple[str, str]:
    if row["pool"] != 0:
        return _FIXED, f"{row['levels']:g}, N = {plots.plain(BATCH * float(str(row['pool'])))}"
    if row["condition"] != "same":
        return _ANEW, _SHORT.get(str(row["condition"]), str(row["condition"]))
    for name, kind in _KINDS:
        if row[name] not in (0, "none", ""):
            value = row[name]
            return kind, _said(value) if isinstance(value, str) else f"{value:g}"
    return "no defence", ""


def _said(name: str) -> str:
    return _SHORT.get(name, name.removeprefix("project_").replace("project", "all weights").replace("_", " "))


def _bits(final: summary.Rows) -> np.ndarray:
    """m N log2(levels): bits in all distinct answers of the teacher, NaN where its logits are not quantised."""
    batches = final["step"].where(final["pool"] == 0, np.minimum(final["pool"], final["step"]))
    levels = final["levels"].to_numpy(float)
    return final["m"].to_numpy(float) * BATCH * batches.to_numpy(float) * np.log2(np.where(levels > 0, levels, np.nan))


def _cells(rows: summary.Rows) -> Iterator[tuple[str, int, summary.Rows]]:
    """Every kind of defence in the rows, with its index among all kinds, and its rows."""
    for place, kind in enumerate(_ORDER):
        if (those := rows[rows["kind"] == kind]).size:
            yield kind, place, those


def draw(rows: pd.DataFrame) -> Figure:
    """For each m a panel of transfer against imitation; beside them transfer against bits."""
    final = _final(rows)
    widths = plots.ordered(final["m"])
    bits = final[np.isfinite(final["bits"])]
    counted = bits[bits["bits"] > 0]
    figure, axes = plots.panels(len(widths) + bool(len(counted)), size=(4.4, 4.0))
    for ax, m in zip(axes, widths, strict=False):
        _against_imitation(ax, final[final["m"] == m])
        ax.set_title(f"m = {m}")
        plots.accuracy(ax)
    if len(counted):
        _against_bits(axes[-1], counted, final)
        plots.accuracy(axes[-1])
    plots.legend(figure, axes)
    return figure


def _against_imitation(ax: Axes, rows: summary.Rows) -> None:
    measured = _words.has(rows, IMITATION)
    rows = rows if measured else rows.assign(**{IMITATION: 0.0})
    for kind, index, those in _cells(rows):
        colour, marker = plots.look(index) if kind != _FIXED else (plots.look(_ORDER.index("levels"))[0], "<")
        by = ["strength", "strangers", "student_before", "condition", "guard", "rotated", *ANSWERS, "pool"]
        x, y = (summary.cells(those, by, column) for column in (IMITATION, plots.ACCURACY))
        ax.errorbar(
            [one.mean for one in x],
            [one.mean for one in y],
            plots.ends(list(y)),
            plots.ends(list(x)),
            fmt=marker,
            color=colour,
            ms=5,
            lw=1,
            capsize=2,
            label=kind,
        )
        for key, across, up in zip(x.index, x, y, strict=True):
            ax.annotate(key[0], (across.mean, up.mean), (3, 3), textcoords="offset points", fontsize=5.5, color=colour)
    plots.levels(ax, rows)
    ax.set_xlabel("imitation: variance of the teacher's logits explained" if measured else "imitation: not measured")


def _against_bits(ax: Axes, counted: summary.Rows, final: summary.Rows) -> None:
    """One line for each m and number of answers over the levels."""
    for index, (label, those) in enumerate(plots.series(counted, ("m", "pool"))):
        plots.line(ax, those, "bits", label.replace("pool = 0", "new answers").replace("pool", "batches"), index)
    plots.levels(ax, final)
    plots.log(ax, counted["bits"].unique())
    ax.set(xlabel="bits of all answers: m · N · log2(levels)", title="quantised logits")


def caption(rows: pd.DataFrame) -> str:
    """The caption of the figure that these rows give."""
    final = _final(rows)
    measured = _words.has(final, IMITATION)
    found = [f"{kind} {_ends(those)}" for kind, _, those in _cells(final)]
    bits = final["bits"][final["bits"] > 0]
    channel = f" Right: against the bits of the {BATCH:,} answers of each batch." if len(bits) else ""
    return (
        f"Student test accuracy against the share of variance of the {'' if measured else '(unmeasured) '}teacher's "
        f"own auxiliary logits that the student explains on held-out noise; a marker for each defence and strength. "
        f"m = {_words.values(final, 'm')}. Accuracies: {'; '.join(found)}.{channel} "
        f"{_words.means(final, 'bars and bands')} {_words.LEVELS}{_words.left_out(rows, LABELS)}"
    )


def _ends(rows: summary.Rows) -> str:
    """The lowest and highest mean accuracy of some rows."""
    by = [name for name in summary.labels_of(rows) if name not in ("arm", "kind", "strength", "bits")]
    means = rows.groupby(by, dropna=False)[plots.ACCURACY].mean()
    low, high = f"{means.min():.2f}", f"{means.max():.2f}"
    return low if low == high else f"{low} to {high}"
