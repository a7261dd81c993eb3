"""Defences: what keeps a student from the trait, what it costs in imitation, and how many bits the trait needs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sublim_jax.results import plots, summary
from sublim_jax.results.figures import _words
from sublim_jax.results.figures._spec import FigureSpec, Panel

BATCH = 1000  # rows of a batch in the config
IMITATION = "at/aux_r2"
DEFAULTS: dict[str, Any] = {
    **{"pool": 0, "student_before": 0.0, "rotated": "none", "guard": "none"},
    **{"mixed": 0.0, "mixed_with": "untrained", "target_noise": 0.0, "levels": 0},
}
# The label that says how strong a defence is, and the name of the defence.
_KINDS = {
    "student_before": "noise on hidden layers, σ",
    "rotated": "rotated",
    "guard": "projection",
    "mixed": "mixed with the untrained",
    "mixed_unrelated": "mixed with an unrelated teacher",
    "target_noise": "noise on targets, σ",
    "levels": "levels",
}
_RANDOM, _FIXED = "new random head", "fixed answers, levels"
_ORDER = ("no defence", *_KINDS.values(), _RANDOM, _FIXED)
_SHORT = {
    **{"aux_head": "aux. head", "class_head": "class head", "project": "all weights"},
    **{"random_aux_head": "aux.", "random_class_head": "class"},
}


def _defences(final: summary.Rows) -> summary.Rows:
    """The rows with the kind of defence, its strength, and the bits in all distinct answers of the teacher.

    The bits are m N log2(levels), and NaN where logits are not quantised.
    """
    stranger = final["mixed_with"] == "stranger"
    final = final.assign(mixed_unrelated=final["mixed"].where(stranger, 0.0), mixed=final["mixed"].mask(stranger, 0.0))
    kinds, strengths = zip(*map(_defence, final.to_dict("records")), strict=True)
    batches = final["step"].where(final["pool"] == 0, np.minimum(final["pool"], final["step"]))
    bits = BATCH * final["m"] * batches * np.log2(final["levels"].where(final["levels"] > 0))
    answers = final["pool"].map(lambda pool: f"batches = {pool}" if pool else "new answers")
    return final.assign(kind=kinds, strength=strengths, bits=bits, answers=answers)


def _defence(row: dict[str, Any]) -> tuple[str, str]:
    """The kind and the strength of the first defence that a student has."""
    if row["pool"] != 0:
        return _FIXED, f"{row['levels']:g}, N = {plots.plain(BATCH * float(row['pool']))}"
    if row["condition"] != "same":
        return _RANDOM, str(_SHORT.get(row["condition"], row["condition"]))
    for name, kind in _KINDS.items():
        if (value := row[name]) not in (0, "none", ""):
            short = value if isinstance(value, str) else f"{value:g}"
            return kind, _SHORT.get(short, short.removeprefix("project_").replace("_", " "))
    return "no defence", ""


def _kinds(rows: summary.Rows) -> Iterator[tuple[str, int, summary.Rows]]:
    """Every kind of defence in the rows, with its index among all kinds, and its rows."""
    for index, kind in enumerate(_ORDER):
        if len(part := rows[rows["kind"] == kind]):
            yield kind, index, part


def _against_imitation(ax: Axes, rows: summary.Rows) -> None:
    for kind, index, part in _kinds(rows):
        colour, marker = (plots.look(_ORDER.index("levels"))[0], "<") if kind == _FIXED else plots.look(index)
        by = ["strength", "mixed_unrelated", "condition", *DEFAULTS]
        x, y = (summary.cells(part, by, column) for column in (IMITATION, plots.ACCURACY))
        means = [interval.mean for interval in x], [interval.mean for interval in y]
        style: dict[str, Any] = {"fmt": marker, "color": colour, "ms": 5, "lw": 1, "capsize": 2, "label": kind}
        ax.errorbar(*means, plots.ends(list(y)), plots.ends(list(x)), **style)
        for strength, across, up in zip(x.index.get_level_values("strength"), *means, strict=True):
            ax.annotate(strength, (across, up), (3, 3), textcoords="offset points", fontsize=5.5, color="0.25")
    plots.levels(ax, rows)
    plots.accuracy(ax)


def _accuracies(final: summary.Rows) -> str:
    """The lowest and the highest mean accuracy of every kind of defence."""
    texts = []
    for kind, _, part in _kinds(final):
        means = part.groupby(["strength", "mixed_unrelated", "condition", "m", *DEFAULTS])[plots.ACCURACY].mean()
        ends = dict.fromkeys((f"{means.min():.2f}", f"{means.max():.2f}"))
        texts.append(f"{kind} {' to '.join(ends)}")
    return "; ".join(texts)


defence = FigureSpec(
    title="What keeps a student from the trait, what it costs in imitation, and how many bits the trait needs",
    labels=("condition", "m", "layers"),
    defaults=DEFAULTS,
    prepare=_defences,
    panels=(
        Panel(
            column="",
            by="m",
            xlabel="imitation: variance of the teacher's logits explained",
            where=lambda rows: rows if _words.measured(rows, IMITATION) else rows.iloc[:0],
            also=(_against_imitation,),
        ),
        Panel(
            x="bits",
            lines=("m", "answers"),
            log={},
            xlabel="bits of all answers: m · N · log2(levels)",
            title="quantised logits",
            where=lambda rows: rows[rows["bits"] > 0],
        ),
    ),
    size=(4.4, 4.0),
    words={"accuracies": _accuracies},
    text=(
        "Student test accuracy against the share of variance of the teacher's own auxiliary logits that the student "
        "explains on held-out noise; a marker for each defence and strength. m = {m}. Accuracies: {accuracies}. Where "
        f"logits are quantised, right: against the bits of the {BATCH:,} answers of each batch."
    ),
)
